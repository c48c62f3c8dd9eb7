"""Losses given as formulas: derivatives, and the bounds derived from the formula hold wherever one looks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy

import fenchel
from fenchel import Gaussian, losses
from fenchel.losses.calculus import jets

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


@pytest.mark.parametrize("width", [1e-3, 1e-5])
def test_a_narrow_well_is_no_false_declaration(width: float) -> None:
    loss = losses.from_expression(f"0.1 * x**2 - exp(-((x - 0.7) / {width})**2 / 2)", variables=["x"])
    found = fenchel.biconjugate(loss, Gaussian([0.7], width**2))
    assert found.certified
    assert fenchel.check(found.certificate()).valid


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
        ("gamma(x)", ["x"], "'gamma' .* there are exp, log"),
        ("x**y", ["x", "y"], "powers"),
        ("x", [], "variables"),
        ("x", ["x", "x"], "variables"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(formula: str, names: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        losses.from_expression(formula, names)


@pytest.mark.parametrize(
    ("formula", "touches"),
    [
        ("log(1 + (x - y)**2 + 2*y**2)", True),
        ("3*sqrt(1 + x**2 + y**2)", True),
        ("-2*exp(-x**2 - (y - 1)**2)", True),
        ("2*softplus(x - 2*y + 0.3)", True),
        ("tanh(x)**2 - atan(y)", False),
        ("(sin(x) + 2*tanh(y))**2", False),
        ("softplus(x + sin(y))", False),
        ("log(3 + x**2 + sin(y))", False),
        ("3*sqrt(2 + cos(y) + (x - y)**2) - 2*softplus(x)", False),
        ("1/(1 + x**2) - 2*atan(x - y)", False),
    ],
)
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_the_quadratics_lie_above_expressions(formula: str, touches: bool, spread: float) -> None:
    from flint import arb, arb_mat

    from fenchel.losses.growth import over

    loss = losses.from_expression(formula, ["x", "y"])
    unit = [(arb(0), arb_mat(2, 1, [int(i == k) for i in range(2)]), arb_mat(2, 2)) for k in range(2)]
    rng = np.random.default_rng(0)
    for at in rng.normal(size=(5, 2)):
        found = over(loss.remainder, unit, arb_mat(2, 1, list(at)), arb(spread))
        c, b, A = (np.array([float(x) for x in part]) for part in ([found[0]], found[1], found[2].entries()))

        def bound(theta: np.ndarray, c: np.ndarray = c, b: np.ndarray = b, A: np.ndarray = A) -> np.ndarray:
            return c + theta @ b + 0.5 * np.einsum("ni,ij,nj->n", theta, A.reshape(2, 2), theta)

        if touches and spread < 0.1:
            assert bound(at[None, :])[0] == pytest.approx(jets(loss.remainder, at[None, :], 0)[0][0], abs=1e-3)
        theta = at + rng.normal(size=(2000, 2)) * rng.choice([0.1, 1.0, 10.0, 100.0], size=(2000, 1))
        term = jets(loss.remainder, theta, 0)[0]
        assert (bound(theta) >= term - 1e-9 * (1.0 + np.abs(term))).all()


@pytest.mark.parametrize(
    "tree", [["exp", ["var", 0]], ["pow", ["var", 0], 3], ["mul", ["var", 0], ["sin", ["var", 1]]]]
)
def test_an_expression_without_a_known_growth_is_refused(tree: list[Any]) -> None:
    from flint import arb, arb_mat

    from fenchel.checker.numbers import Refused
    from fenchel.losses.growth import over

    unit = [(arb(0), arb_mat(2, 1, [int(i == k) for i in range(2)]), arb_mat(2, 2)) for k in range(2)]
    with pytest.raises(Refused, match="growth"):
        over(tree, unit, arb_mat(2, 1), arb(1))


@pytest.mark.parametrize(
    "formula",
    [
        "-3*exp(-(x - 1)**2/2/0.01**2) + cos(30*y)*sin(x)",
        "tanh(5*x + y)*2 + atan(3*y - x) + 1/(2 + (x - y)**2)**2",
        "sqrt(1 + x**2) + softplus(4*x - y) + log(2 + cos(3*x)*sin(y))",
        "(1 + exp(-x**2))**-3 + tanh(x)**3",
    ],
)
def test_the_hessian_of_a_formula_is_bounded_on_every_box_and_tightly_on_small_ones(formula: str) -> None:
    loss, rng = losses.from_expression(formula, ["x", "y"]), np.random.default_rng(0)
    center = rng.normal(size=(2000, 2)) * 10.0 ** rng.uniform(-2.0, 1.5, (2000, 1))
    half = 10.0 ** rng.uniform(-6.0, 1.0, (2000, 2))
    upper = loss.local_hessian_upper(center - half, center + half)
    for _ in range(20):
        theta = center + half * rng.uniform(-1.0, 1.0, center.shape)
        assert np.linalg.eigvalsh(upper - loss._hessian(theta))[:, 0].min() >= -1e-9
    small = half.max(axis=1) < 1e-5
    top = np.linalg.eigvalsh(loss._hessian(center[small]))[:, -1]
    assert np.abs(np.linalg.eigvalsh(upper[small])[:, -1] - top).max() < 1e-2 * loss.curvature
