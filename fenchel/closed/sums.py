"""The per-datum relaxation: a sum of closed-form biconjugates, below the biconjugate of the sum in any dimension."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from fenchel.checks import check_problem
from fenchel.closed.closed_forms import without_constants
from fenchel.closed.projections import check_structure, majorant_natural, projected_variance, uncertainty
from fenchel.closed.quadratic_forms import quadratic_biconjugate
from fenchel.closed.scalar_forms import scalar_form
from fenchel.losses import Loss
from fenchel.losses.accurate import EPS, TINY, accurate_predictors
from fenchel.results import Natural, SumOfBiconjugates

# Entries of the design matrix handled at a time: temporaries stay small for any number of data.
_CHUNK_ENTRIES = 4_000_000
# Variances of a predictor that underflow count as this one.
_LEAST = 1e-300


def sum_of_biconjugates(loss: Loss, q: Any, structure: str | None = None) -> SumOfBiconjugates:
    """sum_i f_i**(mu) over the terms of a `LinearPredictorLoss` (its quadratic counts as one term), in any dimension.

    A certified lower bound on f** of the sum (the paper's remark in App. F.7); for logistic regression and the full
    family it is the Jaakkola-Jordan bound. ``natural`` is the summed majorant's parameter: loss <= t - <natural, T>
    everywhere with t = <natural, mu> - value. Cost O(n P^2) (full), O(n P) (diagonal, isotropic).
    TypeError for losses without such terms, ValueError where dimensions differ.
    """
    start = time.perf_counter()
    check_problem(loss, q=q)
    structure = check_structure(q.structure if structure is None else structure)
    linear = loss.in_predictors()
    if linear is None:
        raise TypeError(f"loss must be a sum of terms (a LinearPredictorLoss), got {type(loss).__name__}.")
    mean, cov = q.mean, q.cov
    value, natural, _, error = quadratic_biconjugate(linear.H, linear.b, linear.c, mean, cov, structure)
    lam1, lam2 = natural.lam1, natural.lam2
    size, count = abs(value), sum(group.rows.shape[0] for group in linear.groups)
    for given in linear.groups:
        group, constant = without_constants(given)
        value -= constant
        size += abs(constant)
        if group is None:
            continue
        step = max(1, _CHUNK_ENTRIES // linear.dim)
        for first in range(0, group.rows.shape[0], step):
            rows = group.rows[first : first + step]
            weights = group.weights[first : first + step]
            offsets = group.offsets[first : first + step]
            # A larger variance than the true one leaves a lower bound.
            variance = np.maximum(projected_variance(rows, cov, structure), _LEAST)
            of_mean, of_variance = uncertainty(rows, offsets, mean, cov, structure)
            uncertain = of_mean, np.where(variance > _LEAST, of_variance, _LEAST)
            form = scalar_form(group.link, accurate_predictors(rows, mean, offsets), variance, uncertain)
            if form is None:
                raise TypeError(f"no closed form of the biconjugate of {type(group.link).__name__}")
            part = float(weights @ form.value)
            value -= part
            size += float(weights @ np.abs(form.value))
            error += float(weights @ form.error)
            own = majorant_natural(rows, weights * form.slope, weights * form.curvature, mean, cov, structure)
            lam1, lam2 = lam1 + own.lam1, lam2 + own.lam2
    margin = EPS * (8.0 + np.sqrt(count)) * size + TINY * (1 + count)
    return SumOfBiconjugates(
        value=value,
        error=error + margin,
        natural=Natural(lam1, lam2),
        terms=count,
        structure=structure,
        seconds=time.perf_counter() - start,
    )
