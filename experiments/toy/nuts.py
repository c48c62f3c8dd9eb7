"""The exact reference of Fig. 6: NUTS (numpyro) over all weights of the network, diagnosed by its predictions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.toy.moons import WIDTHS, num_parameters
from fenchel.errors import MissingDependencyError

__all__ = ["Reference", "combine", "network_logits", "run_chain"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """Pooled chains: predictive probabilities (k,) with standard errors, and how well the chains agree.

    ``r_hat`` and ``effective`` (k,) are split R-hat and effective sample size of the probability at each input;
    ``log_likelihood_r_hat`` is that of the training log-likelihood.
    """

    probabilities: Array
    standard_error: Array
    r_hat: Array
    effective: Array
    log_likelihood_r_hat: float
    divergences: int
    chains: int
    draws: int


def _jax() -> Any:
    try:
        import jax
        import numpyro.infer  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "the NUTS reference needs numpyro; install it with `pip install -e '.[mcmc]'`."
        ) from error
    return jax


def network_logits(theta: Any, inputs: Any, widths: tuple[int, ...] = WIDTHS) -> Any:
    """Logits (n,) of the ELU network at ``inputs`` (n, 2), in jax.

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
            hidden = jax.nn.elu(hidden)
    return hidden[:, 0]


def run_chain(
    inputs: Array,
    labels: Array,
    points: Array,
    *,
    prior_precision: float,
    seed: int,
    warmup: int,
    draws: int,
    max_tree_depth: int = 10,
    widths: tuple[int, ...] = WIDTHS,
) -> dict[str, Array]:
    """One chain on the posterior of all weights under N(0, I / prior_precision).

    Args:
        inputs, labels: (n, 2) and (n,) in {0, 1}: the training data.
        points: (k, 2): inputs whose predictive probability of class 1 is recorded at every draw.

    Returns:
        ``probabilities`` (draws, k), ``log_likelihood`` (draws,), ``squared_norm`` (draws,) of the weights times the
        prior precision (P under the prior), ``divergences``, ``steps`` (draws,), ``step_size``.
    """
    jax = _jax()
    import jax.numpy as jnp
    from numpyro.infer import MCMC, NUTS

    size = num_parameters(widths)
    spread = prior_precision**-0.5
    with jax.enable_x64(True):
        x, sign, grid = jnp.asarray(inputs), jnp.asarray(2.0 * labels - 1.0), jnp.asarray(points)

        def log_likelihood(z: Any) -> Any:
            return -jax.nn.softplus(-sign * network_logits(spread * z, x, widths)).sum()

        def potential(z: Any) -> Any:
            return 0.5 * (z @ z) - log_likelihood(z)

        sampler = MCMC(
            NUTS(potential_fn=potential, max_tree_depth=max_tree_depth),
            num_warmup=warmup,
            num_samples=draws,
            progress_bar=False,
        )
        key = jax.random.PRNGKey(seed)
        # Weights about as large as a network is initialized with, unless the prior is narrower: every chain finds
        # its own way to the typical set, so that R-hat means something.
        start = min(1.0, 0.3 / spread) * jax.random.normal(key, (size,), dtype=jnp.float64)
        fields = ("diverging", "num_steps", "adapt_state.step_size")
        sampler.run(jax.random.fold_in(key, 1), init_params=start, extra_fields=fields)
        samples, extra = sampler.get_samples(), sampler.get_extra_fields()

        def probabilities(z: Any) -> Any:
            return jax.nn.sigmoid(network_logits(spread * z, grid, widths))

        return {
            "probabilities": np.asarray(jax.lax.map(probabilities, samples), dtype=np.float32),
            "log_likelihood": np.asarray(jax.lax.map(log_likelihood, samples), dtype=float),
            "squared_norm": np.asarray((samples * samples).sum(axis=1), dtype=float),
            "divergences": np.asarray(extra["diverging"]).sum(),
            "steps": np.asarray(extra["num_steps"], dtype=float),
            "step_size": np.asarray(extra["adapt_state.step_size"][-1], dtype=float),
        }


def combine(chains: list[dict[str, Array]]) -> Reference:
    """Pool chains of equal length.

    Raises:
        ValueError: there is no chain, or their lengths differ.
    """
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    if not chains or len({len(c["probabilities"]) for c in chains}) != 1:
        raise ValueError("combine needs at least one chain, and chains of equal length.")
    probabilities = np.stack([c["probabilities"] for c in chains]).astype(float)
    count, draws, _ = probabilities.shape
    # Where all draws agree to rounding there is nothing to diagnose: the ratio of variances would be 0/0.
    varying = probabilities.std(axis=(0, 1)) > 1e-6
    r_hat = np.ones(probabilities.shape[2])
    effective = np.full(probabilities.shape[2], float(count * draws))
    with np.errstate(divide="ignore", invalid="ignore"):
        r_hat[varying] = split_gelman_rubin(probabilities[:, :, varying])
        effective[varying] = effective_sample_size(probabilities[:, :, varying])
        likelihood = np.stack([c["log_likelihood"] for c in chains])
        likelihood_r_hat = float(split_gelman_rubin(likelihood))
    effective = np.clip(np.nan_to_num(effective, nan=1.0), 1.0, None)
    return Reference(
        probabilities=probabilities.mean(axis=(0, 1)),
        standard_error=probabilities.std(axis=(0, 1)) / np.sqrt(effective),
        r_hat=r_hat,
        effective=effective,
        log_likelihood_r_hat=likelihood_r_hat,
        divergences=int(sum(int(c["divergences"]) for c in chains)),
        chains=count,
        draws=draws,
    )
