"""The record of a proof: everything that is needed to prove a bracket again, as exact numbers in JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.losses import Loss, UserLoss
from fenchel.losses.expression import ExpressionLoss
from fenchel.losses.linear_predictor import LinearPredictorLoss
from fenchel.losses.links import AbsLink, BumpLink, HuberLink, IndicatorLink, ReLULink, SoftplusLink
from fenchel.losses.more_links import SquaredReLULink

__all__ = ["Certificate", "hexes", "loss_record"]

Array = NDArray[np.float64]
_NAMES = {
    SoftplusLink: "softplus",
    ReLULink: "relu",
    AbsLink: "absolute",
    HuberLink: "huber",
    BumpLink: "bump",
    IndicatorLink: "indicator",
    SquaredReLULink: "squared-relu",
}


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


def hexes(value: Any) -> Any:
    """Numbers (floats, Fractions, arrays, nested lists of them) as strings that read back exactly."""
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return hexes(value.item())
    if isinstance(value, (list, tuple, np.ndarray)):
        return [hexes(part) for part in value]
    return float(value).hex()


def loss_record(loss: Loss) -> dict[str, Any]:
    """The loss as the checker reads it.

    Raises:
        ValueError: a loss of callables, of which nothing can be checked.
    """
    if isinstance(loss, ExpressionLoss):
        return loss.record()
    if isinstance(loss, LinearPredictorLoss):
        groups = []
        for group in loss.groups:
            if type(group.link) not in _NAMES:
                raise ValueError(f"a certificate cannot hold {group.link!r}, which is given by callables")
            record: dict[str, Any] = {"link": _NAMES[type(group.link)]}
            if isinstance(group.link, HuberLink):
                record["delta"] = hexes(group.link.delta)
            record |= {name: hexes(getattr(group, name)) for name in ("rows", "offsets", "weights")}
            groups.append(record)
        quadratic = {name: hexes(getattr(loss, name)) for name in ("H", "b", "c")}
        return {"kind": "linear-predictors", "dim": loss.dim, **quadratic, "groups": groups}
    kind = "callables" if isinstance(loss, UserLoss) else type(loss).__name__
    raise ValueError(
        f"a loss given by {kind} cannot be put into a certificate, since nobody else could evaluate it; "
        "write it with losses.from_expression"
    )
