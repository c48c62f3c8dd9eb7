"""The fused kernels on a CPU: by Triton's interpreter, and compiled; in processes of their own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fenchel.optim import BSAM


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize(
    ("script", "word"), [("fused_cases.py", "fused kernels checked"), ("fused_compiles.py", "fused kernels compiled")]
)
def test_fused_kernels_in_the_interpreter_and_the_compiler(script: str, word: str) -> None:
    command = [sys.executable, str(Path(__file__).with_name(script))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert word in done.stdout


def test_fused_says_why_it_cannot_be() -> None:
    p = nn.Parameter(torch.ones(3))
    opt = BSAM([p], 0.1, num_data=10, rho=0.1, fused=True)
    with pytest.raises(ValueError, match="fused=True cannot be: they need a CUDA device"):
        opt.begin()
    with pytest.raises(ValueError, match="fused must be True, False or None"):
        BSAM([p], 0.1, num_data=10, rho=0.1, fused="yes")  # type: ignore[arg-type]
