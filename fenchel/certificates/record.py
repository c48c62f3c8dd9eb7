"""The record of a proof: everything that is needed to prove a bracket again, as exact numbers in JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Certificate"]


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
