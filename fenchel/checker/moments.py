"""Atoms with exactly the moments of q, after a correction of the weights in rational arithmetic."""

from __future__ import annotations

from typing import Any

from flint import fmpq, fmpq_mat

from fenchel.checker.numbers import Refused, exact, exacts

__all__ = ["Moments"]


class Moments:
    """The family, the mean (P,) and the covariance as the family sees it: (P, P), the diagonal (P,), or a number."""

    def __init__(self, family: Any, record: Any, dim: int) -> None:
        if family not in ("full", "diagonal", "isotropic"):
            raise Refused(f"{family!r} is not a family")
        self.family, self.dim = family, dim
        self.mean = exacts(record.get("mean"), dim)
        block = record.get("covariance")
        if family == "full":
            self.second = exacts(block, dim, dim)
            if any(self.second[i][j] != self.second[j][i] for i in range(dim) for j in range(i)):
                raise Refused("the covariance is not symmetric")
        else:
            self.second = exacts(block, dim) if family == "diagonal" else [exact(block)]

    def matrix(self, block: Any) -> list[list[fmpq]]:
        """A second-order coefficient in the family's own shape as a matrix (P, P)."""
        n = range(self.dim)
        if self.family == "full":
            rows = exacts(block, self.dim, self.dim)
            if any(rows[i][j] != rows[j][i] for i in n for j in range(i)):
                raise Refused("a second-order coefficient is not symmetric")
            return rows
        diagonal = exacts(block, self.dim) if self.family == "diagonal" else [exact(block)] * self.dim
        return [[diagonal[i] if i == j else fmpq(0) for j in n] for i in n]

    def expected(self, center: list[fmpq], u: fmpq, v: list[fmpq], w: list[list[fmpq]]) -> fmpq:
        """E[u + v.(theta - center) + (theta - center)^T w (theta - center)] for every distribution with the moments."""
        n = range(self.dim)
        off = [m - c for m, c in zip(self.mean, center, strict=True)]
        total: fmpq = u + sum((v[i] * off[i] for i in n), fmpq(0))
        total += sum((w[i][j] * off[i] * off[j] for i in n for j in n), fmpq(0))
        if self.family == "isotropic":
            total += w[0][0] * self.dim * self.second[0]
        elif self.family == "diagonal":
            total += sum((w[i][i] * self.second[i] for i in n), fmpq(0))
        else:
            total += sum((w[i][j] * self.second[i][j] for i in n for j in n), fmpq(0))
        return total

    def _features(self, step: list[fmpq]) -> list[fmpq]:
        """(1, d, second-order block of d), d = theta - mean."""
        n = range(self.dim)
        if self.family == "full":
            second = [step[i] * step[j] for i in n for j in range(i, self.dim)]
        elif self.family == "diagonal":
            second = [step[i] * step[i] for i in n]
        else:
            second = [sum((s * s for s in step), fmpq(0))]
        return [fmpq(1), *step, *second]

    def _target(self) -> list[fmpq]:
        n = range(self.dim)
        if self.family == "full":
            second = [self.second[i][j] for i in n for j in range(i, self.dim)]
        else:
            second = self.second if self.family == "diagonal" else [self.second[0] * self.dim]
        return [fmpq(1), *([fmpq(0)] * self.dim), *second]

    def corrected(self, atoms: Any, weights: Any, proof: Any) -> tuple[list[list[fmpq]], list[fmpq]]:
        """Atoms and weights >= 0 with exactly the moments: a share of the mass goes to points around the mean.

        Their weights are the least change of equal ones that mends the moments (a rational linear system).
        """
        count = len(atoms) if isinstance(atoms, list) else 0
        points, mass = exacts(atoms, count, self.dim), exacts(weights, count)
        share = exact(proof.get("share"))
        spread = exacts(proof.get("spread"), self.dim, self.dim)
        if not 0 < share <= 1 or any(w < 0 for w in mass):
            raise Refused("the weights or the share of the correction are out of range")
        total = sum(mass, fmpq(0))
        if count and not total > 0:
            raise Refused("the weights have no mass")
        mass = [w * (1 - share) / total for w in mass]
        moments = self._target()
        for point, w in zip(points, mass, strict=True):
            step = [a - b for a, b in zip(point, self.mean, strict=True)]
            moments = [m - w * f for m, f in zip(moments, self._features(step), strict=True)]
        if share == 1 and count:
            raise Refused("the correction leaves no mass to the atoms")
        around = [self._around(z, spread) for z in _pattern(self.dim, self.family)]
        extra = self._weights(around, [m / share for m in moments])
        points += [[m + s for m, s in zip(self.mean, step, strict=True)] for step in around]
        mass += [share * w for w in extra]
        if any(w < 0 for w in mass):
            raise Refused("the atoms' moments are too far from those of q")
        return points, mass

    def _around(self, z: list[int], spread: list[list[fmpq]]) -> list[fmpq]:
        return [sum((row[j] * z[j] for j in range(self.dim)), fmpq(0)) for row in spread]

    def _weights(self, around: list[list[fmpq]], target: list[fmpq]) -> list[fmpq]:
        """Weights of the points with these features' mean, as near as can be to those for whitened moments."""
        count, size = len(around), len(target)
        far = 1 + _root(self.dim)
        each = fmpq(1, far * far * (2 if self.family != "full" else 4 * self.dim - 2))
        equal = [1 - each * (count - 1)] + [each] * (count - 1)
        features = fmpq_mat(
            size, count, [x for column in zip(*map(self._features, around), strict=True) for x in column]
        )
        short = fmpq_mat(size, 1, target) - features * fmpq_mat(count, 1, equal)
        try:
            change = features.transpose() * (features * features.transpose()).solve(short)
        except ZeroDivisionError as error:
            raise Refused("the spread of the correction is singular") from error
        return [a + b for a, b in zip(equal, change.entries(), strict=True)]


def _root(dim: int) -> int:
    far = 1
    while (far + 1) ** 2 <= dim:
        far += 1
    return far


def _pattern(dim: int, family: str) -> list[list[int]]:
    """0, and the +-(axes) at a distance; for the full family also +-(sums and differences of two axes)."""
    far = 1 + _root(dim)
    n = range(dim)
    lines = [[far * int(i == k) for i in n] for k in n]
    if family == "full":
        lines += [
            [far * (int(i == k) + sign * int(i == m)) for i in n] for k in n for m in range(k) for sign in (1, -1)
        ]
    return [[0] * dim] + lines + [[-x for x in line] for line in lines]
