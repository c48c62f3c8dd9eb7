"""The posterior of a logistic regression in any dimension by NUTS (numpyro), with diagnostics and log evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fenchel.arrays import Array
from fenchel.errors import missing
from fenchel.gaussian import Gaussian
from fenchel.losses import LinearPredictorLoss, Loss
from fenchel.losses.links import SoftplusLink

if TYPE_CHECKING:
    from fenchel.bayes.posterior import ExactPosterior


def nuts_posterior(
    loss: Loss, prior: Gaussian, *, rng: np.random.Generator, draws: int = 4000, chains: int = 4
) -> ExactPosterior:
    """Draws from p(theta) exp(-l(theta)) / Z by NUTS in coordinates whitened at the mode.

    ``diagnostics``: ``r_hat`` (P,) (split), ``ess`` (P,), ``divergences``; ``mcse_mean`` (P,), the standard error of
    the mean. ``log_evidence`` is the bridge sampling estimate, ``error`` its standard error.

    Raises:
        ValueError: the loss is not built from logistic terms, or a count is not positive.
        MissingDependencyError: numpyro is not installed (extra ``mcmc``).
    """
    from fenchel.bayes.exact import joint_log_density, posterior_modes
    from fenchel.bayes.posterior import ExactPosterior

    linear = loss.in_predictors()
    if linear is None or not all(isinstance(g.link, SoftplusLink) for g in linear.groups):
        raise ValueError("NUTS is offered for logistic regressions only; this loss has other terms.")
    if draws < 100 or chains < 1:
        raise ValueError(f"draws must be at least 100 and chains at least 1, got {draws} and {chains}.")
    mode = posterior_modes(loss, prior)[0]
    hessian = np.asarray(loss.hessian(mode)) + prior.precision
    factor = np.linalg.inv(np.linalg.cholesky(hessian)).T
    white, fields = _run(linear, prior, mode, factor, int(rng.integers(2**31)), draws, chains)
    flat = white.reshape(-1, loss.dim)
    points = mode + flat @ factor.T
    mean = points.mean(axis=0)
    cov = np.atleast_2d(np.cov(points.T))
    log_joint = joint_log_density(loss, prior)
    volume = float(np.linalg.slogdet(factor)[1])
    log_evidence, error = bridge_log_evidence(lambda u: log_joint(mode + u @ factor.T) + volume, white, rng, _effective)
    fields["mcse_mean"] = np.sqrt(np.diag(cov) / fields["ess"])
    return ExactPosterior(
        mean=mean,
        cov=cov,
        log_evidence=log_evidence,
        error=error,
        method="nuts",
        nodes=points,
        node_weights=np.full(len(points), 1.0 / len(points)),
        diagnostics=fields,
        _log_joint=log_joint,
    )


def bridge_log_evidence(
    log_density: Any, draws: Array, rng: np.random.Generator, effective: Any
) -> tuple[float, float]:
    """log of the integral of exp(log_density) from draws (chains, n, P) of it, and its standard error.

    Meng and Wong's bridge with a Gaussian fitted to the first half of every chain and the optimal bridge function for
    the second halves. ``effective(values (chains, n))`` counts independent draws.
    """
    chains, n, dim = draws.shape
    fit, held = draws[:, : n // 2].reshape(-1, dim), draws[:, n // 2 :]
    mean, cov = fit.mean(axis=0), np.atleast_2d(np.cov(fit.T))
    factor = np.linalg.cholesky(cov)
    size = held.shape[0] * held.shape[1]
    proposal = rng.standard_normal((size, dim))

    def log_proposal(u: Array) -> Array:
        z = np.linalg.solve(factor, (u - mean).T).T
        constant = 0.5 * dim * np.log(2.0 * np.pi) + np.log(np.diag(factor)).sum()
        return np.asarray(-0.5 * (z * z).sum(axis=1) - constant)

    there = mean + proposal @ factor.T
    here = held.reshape(-1, dim)
    ratio_there = np.asarray(log_density(there)) - log_proposal(there)
    ratio_here = np.asarray(log_density(here)) - log_proposal(here)
    shift = float(np.median(ratio_here))
    a, b = np.exp(ratio_there - shift), np.exp(ratio_here - shift)
    r = 1.0
    for _ in range(1000):
        new = float(np.mean(a / (0.5 * a + 0.5 * r)) / np.mean(1.0 / (0.5 * b + 0.5 * r)))
        done = abs(np.log(new / r)) < 1e-12
        r = new
        if done:
            break
    f_there = a / r / (0.5 * a / r + 0.5)
    f_here = 1.0 / (0.5 * b / r + 0.5)
    independent = effective(f_here.reshape(chains, -1))
    variance = f_there.var() / f_there.mean() ** 2 / size + f_here.var() / f_here.mean() ** 2 / independent
    return shift + float(np.log(r)), float(np.sqrt(variance))


def _run(
    loss: LinearPredictorLoss, prior: Gaussian, mode: Array, factor: Array, seed: int, draws: int, chains: int
) -> tuple[Array, dict[str, Any]]:
    """NUTS in u, theta = mode + factor u: draws (chains, draws, P) and diagnostics."""
    try:
        import jax
        import jax.numpy as jnp
        from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
        from numpyro.infer import MCMC, NUTS
    except ImportError as error:
        raise missing("a posterior by NUTS (P > 2)", "numpyro", "mcmc") from error
    with jax.enable_x64(True):
        groups = [
            (jnp.asarray(g.rows @ factor), jnp.asarray(g.rows @ mode + g.offsets), jnp.asarray(g.weights))
            for g in loss.groups
        ]
        curvature = jnp.asarray(factor.T @ (prior.precision + loss.H) @ factor)
        slope = jnp.asarray(factor.T @ (prior.precision @ (mode - prior.mean) + loss.H @ mode + loss.b))

        def potential(u: Any) -> Any:
            value = 0.5 * u @ curvature @ u + slope @ u
            for rows, offsets, weights in groups:
                value = value + weights @ jax.nn.softplus(rows @ u + offsets)
            return value

        kernel = NUTS(potential_fn=potential, target_accept_prob=0.9)
        sampler = MCMC(
            kernel,
            num_warmup=1000,
            num_samples=draws,
            num_chains=chains,
            chain_method="vectorized",
            progress_bar=False,
        )
        start = 0.5 * jax.random.normal(jax.random.PRNGKey(seed), (chains, mode.size), dtype=jnp.float64)
        sampler.run(
            jax.random.PRNGKey(seed + 1),
            init_params=start if chains > 1 else start[0],
            extra_fields=("diverging",),
        )
        white = np.asarray(sampler.get_samples(group_by_chain=True), dtype=float)
        divergences = int(np.asarray(sampler.get_extra_fields()["diverging"]).sum())
    return white, {
        "r_hat": np.atleast_1d(split_gelman_rubin(white)),
        "ess": np.atleast_1d(effective_sample_size(white)),
        "divergences": divergences,
        "chains": chains,
        "draws": draws,
    }


def _effective(values: Array) -> float:
    from numpyro.diagnostics import effective_sample_size

    return max(1.0, float(effective_sample_size(values)))
