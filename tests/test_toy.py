"""The toy experiments: measures by hand, predictive integrals in second ways, verdicts that can come out every way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from experiments.toy import fig3, fig6
from experiments.toy.confidence import doubt_ratio, interval, measure, parts
from experiments.toy.logistic import (
    box,
    draws,
    exact_predictive,
    gaussian_predictive,
    prior_of,
    run_bsam,
    run_sam,
    sam_points,
    sam_residual,
)
from experiments.toy.moons import Moons, moons
from experiments.toy.moons_rows import Bsam, ceiling_rows, elbo, logits, module_of, predict, sam_rows, start_rows
from experiments.toy.moons_rows import run_bsam as run_bsam_rows
from experiments.toy.moons_study import WIDTHS
from experiments.toy.moons_training import Settings, average, laplace_fit, laplace_integral, train_bsam
from experiments.toy.nuts import Chains, network_logits, num_parameters, run_chains, summary
from fenchel import Gaussian, bayes_objective, bayesian_learning_rule, exact_posterior
from fenchel.bayes.laplace import map_estimate
from fenchel.losses import LogisticRegression
from fenchel.problems import murphy_draw, murphy_logistic_regression, separation_margin


def test_measure_by_hand() -> None:
    exact_p = np.array([0.6, 0.9, 0.5, 0.2])  # doubts 0.4, 0.1, 0.5, 0.2
    p = np.array([0.8, 0.95, 0.4, 0.1])  # doubts 0.2, 0.05, 0.4, 0.1
    found = measure(p, exact_p, {"box": slice(0, 2), "test": slice(2, None)})
    assert found["doubt_box"] == pytest.approx(np.log(0.25 / 0.5))
    assert found["doubt_test"] == pytest.approx(np.log(0.5 / 0.7))
    assert found["doubt_both"] == pytest.approx(np.log(0.75 / 1.2))
    kl = exact_p * np.log(exact_p / p) + (1 - exact_p) * np.log((1 - exact_p) / (1 - p))
    assert found["kl_box"] == pytest.approx(kl[:2].mean())
    assert found["kl_both"] == pytest.approx(kl.mean())
    assert measure(exact_p, exact_p, {"box": slice(0, 4)})["doubt_both"] == 0.0
    assert doubt_ratio(np.array([1.0, 0.0]), np.array([0.5, 0.5])) == -np.inf


def test_intervals_of_shares() -> None:
    """Nine draws: eight decide for a place, one against it; in between nothing is decided."""
    assert interval(8, 9)[0] > 0.5 > interval(7, 9)[0]
    assert interval(1, 9)[1] < 0.5 < interval(2, 9)[1]
    assert interval(0, 9)[0] == 0.0
    assert interval(9, 9) == (pytest.approx(0.025 ** (1 / 9)), 1.0)


def test_draws_of_the_papers_recipe() -> None:
    """Draw 0 is the project's example; which draws are separable through the origin, checked by the perceptron."""
    theta = np.array([[0.3, -0.2], [1.0, 2.0]])
    assert np.allclose(murphy_draw(0).loss(theta), murphy_logistic_regression()(theta), rtol=1e-14)
    assert [seed for seed, _ in draws(7, separable=True)] == [1, 2, 3, 5, 9, 13, 14]
    assert [seed for seed, _ in draws(3, separable=False)] == [0, 4, 6]
    rows = murphy_draw(1).inputs * murphy_draw(1).labels[:, None]
    w = np.zeros(2)
    for _ in range(200):
        for row in rows:
            w = w if row @ w > 0 else w + row
    assert (rows @ w > 0).all()
    assert separation_margin(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([1.0, 1.0])) == pytest.approx(1.0)
    assert separation_margin(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([1.0, -1.0])) <= 0


def test_predictive_of_a_gaussian_against_sampling() -> None:
    rng = np.random.default_rng(0)
    mean, variance, points = np.array([0.5, -0.2]), np.array([0.4, 0.1]), rng.standard_normal((5, 2)) * 3
    draws = mean + np.sqrt(variance) * rng.standard_normal((200_000, 2))
    sampled = 1 / (1 + np.exp(-draws @ points.T))
    error = sampled.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(gaussian_predictive(mean, variance, points) - sampled.mean(axis=0)) < 5 * error).all()
    point = gaussian_predictive(mean, np.zeros(2), points)
    assert np.allclose(point, 1 / (1 + np.exp(-points @ mean)), rtol=1e-14)


