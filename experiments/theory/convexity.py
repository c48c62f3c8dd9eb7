"""Claim A1: f** is convex in mu, lies below f, and no larger closed convex minorant exists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.registry import Claim, settle
from experiments.theory.theorem1_cases import random_gaussians
from fenchel import Gaussian, biconjugate, expected_loss
from fenchel import losses as L

_TOL = 1e-6


def convexity_on_segments(loss: L.Loss, structure: str, count: int, seed: int) -> dict[str, float]:
    """Worst excess of f** over its chord on random segments in mu, and of f** over f (both should not be positive)."""
    above_chord, above_f, chord_gap = -np.inf, -np.inf, 0.0
    pairs = random_gaussians(loss.dim, 2 * count, structure, seed)
    rng = np.random.default_rng(seed + 1)
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        share = float(rng.uniform(0.1, 0.9))
        mu = [share * a + (1.0 - share) * b for a, b in zip(first.expectation(), second.expectation(), strict=True)]
        middle = Gaussian.from_expectation(*mu)
        ends = [biconjugate(loss, q, tol=1e-9) for q in (first, second)]
        inside = biconjugate(loss, middle, tol=1e-9)
        chord = share * ends[0].upper + (1.0 - share) * ends[1].upper
        scale = 1.0 + abs(chord)
        above_chord = max(above_chord, (inside.lower - chord) / scale)
        chord_gap = max(chord_gap, (chord - inside.upper) / scale)
        above_f = max(above_f, (inside.lower + expected_loss(loss, middle)) / scale)
    return {"above_chord": above_chord, "above_f": above_f, "largest_convexity": chord_gap}


def largest_minorant(loss: L.Loss, q: Gaussian, narrow: float = 1e-4) -> dict[str, float]:
    """f at narrow Gaussians on the worst-case atoms bounds every convex minorant of f at mu from above.

    Atoms theta_k and weights w_k are those of N(m, S - delta I), so that sum w_k mu(N(theta_k, delta I)) = mu exactly
    and any convex g <= f has g(mu) <= sum w_k f(N(theta_k, delta I)).
    """
    delta = narrow**2
    cov = q.cov - delta * np.eye(q.dim)
    block: Any = {"full": cov, "diagonal": np.diag(cov), "isotropic": float(np.trace(cov) / q.dim)}[q.structure]
    inner = biconjugate(loss, Gaussian(q.mean, block), tol=1e-9)
    here = biconjugate(loss, q, tol=1e-9)
    size: Any = {"full": delta * np.eye(q.dim), "diagonal": np.full(q.dim, delta), "isotropic": delta}[q.structure]
    members = [Gaussian(theta, size) for theta in inner.atoms]
    bound = -float(sum(w * expected_loss(loss, g) for w, g in zip(inner.weights, members, strict=True)))
    moments = [sum(w * g.expectation()[k] for w, g in zip(inner.weights, members, strict=True)) for k in (0, 1)]
    miss = max(float(np.abs(a - b).max()) for a, b in zip(moments, q.expectation(), strict=True))
    scale = 1.0 + abs(here.value)
    return {"room": (bound - here.lower) / scale, "moment_error": miss}


def claim_a1(segments: Mapping[str, Mapping[str, float]], minorants: Mapping[str, Mapping[str, float]]) -> Claim:
    """The verdict from the measured numbers."""
    chord = max(r["above_chord"] for r in segments.values())
    above = max(r["above_f"] for r in segments.values())
    room = max(r["room"] for r in minorants.values())
    word, condition = settle(
        chord <= _TOL and above <= _TOL and room <= 1e-5,
        [[r["above_chord"], r["above_f"]] for r in segments.values()],
        [r["room"] for r in minorants.values()],
    )
    return Claim(
        id="A1",
        verdict=word,
        condition=condition,
        statement=(
            f"over {len(segments)} loss/family pairs the certified f** exceeds its chords by at most {chord:.1e}, f by "
            f"at most {above:.1e} (relative), and room for a larger convex minorant is at most {room:.1e}"
        ),
        numbers={"segments": segments, "minorants": minorants},
        tolerance="1e-6 relative for convexity and f** <= f; 1e-5 for the room, with narrow Gaussians of width 1e-4",
        second_way=(
            "lower ends come from proved majorants, upper ends from atoms; the room is bounded by f itself at "
            "narrow Gaussians on the atoms, whose mixture has the moments mu"
        ),
    )
