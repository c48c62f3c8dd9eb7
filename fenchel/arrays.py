"""The arrays of the theory: float64, the shape in the docstrings."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
