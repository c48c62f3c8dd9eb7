"""The CVXPY programs: the reference moment problem, the sampled program of Eqs. 32 and 33, and the status policy."""

from __future__ import annotations

import numpy as np
import pytest

import fenchel
from fenchel import losses as L
from fenchel.errors import SolverError
from fenchel.moments.moment_frame import STRUCTURES, MomentFrame
from fenchel.moments.moment_problem import MomentProblem
from fenchel.moments.programs import ReferenceMaster, SolverOptions, reference_master, sampled_program

# SCS is a first-order method: its tolerance is looser, and stated.
SOLVERS = {
    "CLARABEL": (SolverOptions("CLARABEL"), 1e-7),
    "HIGHS": (SolverOptions("HIGHS"), 1e-8),
    "SCS": (SolverOptions("SCS", {"eps_abs": 1e-8, "eps_rel": 1e-8, "max_iters": 200_000}), 1e-5),
}


def moment_data(structure: str, dim: int) -> tuple[MomentFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(dim)
    root = rng.normal(size=(dim, dim))
    frame = MomentFrame.of(rng.normal(size=dim), root @ root.T + 0.3 * np.eye(dim), structure)
    half = rng.normal(size=(20 * dim, dim)) * np.exp(rng.uniform(-1.0, 1.5, size=(20 * dim, 1)))
    points = np.concatenate([half, -half])
    return frame, points, np.logaddexp(0.0, points @ rng.normal(size=(dim, 6))).sum(axis=1)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("dim", [1, 2])
def test_reference_and_fast_path_agree(name: str, structure: str, dim: int) -> None:
    options, tolerance = SOLVERS[name]
    frame, points, values = moment_data(structure, dim)
    fast = MomentProblem(frame).solve(points, values)
    slow = reference_master(frame, points, values, options)
    assert fast is not None
    assert fast.feasible
    assert slow.feasible
    assert slow.value == pytest.approx(fast.value, rel=tolerance)
    assert -frame.target @ slow.coefficients == pytest.approx(fast.value, rel=tolerance)
    assert -slow.weights @ values == pytest.approx(fast.value, rel=10 * tolerance)


def test_one_reference_program_serves_other_atoms_of_the_same_number() -> None:
    frame, points, values = moment_data("full", 2)
    master = ReferenceMaster(frame.size, values.size)
    assert master._problem.is_dcp(dpp=True)
    for scale in (1.0, 0.8):
        fast = MomentProblem(frame).solve(scale * points, values)
        assert fast is not None
        solved = master.solve(frame, scale * points, values, SolverOptions("HIGHS"))
        assert solved.value == pytest.approx(fast.value, rel=1e-8)


def test_reference_says_infeasible_where_the_moments_are_out_of_reach() -> None:
    frame = MomentFrame.of(np.zeros(1), np.eye(1), "full")
    solved = reference_master(frame, np.array([[3.0], [4.0]]), np.zeros(2), SolverOptions("HIGHS"))
    assert not solved.feasible


@pytest.mark.parametrize("name", ["CLARABEL", "SCS"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_sampled_program_with_two_pieces_is_the_closed_form_of_their_maximum(structure: str, name: str) -> None:
    """max(a1 z + b1, a2 z + b2) of z = x.theta in closed form, with the projected variance of each family."""
    rng = np.random.default_rng(3)
    x, mean = np.array([1.0, -0.7]), np.array([0.4, 0.3])
    root = rng.normal(size=(2, 2))
    cov = root @ root.T + 0.3 * np.eye(2)
    (a1, b1), (a2, b2) = (1.3, 0.2), (-0.6, 0.5)
    variance = {
        "full": x @ cov @ x,
        "diagonal": float(np.abs(x) @ np.sqrt(np.diag(cov))) ** 2,
        "isotropic": x @ x * np.trace(cov),
    }[structure]
    m = x @ mean
    root_term = np.sqrt((a1 - a2) ** 2 * variance + ((a1 - a2) * m + b1 - b2) ** 2)
    truth = -0.5 * ((a1 + a2) * m + b1 + b2 + root_term)
    frame = MomentFrame.of(mean, cov, structure)
    options, tolerance = SOLVERS[name]
    solved = sampled_program(frame, np.stack([a1 * x, a2 * x]), np.array([b1, b2]), options)
    assert solved.value == pytest.approx(truth, rel=max(tolerance, 1e-6))
    assert solved.multipliers.sum() == pytest.approx(1.0, abs=1e-5)


def test_a_missing_solver_is_named() -> None:
    frame, points, values = moment_data("full", 1)
    with pytest.raises(SolverError, match="'NOSUCH' is not installed; installed:"):
        reference_master(frame, points, values, SolverOptions("NOSUCH"))


def test_a_solution_that_is_not_accepted_is_an_error() -> None:
    frame, points, values = moment_data("full", 2)
    with pytest.raises(SolverError, match="SCS ended with status"):
        reference_master(frame, points, values, SolverOptions("SCS", {"max_iters": 3}))


def test_sampled_method_reports_one_side_only() -> None:
    rng = np.random.default_rng(0)
    loss = L.LogisticRegression(rng.normal(size=(12, 2)), rng.integers(0, 2, size=12))
    q = fenchel.Gaussian(np.array([0.3, -0.2]), np.array([[1.0, 0.2], [0.2, 0.6]]))
    truth = fenchel.biconjugate(loss, q)
    few, many = (fenchel.biconjugate(loss, q, "sampled", num_pieces=k, rng=1) for k in (4, 40))
    for result in (few, many):
        assert not result.certified
        assert result.lower == -np.inf
        # Pieces of a convex loss lie below it, so the program is too large; so is any distribution with the moments.
        assert result.upper >= truth.lower
        assert result.info["atoms_upper"] >= truth.lower
        assert result.value >= truth.lower - 1e-6
        assert "approximation" in result.message
        # The atoms bound from above, and so does the value of a convex loss but for the solver's tolerance.
        room = 1e-6 * max(1.0, abs(result.value))
        assert result.upper == pytest.approx(max(result.value + room, result.info["atoms_upper"]), rel=1e-12)
        assert result.upper - truth.lower < 5.0
        assert -(result.weights @ loss(result.atoms)) <= result.info["atoms_upper"] + 1e-9
        assert result.weights @ result.atoms == pytest.approx(q.mean, abs=1e-9)
    assert many.value < few.value
    assert many.value - truth.value < 0.2 * (few.value - truth.value)
    again = fenchel.biconjugate(loss, q, "sampled", num_pieces=4, rng=np.random.default_rng(1))
    assert again.value == few.value
    by_scs = fenchel.biconjugate(loss, q, "sampled", num_pieces=4, rng=1, solver=SOLVERS["SCS"][0])
    assert by_scs.value == pytest.approx(few.value, rel=1e-5)


def test_a_loss_that_is_not_convex_is_bounded_by_the_atoms_alone() -> None:
    """Pieces of a loss that is not convex may lie above it: their value bounds nothing."""
    q = fenchel.Gaussian(np.array([0.5]), np.array([[2.0]]))
    result = fenchel.biconjugate(L.ThreeWells(), q, "sampled", num_pieces=5, rng=0)
    truth = fenchel.biconjugate(L.ThreeWells(), q)
    assert result.upper >= truth.lower
    assert np.isfinite(result.info["atoms_upper"])
    assert result.upper == pytest.approx(max(result.value, result.info["atoms_upper"]), abs=1e-5)
