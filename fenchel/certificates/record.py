"""The record of a proof: everything that is needed to prove a bracket again, as exact numbers in JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Certificate:
    """A claim lower <= quantity <= upper with its proof, to be checked by `fenchel.check`.

    The keys of `to_dict`: version, claim (quantity, lower, upper), loss, family, moments, majorant, atoms, weights,
    proof. Numbers are strings that read back exactly: hexadecimal floats or ratios of integers.
    """

    record: dict[str, Any]

    def __repr__(self) -> str:
        claim = self.record.get("claim", {})
        lower, upper = (float.fromhex(claim.get(end)) for end in ("lower", "upper"))
        return f"Certificate({lower!r} <= {claim.get('quantity')} <= {upper!r})"

    def to_dict(self) -> dict[str, Any]:
        """A copy, made of what JSON knows."""
        return dict(json.loads(json.dumps(self.record)))

    def majorant(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """The quadratic Q above the loss, of a certificate of f**: (n, P) -> (n,)."""
        q = self.record["majorant"]
        step = np.asarray(theta, dtype=float) - _floats(q["center"])
        block = _floats(q["curvature"])
        return np.asarray(
            float(_floats(q["constant"])) + step @ _floats(q["slope"]) + np.sum(step @ block * step, axis=1)
        )

    def boxes(self) -> NDArray[np.float64]:
        """The corners (B, 2^P, P) of the boxes that prove the majorant, in theta."""
        proof = self.record["proof"]["lower"]
        origin, basis = _floats(proof["origin"]), _floats(proof["basis"])
        dim = origin.size
        radius = float.fromhex(proof["root"]["radius"])
        stack = [(np.full(dim, -radius), np.full(dim, radius))]
        found = []
        for axis, number, *_ in proof["tree"]:
            lo, hi = stack.pop()
            if axis < 0:  # closed
                found.append([np.where(corner, hi, lo) for corner in np.ndindex(*[2] * dim)])
                continue
            above, below = lo.copy(), hi.copy()
            above[axis] = below[axis] = float.fromhex(number)
            stack += [(above, hi), (lo, below)]
        return np.asarray(origin + np.array(found) @ basis.T)

    def save(self, path: str | Path) -> None:
        """Write the certificate as JSON."""
        Path(path).write_text(json.dumps(self.record, separators=(",", ":")) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """Read a certificate; ValueError with the file's name where it is not one."""
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a certificate: {error}") from error
        if not isinstance(record, dict) or "claim" not in record:
            raise ValueError(f"{path} is not a certificate: it has no claim")
        return cls(record)


def _floats(numbers: Any) -> NDArray[np.float64]:
    """Nested lists of hexadecimal floats as an array."""
    if isinstance(numbers, list):
        return np.array([_floats(part) for part in numbers], dtype=float)
    return np.array(float.fromhex(numbers))
