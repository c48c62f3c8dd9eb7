"""How the commands of this checkout end. It imports nothing of `fenchel`, which takes a second."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn


def leave_with(main: Callable[[], int]) -> NoReturn:
    """Exit with what ``main`` returns. A reader that has seen enough, such as `head`, is no failure."""
    try:
        code = main()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        code = 0
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        code = 1
        print(f"error: {error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
