"""The moves of Algorithm 1 on buckets of parameters, computed in one of two ways.

- `bucket`: torch's own functions over lists of tensors; any device and precision. It chooses.
- `fused`: one Triton launch a move for all parameters of a CUDA device and precision.

Both have the same moves and compute the elementwise expressions of `fenchel.optim.functional`.
"""
