"""In-place kernels over lists of tensors, computed in one of three ways.

- `fused`: compiled passes that read and write every number once; for float32 weights on CPUs.
- `loop`: torch's own kernels, tensor by tensor, with `out=`: every pass over memory counts on a CPU.
- `foreach`: torch's kernels over lists: every launch counts on an accelerator.

All compute the elementwise expressions of `fenchel.optim.functional`.
"""