def test_exact_predictive_against_the_posteriors_own_samples() -> None:
    posterior = exact_posterior(murphy_draw(1).loss, prior_of(1.0))
    points = box(5, 4)[2]
    sampled = 1 / (1 + np.exp(-posterior.sample(20_000, np.random.default_rng(0)) @ points.T))
    error = sampled.std(axis=0) / np.sqrt(len(sampled)) + 1e-9
    assert (np.abs(exact_predictive(posterior, points) - sampled.mean(axis=0)) < 5 * error).all()


@pytest.mark.parametrize("precision", [1.0, 0.1])
def test_the_shipped_sam_ends_at_the_stationary_points(precision: float) -> None:
    problem = murphy_draw(1)
    points = sam_points(problem.loss, precision, (0.0, 0.05, 0.5))
    best = map_estimate(problem.loss, prior_of(precision))
    assert np.allclose(points[0], best, atol=1e-6)
    for rho, point in zip((0.05, 0.5), points[1:], strict=True):
        assert np.linalg.norm(sam_residual(problem.loss, precision, rho, point)) < 1e-8
        assert np.allclose(run_sam(problem, precision, rho, 1500, best), point, atol=2e-3)
        assert np.abs(point - best).max() > 5e-3


def test_bsam_side_by_side() -> None:
    problems = [murphy_draw(1), murphy_draw(2)]
    means, variances, moved = run_bsam(problems, 1.0, [Bsam(0.0, 0.1), Bsam(0.5, 0.1)], 2, 600, 0)
    assert means.shape == variances.shape == (2, 2, 2, 2)
    assert moved.shape == (2, 2)
    for index, each in enumerate(problems):
        # Without the perturbation the mean's update is a preconditioned gradient step: every row finds its own MAP.
        assert np.allclose(means[0, index], map_estimate(each.loss, prior_of(1.0)), atol=3e-2)
        assert (np.abs(means[1, index] - means[0, index]).max(axis=1) > 0.1).all()
    # s = sqrt(s)|g| + delta + gamma at its fixed point: never below delta + gamma.
    assert (variances < 1 / (60 * (1 / 60 + 0.1))).all()
    assert (variances[:, :, 0] != variances[:, :, 1]).all()


