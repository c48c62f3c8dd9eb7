"""Optimizers of the paper for PyTorch: bSAM and the methods it is compared with."""

from fenchel.optim.bsam import BSAM
from fenchel.optim.sam import SAM

__all__ = ["BSAM", "SAM"]
