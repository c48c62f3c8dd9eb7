"""The exact reference of Fig. 6: NUTS (numpyro) over all weights of a network, diagnosed by its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.errors import missing

__all__ = ["Chains", "num_parameters", "run_chains", "summary"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Chains:
    """How many chains, and how long."""

    chains: int = 4
    warmup: int = 300
    draws: int = 500
    max_tree_depth: int = 8


def num_parameters(widths: Sequence[int]) -> int:
    """Weights and biases of the network."""
    return sum((a + 1) * b for a, b in pairwise(widths))


def _jax() -> Any:
    try:
        import jax
        import numpyro.infer  # noqa: F401
    except ImportError as error:
        raise missing("the NUTS reference", "numpyro", "mcmc") from error
    return jax


def network_logits(theta: Any, inputs: Any, widths: Sequence[int]) -> Any:
    """Logits (n,) of the tanh network at ``inputs`` (n, 2), in jax.

    ``theta`` (P,) in the order of torch's `parameters_to_vector`: for every layer its weights (out, in), its biases.
    """
    jax = _jax()
    hidden, position = inputs, 0
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
        weights = theta[position : position + fan_in * fan_out].reshape(fan_out, fan_in)
        position += fan_in * fan_out
        hidden = hidden @ weights.T + theta[position : position + fan_out]
        position += fan_out
        if layer < len(widths) - 2:
            hidden = jax.numpy.tanh(hidden)
    return hidden[:, 0]


@cache
def _sampler(widths: tuple[int, ...], plan: Chains, num_data: int) -> tuple[Any, Any]:
    """A sampler over z = theta sqrt(prior precision), and what its draws say; compiled once for ``num_data`` data."""
    jax = _jax()
    import numpyro
    from numpyro.distributions import Normal
    from numpyro.infer import MCMC, NUTS

    def model(x: Any, sign: Any, spread: Any) -> None:
        z = numpyro.sample("z", Normal(0, 1).expand([num_parameters(widths)]).to_event(1))
        numpyro.factor("likelihood", -jax.nn.softplus(-sign * network_logits(spread * z, x, widths)).sum())

    def seen(draws: Any, x: Any, sign: Any, spread: Any, at: Any) -> Any:
        def one(z: Any) -> tuple[Any, Any]:
            fit = -jax.nn.softplus(-sign * network_logits(spread * z, x, widths)).sum()
            return jax.nn.sigmoid(network_logits(spread * z, at, widths)), fit

        return jax.lax.map(one, draws)

    sampler = MCMC(
        NUTS(model, max_tree_depth=plan.max_tree_depth),
        num_warmup=plan.warmup,
        num_samples=plan.draws,
        num_chains=plan.chains,
        chain_method="vectorized",
        progress_bar=False,
        jit_model_args=True,
    )
    return sampler, jax.jit(seen)


def run_chains(
    inputs: Array,
    labels: Array,
    points: Array,
    *,
    prior_precision: float,
    seed: int,
    widths: tuple[int, ...],
    plan: Chains,
) -> dict[str, Array]:
    """NUTS on the posterior of all weights under N(0, I / prior_precision), every chain from a start of its own.

    Args:
        inputs, labels: (n, 2) and (n,) in {0, 1}: the training data.
        points: (k, 2): inputs at which the predictive probability of class 1 is recorded.

    Returns:
        What `summary` says, and ``divergences``, ``steps`` (leapfrogs a draw), ``squared_norm`` of the weights over its
        prior mean, and ``log_likelihood``, averages over draws.
    """
    jax = _jax()
    with jax.enable_x64(True):
        jnp = jax.numpy
        x, sign, at = jnp.asarray(inputs), jnp.asarray(2.0 * labels - 1.0), jnp.asarray(points)
        spread = jnp.asarray(prior_precision**-0.5)
        key = jax.random.PRNGKey(seed)
        start = 0.5 * jax.random.normal(key, (plan.chains, num_parameters(widths)), dtype=jnp.float64)
        sampler, seen = _sampler(widths, plan, len(inputs))
        sampler.run(
            jax.random.fold_in(key, 1),
            x,
            sign,
            spread,
            init_params={"z": start},
            extra_fields=("diverging", "num_steps"),
        )
        draws = sampler.get_samples()["z"]
        extra = sampler.get_extra_fields()

        probabilities, fit = (np.asarray(a) for a in seen(draws, x, sign, spread, at))
        shape = (plan.chains, plan.draws)
        return {
            **summary(probabilities.reshape(*shape, -1), fit.reshape(shape)),
            "divergences": np.asarray(extra["diverging"]).sum(),
            "steps": np.asarray(extra["num_steps"], dtype=float).mean(),
            "squared_norm": np.asarray((draws**2).mean(), dtype=float),
            "log_likelihood": fit.mean(),
        }


def summary(probabilities: Array, log_likelihood: Array) -> dict[str, Array]:
    """Pooled chains (chains, draws, k) and (chains, draws).

    ``p``, ``error`` (standard), ``r_hat`` (split), ``effective`` (k,) of the probability at each input; ``halves``
    (2, k): what the first and the second half of the chains say alone; ``log_likelihood_r_hat``.
    """
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    count, draws, size = probabilities.shape
    # Where all draws agree to rounding there is nothing to diagnose: the ratio of variances would be 0/0.
    varying = probabilities.std(axis=(0, 1)) > 1e-6
    r_hat, effective = np.ones(size), np.full(size, float(count * draws))
    with np.errstate(divide="ignore", invalid="ignore"):
        r_hat[varying] = split_gelman_rubin(probabilities[:, :, varying])
        effective[varying] = effective_sample_size(probabilities[:, :, varying])
        likelihood_r_hat = split_gelman_rubin(log_likelihood)
    effective = np.clip(np.nan_to_num(effective, nan=1.0), 1.0, None)
    half = count // 2
    return {
        "p": probabilities.mean(axis=(0, 1)),
        "error": probabilities.std(axis=(0, 1)) / np.sqrt(effective),
        "r_hat": r_hat,
        "effective": effective,
        "halves": np.stack([probabilities[:half].mean(axis=(0, 1)), probabilities[half:].mean(axis=(0, 1))]),
        "log_likelihood_r_hat": np.asarray(likelihood_r_hat),
    }