def test_the_jax_network_is_the_torch_network() -> None:
    rows = start_rows(WIDTHS, [3, 4])
    data = moons()
    inputs = torch.from_numpy(data.inputs)
    theta = parameters_to_vector([t[1] for t in rows]).numpy()
    assert theta.shape == (num_parameters(WIDTHS),) == (151,)
    import jax

    with jax.enable_x64(True):
        ours = np.asarray(network_logits(theta, data.inputs, WIDTHS))
    assert np.allclose(ours, logits(rows, inputs)[1].numpy(), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert np.allclose(ours, module_of([t[1] for t in rows])(inputs)[:, 0].numpy(), rtol=1e-12, atol=1e-12)


def logistic_by_sums(data: Moons, delta0: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (k, 3) of a grid over the three weights of a logistic regression with a bias, and their weights."""
    axis = np.linspace(-8.0, 8.0, 61)
    theta = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    fit = np.logaddexp(0.0, -(2 * data.labels - 1) * (theta[:, :2] @ data.inputs.T + theta[:, 2:])).sum(axis=1)
    weights = np.exp(-0.5 * delta0 * (theta**2).sum(axis=1) - fit + fit.min())
    return theta, weights / weights.sum()


def test_nuts_against_quadrature() -> None:
    data = moons(20)
    points = data.grid[::150]
    plan = Chains(chains=2, warmup=100, draws=200, max_tree_depth=4)
    found = run_chains(data.inputs, data.labels, points, prior_precision=0.5, seed=1, widths=(2, 1), plan=plan)
    theta, weights = logistic_by_sums(data, 0.5)
    exact_p = weights @ (1 / (1 + np.exp(-(theta[:, :2] @ points.T + theta[:, 2:]))))
    assert (np.abs(found["p"] - exact_p) < 5 * found["error"] + 1e-3).all()
    assert found["r_hat"].max() < 1.1
    assert found["halves"].shape == (2, len(points))
    assert np.allclose(found["halves"].mean(axis=0), found["p"])


def test_summary_sees_chains_that_disagree() -> None:
    rng = np.random.default_rng(0)

    def chain(level: float) -> np.ndarray:
        return np.clip(level + 0.05 * rng.standard_normal((200, 3)), 0, 1)

    fit = rng.standard_normal((2, 200))
    assert summary(np.stack([chain(0.4), chain(0.4)]), fit)["r_hat"].max() < 1.05
    apart = summary(np.stack([chain(0.2), chain(0.7)]), fit)
    assert apart["r_hat"].min() > 2.0
    assert np.allclose(apart["halves"], [[0.2], [0.7]], atol=0.02)
    assert (summary(np.ones((2, 200, 3)), fit)["r_hat"] == 1.0).all()


def rows_of(data: Moons, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, signs = torch.from_numpy(data.inputs), torch.from_numpy(2 * data.labels - 1)
    return inputs.expand(count, -1, -1), signs.expand(count, -1)


def test_the_ceiling_is_the_exact_diagonal_optimum() -> None:
    """A logistic regression with a bias, against the Bayesian learning rule with exact expectations."""
    data = moons(20)
    inputs, signs = rows_of(data, 2)
    fit = ceiling_rows(start_rows((2, 1), [0, 1]), inputs, signs, 0.5, 3000, 0, samples=64)
    rows = np.column_stack([data.inputs, np.ones(20)])
    loss, law = LogisticRegression(rows, 2 * data.labels - 1), Gaussian(np.zeros(3), np.full(3, 2.0))
    best = bayesian_learning_rule(loss, law, "exact", structure="diagonal", max_iterations=2000).posterior
    for row in range(2):
        mean = torch.cat([t[row].flatten() for t in fit.mean]).numpy()
        variance = torch.cat([t[row].flatten() for t in fit.variance]).numpy()
        assert np.allclose(mean, best.mean, atol=0.03)
        assert np.allclose(variance, np.diag(best.cov), rtol=0.05)
    value = -bayes_objective(loss, best, law).value
    assert np.allclose(elbo(fit, inputs, signs, 0.5, 4000, 0), value, atol=0.2)


def test_bsam_and_sam_in_rows_are_the_shipped_optimizers() -> None:
    """Two rows, one alone; and SAM's stationary point: grad l(theta + rho g/|g|) + delta0 theta = 0."""
    data = moons(20)
    inputs, signs = rows_of(data, 2)
    start = start_rows((2, 3, 1), [0, 1])
    sam = sam_rows(start, inputs, signs, 0.5, 0.2, 1500)
    alone = sam_rows([t[1:] for t in start], inputs[1:], signs[1:], 0.5, 0.2, 1500)
    for both, one in zip(sam, alone, strict=True):
        assert torch.allclose(both[1], one[0], rtol=1e-9, atol=1e-9)
    theta = [t[0].clone().requires_grad_() for t in sam]

    def gradient(at: list[torch.Tensor]) -> torch.Tensor:
        loss = torch.nn.functional.softplus(-signs[0] * logits(at, inputs[0])).sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, at)])

    g = gradient(theta)
    flat = torch.cat([t.detach().flatten() for t in theta]) + 0.2 * g / g.norm()
    moved = [p.view_as(t).requires_grad_() for p, t in zip(flat.split([t.numel() for t in theta]), theta, strict=True)]
    residual = gradient(moved) + 0.5 * torch.cat([t.detach().flatten() for t in theta])
    assert residual.norm() < 0.02 * g.norm()
    settings = [Bsam(0.0, 0.1), Bsam(0.1, 0.1, sqrt_num_data=True)]
    fits = run_bsam_rows(sam, inputs, signs, 0.5, settings, 300, 0, parts=4)
    assert len(fits) == 2
    assert all(fit.moved.shape == (2,) for fit in fits)
    # s is never below delta + gamma, and with the factor sqrt(N) it is larger.
    assert all((v < 1 / (20 * (0.5 / 20 + 0.1))).all() for v in fits[0].variance)
    assert sum(v.log().sum() for v in fits[1].variance) < sum(v.log().sum() for v in fits[0].variance)


