"""The loss sum_i w_i g(x_i.theta + o_i): exact values, and quadratics above it on boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flint import arb, arb_mat, fmpq

from fenchel.checker.links import Link, link_of
from fenchel.checker.numbers import Refused, balls, column, exacts

__all__ = ["Group", "Terms"]

Quadratic = tuple[arb, arb_mat, arb_mat]


@dataclass
class Group:
    """Terms of one link: rows (n, P), offsets and weights (n,), exact and as balls."""

    link: Link
    rows: list[list[fmpq]]
    offsets: list[fmpq]
    weights: list[arb]

    @classmethod
    def read(cls, record: Any, dim: int) -> Group:
        offsets = record.get("offsets")
        count = len(offsets) if isinstance(offsets, list) else 0
        weights = balls(record.get("weights"), count).entries()
        if not all(w >= 0 for w in weights):
            raise Refused("a term has a negative weight")
        return cls(link_of(record), exacts(record.get("rows"), count, dim), exacts(offsets, count), weights)

    def value(self, theta: list[fmpq]) -> arb:
        """The sum at an exact point; predictors are exact, so that a jump is on the right side."""
        total = arb(0)
        for row, offset, weight in zip(self.rows, self.offsets, self.weights, strict=True):
            z = sum((x * t for x, t in zip(row, theta, strict=True)), offset)
            total += weight * self.link.value(arb(z))
        return total


class Terms:
    """The groups in coordinates u: theta = origin + basis u."""

    def __init__(self, groups: list[Group], origin: arb_mat, basis: arb_mat) -> None:
        self.dim = basis.ncols()
        self.groups = groups
        self.rows: list[arb_mat] = []
        self.offsets: list[arb_mat] = []
        self.sizes: list[arb_mat] = []
        for g in groups:
            rows = arb_mat(len(g.rows), origin.nrows(), [arb(x) for row in g.rows for x in row])
            self.rows.append(rows * basis)
            self.offsets.append(rows * origin + column([arb(o) for o in g.offsets]))
            entries = [x.abs_upper() for x in self.rows[-1].entries()]
            self.sizes.append(arb_mat(len(g.rows), self.dim, entries))

    def anchor(self, u: arb_mat) -> Anchor:
        """What a tangent at u needs."""
        value, slope, links = arb(0), column([arb(0)] * self.dim), []
        for g, rows, offsets in zip(self.groups, self.rows, self.offsets, strict=True):
            z = (rows * u + offsets).entries()
            if g.link.jump:
                links.append((z, z, z))
                continue
            at = [g.link.value(x) for x in z]
            rise = [g.link.slope(x) for x in z]
            value += sum((w * v for w, v in zip(g.weights, at, strict=True)), arb(0))
            slope += rows.transpose() * column([w * s for w, s in zip(g.weights, rise, strict=True)])
            links.append((z, at, rise))
        return Anchor(u, value, slope, links)

    def above(self, anchor: Anchor, center: arb_mat, half: arb_mat, jumps: list[arb], *, chords: bool) -> Quadratic:
        """(v, s, K): v + s.d + d^T K d / 2, d = u - center, lies above the sum on the box |d| <= half."""
        shift = center - anchor.u
        bent = _zero(self.dim)
        extra_v, extra_s, extra_k = arb(0), column([arb(0)] * self.dim), _zero(self.dim)
        slopes = iter(jumps)
        for g, rows, offsets, sizes, link in zip(
            self.groups, self.rows, self.offsets, self.sizes, anchor.links, strict=True
        ):
            middle, reach = (rows * center + offsets).entries(), (sizes * half).entries()
            own, bends = [], []
            for i, (w, z, r) in enumerate(zip(g.weights, middle, reach, strict=True)):
                lo, hi = (z - r).lower(), (z + r).upper()
                z0, g0, s0 = link[0][i], link[1][i], link[2][i]
                if g.link.jump:
                    own.append((i, w, z, arb(0), arb(0), g.link.parabola(next(slopes, arb(0)), lo, hi)))
                    bends.append(arb(0))
                    continue
                chord = g.link.chord(lo, hi) if chords else None
                if chord is not None:
                    own.append((i, w, z, g0 + s0 * (z - z0), s0, (chord[0] - chord[1] * lo, chord[1], arb(0))))
                    bends.append(arb(0))
                    continue
                bend = g.link.bend(z0, g0, s0, lo, hi)
                if bend is None:
                    raise Refused("a box has its anchor on a kink")
                bends.append(w * bend)
            bent += _gram(rows, bends, self.dim)
            for i, w, z, had_v, had_s, (c, a, b) in own:
                # This term's parabola in place of the tangent that the anchor's sums hold.
                row = column([rows[i, j] for j in range(self.dim)])
                extra_v += w * (c + a * z + b * z * z / 2 - had_v)
                extra_s += w * (a + b * z - had_s) * row
                extra_k += (w * b) * (row * row.transpose())
        turn = bent * shift
        value = anchor.value + (shift.transpose() * (anchor.slope + turn / 2))[0, 0] + extra_v
        return value, anchor.slope + turn + extra_s, bent + extra_k

    def everywhere(self, anchor: Anchor, spread: arb) -> Quadratic:
        """(k, l, K): k + l.u + u^T K u / 2 lies above the sum for all u."""
        value, slope, matrix = arb(0), column([arb(0)] * self.dim), _zero(self.dim)
        for g, rows, offsets, link in zip(self.groups, self.rows, self.offsets, anchor.links, strict=True):
            parts = [g.link.everywhere((z * z + spread * spread).sqrt()) for z in link[0]]
            o = offsets.entries()
            for w, (c, a, b), z in zip(g.weights, parts, o, strict=True):
                value += w * (c + a * z + b * z * z / 2)
            weighted = [w * (a + b * z) for w, (_, a, b), z in zip(g.weights, parts, o, strict=True)]
            slope += rows.transpose() * column(weighted)
            matrix += _gram(rows, [w * b for w, (_, _, b) in zip(g.weights, parts, strict=True)], self.dim)
        return value, slope, matrix


@dataclass
class Anchor:
    """A point u, the sum of the smooth terms and its slope there, and (z, g, g') of every term."""

    u: arb_mat
    value: arb
    slope: arb_mat
    links: list[Any]


def _zero(dim: int) -> arb_mat:
    return arb_mat(dim, dim)


def _gram(rows: arb_mat, weights: list[arb], dim: int) -> arb_mat:
    """rows^T diag(weights) rows."""
    entries = rows.entries()
    scaled = [w * entries[i * dim + j] for i, w in enumerate(weights) for j in range(dim)]
    return rows.transpose() * arb_mat(len(weights), dim, scaled)
