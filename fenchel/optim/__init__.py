"""Optimizers of the paper for PyTorch: bSAM, and the methods it is compared with.

`BSAM` and `SAM` take closures; `VOGN` takes per-example losses; `IVON` closures; `SWAG` watches another optimizer.
"""

from fenchel.errors import need_torch

need_torch("fenchel.optim")

from fenchel.optim.batch_norm import frozen_statistics, reestimate_statistics
from fenchel.optim.bsam import BSAM
from fenchel.optim.closures import ClosureError, SettingsWarning
from fenchel.optim.cuda_graph import GraphedStep
from fenchel.optim.distributed import broadcast_module
from fenchel.optim.ivon import IVON
from fenchel.optim.sam import SAM, UncorrectedAdam
from fenchel.optim.swag import SWAG
from fenchel.optim.vectorized import functional_loss, split_batch
from fenchel.optim.vogn import VOGN, per_example_loss

__all__ = [
    "BSAM",
    "IVON",
    "SAM",
    "SWAG",
    "VOGN",
    "ClosureError",
    "GraphedStep",
    "SettingsWarning",
    "UncorrectedAdam",
    "broadcast_module",
    "frozen_statistics",
    "functional_loss",
    "per_example_loss",
    "reestimate_statistics",
    "split_batch",
]