def test_s_forgets_its_start() -> None:
    data = moons(20)
    inputs, signs = rows_of(data, 1)
    start = sam_rows(start_rows((2, 3, 1), [0]), inputs, signs, 0.5, 0.0, 500)
    ends = [
        run_bsam_rows(start, inputs, signs, 0.5, [Bsam(0.05, 0.0)], 1500, 0, parts=4, s_init=s)[0] for s in (0.1, 30.0)
    ]
    logs = [torch.cat([v.log().flatten() for v in fit.variance]).mean() for fit in ends]
    assert abs(float(logs[0] - logs[1])) < 0.1


def test_predictions_of_rows_against_laplaces_integral() -> None:
    """A linear network: its linearized predictive is its predictive, so that sampling the Gaussian must agree."""
    data = moons(20)
    row = [t[0] for t in start_rows((2, 1), [5])]
    posterior = laplace_fit(data, module_of(row), 2.0)
    inputs = np.column_stack([data.inputs, np.ones(20)])
    p = 1 / (1 + np.exp(-logits(row, torch.from_numpy(data.inputs)).numpy()))
    variance = torch.from_numpy(1 / (2.0 + ((p * (1 - p))[:, None] * inputs**2).sum(axis=0)))
    split = [variance[None, None, :2], variance[None, 2:]]
    points = data.grid[::100]
    sampled = predict([t[None] for t in row], split, torch.from_numpy(points), 20_000, 0)[0]
    assert np.allclose(sampled, laplace_integral(posterior, points), atol=0.015)


