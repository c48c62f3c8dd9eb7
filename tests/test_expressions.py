"""Losses given as formulas: derivatives, and the bounds derived from the formula hold wherever one looks."""

from __future__ import annotations

import numpy as np
import pytest
import sympy

import fenchel
from fenchel import Gaussian, losses

FORMULAS = [
    ("log(1 + (x - 1)**2)", ["x"]),
    ("sqrt(1 + x**2) - x/2", ["x"]),
    ("1 - cos(2*x)", ["x"]),
    ("log(cosh(x - 1)) + 0.1*x**2", ["x"]),
    ("tanh(x)**2", ["x"]),
    ("sigmoid(3*x)*2 + x**2/8", ["x"]),
    ("0.05*x**2 - 3*exp(-(x + 4)**2/0.245) + exp(-x**2)", ["x"]),
    ("1/(1 + x**2) + 2/(2 + x**2)**2", ["x"]),
    ("atan(x) + x**2/(1 + 0*x)", ["x"]),
    ("(x - y)**2 + log(1 + x**2 + y**2)", ["x", "y"]),
    ("log1p(exp(x + 2*y)) + log1p(exp(-x + y)) + 0.1*x*y", ["x", "y"]),
    ("sin(x)*cos(y) + x**2 + softplus(z - x)", ["x", "y", "z"]),
]


def _points(dim: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(4000, dim)) * rng.choice([0.3, 1.0, 5.0, 100.0], size=(4000, 1))


@pytest.mark.parametrize(("formula", "names"), FORMULAS)
def test_values_and_derivatives_are_those_of_the_formula(formula: str, names: list[str]) -> None:
    loss = losses.from_expression(formula, names)
    dim = len(names)
    theta = 2.0 * np.random.default_rng(1).normal(size=(20, dim))
    known = {"log1p": lambda z: sympy.log(1 + z), "softplus": lambda z: sympy.log(1 + sympy.exp(z))}
    known |= {"sigmoid": lambda z: 1 / (1 + sympy.exp(-z))}
    symbols = sympy.symbols(names)
    exact = sympy.sympify(formula, locals=known)
    for point in theta:
        at = dict(zip(symbols, point, strict=True))
        assert loss(point) == pytest.approx(float(exact.subs(at)), rel=1e-12, abs=1e-12)
        slope = [float(exact.diff(s).subs(at)) for s in symbols]
        np.testing.assert_allclose(loss.gradient(point), slope, rtol=1e-10, atol=1e-10)
        bend = [[float(exact.diff(s, t).subs(at)) for t in symbols] for s in symbols]
        np.testing.assert_allclose(loss.hessian(point), bend, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("formula", "names"), FORMULAS)
def test_the_derived_bounds_hold(formula: str, names: list[str]) -> None:
    loss = losses.from_expression(formula, names)
    theta = _points(len(names))
    assert np.linalg.eigvalsh(loss.hessian(theta))[:, -1].max() <= loss.curvature * (1.0 + 1e-12)
    above = loss.majorizer(theta)
    assert (loss(theta) <= above + 1e-12 * np.abs(above)).all()


def test_the_same_loss_as_a_formula_and_as_a_class_has_the_same_biconjugate() -> None:
    q = Gaussian([0.4], [[0.7]])
    for formula, loss in (
        ("log(1 + exp(x))", losses.Softplus()),
        ("x**2 - x/2 + 1", losses.Quadratic([[2.0]], [-0.5], 1)),
    ):
        found = fenchel.biconjugate(losses.from_expression(formula, ["x"]), q)
        assert found.certified
        assert found.value == pytest.approx(fenchel.biconjugate(loss, q).value, abs=2e-8)


def test_sympy_expressions_are_taken() -> None:
    x = sympy.Symbol("x")
    loss = losses.from_expression(sympy.log(1 + (x - 1) ** 2), [x])
    assert loss(3.0) == pytest.approx(np.log(5.0))


@pytest.mark.parametrize(
    ("formula", "names", "reason"),
    [
        ("x**4", ["x"], "curvature"),
        ("exp(x)", ["x"], "curvature"),
        ("cosh(x)", ["x"], "quadratic"),
        ("x*exp(-x**2)", ["x"], "curvature"),
        ("x + y", ["x"], "'y'"),
        ("x +", ["x"], "formula"),
        ("__import__('os').getcwd()", ["x"], "not understood"),
        ("gamma(x)", ["x"], "'gamma'"),
        ("x**y", ["x", "y"], "powers"),
        ("x", [], "variables"),
        ("x", ["x", "x"], "variables"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(formula: str, names: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        losses.from_expression(formula, names)


@pytest.mark.parametrize(
    "formula",
    [
        "log(1 + (x - y)**2 + 2*y**2)",
        "3*sqrt(1 + x**2 + y**2)",
        "-2*exp(-x**2 - (y - 1)**2)",
        "2*softplus(x - 2*y + 0.3)",
    ],
)
def test_the_checkers_tangents_lie_above_their_terms(formula: str) -> None:
    from flint import arb

    from fenchel.checker.tangents import tangent_bound

    loss = losses.from_expression(formula, ["x", "y"])
    rng = np.random.default_rng(0)
    for at in rng.normal(size=(20, 2)):
        found = tangent_bound(loss.remainder, [arb(x) for x in at], arb(0))
        assert found is not None
        c, b, A = float(found[0]), np.array([float(x) for x in found[1]]), np.array(found[2]).astype(float)

        def bound(theta: np.ndarray, c: float = c, b: np.ndarray = b, A: np.ndarray = A) -> np.ndarray:
            return c + theta @ b + np.einsum("ni,ij,nj->n", theta, A, theta)

        assert bound(at[None, :])[0] == pytest.approx(loss(at), abs=1e-3)
        theta = at + rng.normal(size=(2000, 2)) * rng.choice([0.1, 1.0, 10.0], size=(2000, 1))
        assert (bound(theta) >= loss(theta) - 1e-9 * (1.0 + np.abs(loss(theta)))).all()
    # What is not of the kind is left to the growth of the term.
    for other in ("exp(-x**2)", "tanh(x)**2", "cos(x)"):
        assert tangent_bound(losses.from_expression(other, ["x"]).remainder, [arb(0.3)], arb(0)) is None
