"""Numbers as text that reads back exactly: hexadecimal floats, ratios of integers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np


def hexes(value: Any) -> Any:
    """Numbers (floats, Fractions, arrays, nested lists of them) as strings that read back exactly."""
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return hexes(value.item())
    if isinstance(value, (list, tuple, np.ndarray)):
        return [hexes(part) for part in value]
    return float(value).hex()