def test_the_demos_training_and_predictions() -> None:
    data = moons()
    model, optimizer = train_bsam(data, Settings(epochs=8), 0)
    p = average(model, optimizer, data.inputs, 8, 0)
    assert ((p > 0.5) == (data.labels == 1)).mean() > 0.75
    assert np.array_equal(p, average(model, optimizer, data.inputs, 8, 0))
    again, _ = train_bsam(data, Settings(epochs=8), 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    posterior = laplace_fit(data, model, 10.0)
    points = data.grid[::400]
    integral, sampled = laplace_integral(posterior, points), average(model, posterior, points, 300, 1)
    assert (np.abs(integral - sampled) < 5 * np.sqrt(integral * (1 - integral) / 300) + 1e-6).all()


def study(
    good: int, total: int = 20, *, sqrt_good: int | None = None, sam: float = -0.5, wide: float = 0.5
) -> dict[str, dict[str, np.ndarray]]:
    """Measures of ``total`` draws at one prior; bSAM goes nine tenths of the way to the ceiling in ``good`` of them."""

    def kl(count: int) -> np.ndarray:
        return np.where(np.arange(total) < count, 0.019, 0.09)

    return {
        "SAM": {"doubt_box": np.full(total, sam), "kl_box": np.full(total, 0.2)},
        "SAM + Laplace": {"doubt_box": np.full(total, wide), "kl_box": np.full(total, 0.1)},
        "bSAM": {"kl_box": kl(good)},
        "bSAM, sqrt(N)": {"kl_box": kl(good if sqrt_good is None else sqrt_good)},
        "ceiling": {"kl_box": np.full(total, 0.01)},
    }


@pytest.mark.parametrize(
    ("priors", "word", "condition"),
    [
        ({"1": study(19), "0.01": study(18)}, "held", ""),
        ({"1": study(2), "0.01": study(1)}, "refuted", ""),
        ({"1": study(19), "0.01": study(2)}, "held only if", "Algorithm 1 as printed: delta0 = 1"),
        ({"1": study(10), "0.01": study(9)}, "undecided", "bSAM, delta0 = 1"),
        ({"1": study(2, sqrt_good=19)}, "held", "by its predictions"),
        ({"1": study(19, sam=0.0)}, "refuted", ""),
        ({"1": study(19, wide=0.0)}, "refuted", ""),
    ],
)
def test_c2_can_come_out_every_way(priors: dict[str, Any], word: str, condition: str) -> None:
    claim = fig3.judge(priors)
    assert claim.verdict == word
    assert condition in claim.condition
    assert claim.would_change


ORDER = {"ordered": 10, "seeds": 10, "share of s_init": 0.5}


def test_c3_judges_box_and_test_inputs_together() -> None:
    """The same outcomes as C2, on measures over both regions; the demo's ordering never decides."""

    def place(good: int, **changes: float) -> dict[str, Any]:
        found = study(good, 9, **changes)
        found |= {f"{name}, gamma 0": found[name] for name in ("bSAM", "bSAM, sqrt(N)")}
        return {
            m: {f"{k[:-4]}_{w}": v for k, v in by.items() for w in ("box", "test", "both")} for m, by in found.items()
        }

    for good, word in ((9, "held"), (8, "held"), (7, "undecided"), (2, "undecided"), (1, "refuted"), (0, "refuted")):
        for ordered in (10, 0):
            claim = fig6.judge({"a": place(good)}, {**ORDER, "ordered": ordered})
            assert claim.verdict == word
            assert f"{ordered} of 10 seeds" in claim.statement
    some = fig6.judge({"a": place(9), "b": place(0)}, ORDER)
    assert some.verdict == "held only if"
    assert some.condition == "Algorithm 1 as printed: a; as derived, with the factor sqrt(N): a"
    assert fig6.judge({"a": place(9, sqrt_good=0)}, ORDER).verdict == "held"
    assert fig6.judge({"a": place(9, sam=0.0)}, ORDER).verdict == "refuted"
    assert fig6.judge({"a": place(9, wide=0.0)}, ORDER).verdict == "refuted"
    none = fig6.judge({}, ORDER)
    assert (none.verdict, none.condition) == ("undecided", "no draw counts")
    # Only what is measured over both regions decides.
    split = place(9)
    split["bSAM"]["kl_test"] = split["bSAM, sqrt(N)"]["kl_test"] = np.full(9, 0.5)
    claim = fig6.judge({"a": split}, ORDER)
    assert claim.verdict == "held"
    assert claim.numbers["judged on"]["test"].startswith("refuted")
    assert claim.numbers["without damping"] == "held"
    assert claim.would_change


def test_which_draws_count() -> None:
    fine = {
        "r_hat_99_percent": 1.01,
        "r_hat_log_likelihood": 1.0,
        "effective_smallest": 500.0,
        "divergences": 0.0,
        "accuracy": 0.96,
    }
    bad = [{**fine, k: v} for k, v in (("r_hat_99_percent", 1.2), ("effective_smallest", 50.0), ("divergences", 0.1))]
    references = [fine, fine, fine, *bad]
    good = np.full((6, 2), 0.95)
    poor = good.copy()
    poor[1] = 0.9
    fits = {name: {"accuracy": good} for name in fig6.FITS}
    assert fig6.sound(references, fits).tolist() == [True, True, True, False, False, False]
    for name in fig6.FITS:
        assert fig6.sound(references, {**fits, name: {"accuracy": poor}}).tolist() == [True, False, True] + 3 * [False]


def test_the_order_of_the_demo() -> None:
    size = len(moons().points)

    def row(sam: float, bsam: float, wide: float) -> dict[str, np.ndarray]:
        levels = {"SAM": sam, "bSAM": bsam, "SAM + Laplace": wide}
        return {**{f"{k}/p": np.full(size, v) for k, v in levels.items()}, "share of s_init": np.array(0.4)}

    found = fig6.demo_order([row(0.01, 0.1, 0.4), row(0.99, 0.1, 0.6), row(0.2, 0.1, 0.4)])
    assert (found["ordered"], found["seeds"]) == (2, 3)
    assert found["doubt of bSAM"]["mean"] == pytest.approx(0.1)
    assert found["share of s_init"] == pytest.approx(0.4)


def test_close_is_measured_by_the_way_to_the_ceiling() -> None:
    found = study(20, 20)
    assert parts(found, "bSAM", share=0.89)["bSAM close"].all()
    assert not parts(found, "bSAM", share=0.91)["bSAM close"].any()
    # Where Laplace is nearer than the ceiling, bSAM has to be as near as Laplace.
    found["SAM + Laplace"]["kl_box"] = np.full(20, 0.005)
    assert not parts(found, "bSAM")["bSAM close"].any()
