"""Certificates: every certified bracket is proved again, and nothing false is."""

from __future__ import annotations

import ast
import copy
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flint import arb, arb_mat, ctx, fmpq_mat

import fenchel
from fenchel import Gaussian, losses
from fenchel.__main__ import main
from fenchel.checker import VERSION, check_record
from fenchel.checker.expressions import sized
from fenchel.checker.functions import ONE_SIDED, SMOOTH, parabola_above
from fenchel.checker.loss import Excess, Loss, Quadratic
from fenchel.checker.numbers import Refused, exact, exacts, identity
from fenchel.losses.bounded_links import BumpLink, IndicatorLink
from fenchel.losses.exact_text import hexes
from fenchel.losses.linear_predictor import LinearPredictorLoss, Terms
from fenchel.losses.links import AbsLink, HuberLink, ReLULink

FAMILIES = ("full", "diagonal", "isotropic")


def _terms(link: Any, dim: int, **quadratic: Any) -> LinearPredictorLoss:
    rng = np.random.default_rng(dim)
    n = dim + 1
    return LinearPredictorLoss(
        [Terms(link, rng.normal(size=(n, dim)), rng.normal(size=n), rng.uniform(0.3, 1.5, n))], **quadratic
    )


def _cases() -> dict[str, losses.Loss]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(15, 2))
    return {
        "relu": losses.ReLU(0.3),
        "absolute": losses.Absolute(-0.2),
        "softplus": losses.Softplus(),
        "huber": losses.Huber(0.6),
        "indicator": losses.Indicator(0.4),
        "wells": losses.ThreeWells(),
        "quadratic": losses.Quadratic([[2.0, 0.3], [0.3, 1.0]], [1.0, -1.0], 0.2),
        "logistic": losses.LogisticRegression(x, rng.integers(0, 2, 15)),
        "logistic, few data": losses.LogisticRegression(x[:1], [1]),
        "logistic, P = 3": losses.LogisticRegression(rng.normal(size=(10, 3)), rng.integers(0, 2, 10)),
        "hubers": _terms(HuberLink(0.7), 2),
        "moduli": _terms(AbsLink(), 2),
        "hinges": _terms(ReLULink(), 3),
        "bumps": _terms(BumpLink(), 2, H=0.5 * np.eye(2)),
        "jumps": _terms(IndicatorLink(), 1),
        "expression": losses.from_expression("log(1 + (x - 1)**2) + 0.1*x**2", ["x"]),
        "wells as an expression": losses.from_expression("0.1*x**2 - 2*exp(-(x + 2)**2/0.5) - cos(x)", ["x"]),
        "expression, P = 2": losses.from_expression("log1p(exp(x - y)) + 0.2*(x + y)**2 + sqrt(1 + y**2)", ["x", "y"]),
    }


CASES = _cases()


def _moments(dim: int, family: str) -> Gaussian:
    rng = np.random.default_rng(10 * dim)
    root = rng.normal(size=(dim, dim))
    cov: Any = {"full": root @ root.T + 0.2 * np.eye(dim), "diagonal": rng.uniform(0.3, 2.0, dim), "isotropic": 0.8}
    return Gaussian(rng.normal(size=dim), cov[family])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CASES)
def test_a_certified_bracket_of_the_biconjugate_is_proved_again(name: str, family: str) -> None:
    loss = CASES[name]
    result = fenchel.biconjugate(loss, _moments(loss.dim, family))
    assert result.certified
    checked = fenchel.check(result.certificate())
    assert checked.valid, checked.message
    room = 1e-12 * max(1.0, abs(result.value))
    assert checked.lower >= result.lower - room
    assert checked.upper <= result.upper + room
    assert checked.lower <= checked.upper


@pytest.mark.parametrize("name", CASES)
def test_certificates_of_the_objectives_are_proved_again(name: str) -> None:
    loss = CASES[name]
    q, prior = _moments(loss.dim, "full"), Gaussian(np.full(loss.dim, 0.1), 1.5)
    found = [
        fenchel.conjugate(loss, *q.natural()),
        fenchel.proximal_objective(loss, np.full(loss.dim, 0.2), 0.4, 0.7),
        fenchel.relaxed_bayes_objective(loss, q, prior),
        fenchel.sam_objective(loss, np.full(loss.dim, 0.3), 0.8, 0.1),
    ]
    for result in found:
        if result.certified and np.isfinite(result.value):
            checked = fenchel.check(result.certificate())
            assert checked.valid, checked.message
            room = 1e-12 * max(1.0, abs(result.value))
            assert checked.lower >= result.lower - room
            assert checked.upper <= result.upper + room


@pytest.mark.parametrize("method", ["closed-form", "hull"])
def test_results_of_other_methods_have_certificates_too(method: str) -> None:
    for loss in (losses.ReLU(0.2), losses.Softplus(), losses.Absolute(0.1)):
        result = fenchel.biconjugate(loss, Gaussian([0.4], [[0.7]]), method=method)
        assert result.certified
        assert fenchel.check(result.certificate()).valid


def test_a_claim_beyond_the_truth_is_refused() -> None:
    # For the logistic loss f** is known: -(m/2 + log(2 cosh(sqrt(m^2 + v) / 2))).
    m, v = 0.4, 0.7
    truth = -(m / 2.0 + np.log(2.0 * np.cosh(np.sqrt(m * m + v) / 2.0)))
    record = fenchel.biconjugate(losses.Softplus(), Gaussian([m], [[v]])).certificate().to_dict()
    for end, value in (("lower", truth + 1e-9), ("upper", truth - 1e-9)):
        claim = record["claim"] | {end: float(value).hex()}
        checked = fenchel.check(record | {"claim": claim})
        assert not checked.valid
        assert checked.lower <= truth <= checked.upper


@pytest.mark.parametrize("name", CASES)
def test_a_majorant_that_crosses_the_loss_is_refused(name: str) -> None:
    loss = CASES[name]
    result = fenchel.biconjugate(loss, _moments(loss.dim, "full"))
    record = result.certificate().to_dict()
    low = 1e-9 * max(1.0, abs(result.value))
    constant = float.fromhex(record["majorant"]["constant"]) - low
    claim = record["claim"] | {"lower": (result.lower + 0.5 * low).hex()}
    checked = fenchel.check(record | {"majorant": record["majorant"] | {"constant": constant.hex()}, "claim": claim})
    assert not checked.valid


@pytest.mark.parametrize("name", [*ONE_SIDED, "step"])
def test_the_checkers_parabolas_lie_above_their_functions(name: str) -> None:
    """On random intervals with random points of contact, also outside of them, at 400 points each and at the ends."""

    def f(z: arb) -> arb:
        return arb(int(z >= 0)) if name == "step" else ONE_SIDED[name].value(z)

    rng = np.random.default_rng(0)
    with ctx.workprec(128):
        for _ in range(300):
            lo, hi = (arb(x) for x in np.sort(rng.normal(size=2) * rng.choice([0.1, 1.0, 5.0, 50.0])))
            z0 = lo + (hi - lo) * rng.choice([0.0, rng.uniform(), 1.0, -0.7, 2.0])
            spread = rng.choice([None, arb(0), arb(0.3), arb(10)])
            v, s, r = parabola_above(name, z0, spread, arb(rng.choice([0.0, 0.3, 4.0])))(lo.union(hi))
            if not r.is_finite():  # on a kink
                assert name in ("relu", "abs")
                assert z0.contains(0)
                continue
            for k in range(401):
                z = lo + (hi - lo) * k / 400
                assert not v + s * (z - z0) + r * (z - z0) ** 2 / 2 < f(z) - 1e-30


@pytest.mark.parametrize("name", [*SMOOTH, *ONE_SIDED])
def test_the_checkers_functions_enclose_values_slopes_and_curvatures(name: str) -> None:
    f = SMOOTH[name] if name in SMOOTH else ONE_SIDED[name]
    rng = np.random.default_rng(1)
    with ctx.workprec(256):
        for _ in range(300):
            lo, hi = np.sort(rng.normal(size=2) * rng.choice([0.01, 1.0, 20.0]))
            if name in ("log", "sqrt"):
                lo, hi = abs(lo) + 1e-3, abs(lo) + abs(hi) + 2e-3
            whole = arb(lo).union(arb(hi))
            z, h = arb(rng.uniform(lo, hi)), arb(1e-20)
            assert f.value(whole).overlaps(f.value(z))
            assert f.slope(whole).overlaps(f.slope(z))
            middle = f.value(z + h) - f.value(z - h)
            assert abs(middle / (2 * h) - f.slope(z)) < 1e-15
            second = (f.slope(z + h) - f.slope(z - h)) / (2 * h)
            bend = f.bend(whole)
            if not bend.is_finite():
                assert name in ("relu", "abs")
                assert lo < 0 < hi
                continue
            assert second < bend.upper() + 1e-15
            assert name in ONE_SIDED or bend.lower() - 1e-15 < second
            assert abs(second - f.bend(z)) < 1e-15


def test_kinks_inside_expressions_and_negative_weights_are_refused() -> None:
    record = fenchel.biconjugate(losses.Absolute(), Gaussian([0.4], [[0.7]])).certificate().to_dict()
    assert check_record(record).valid
    group = record["loss"]["groups"][0]
    for changed in ({"tree": ["sin", group["tree"]]}, {"weights": ["-1/1"]}, {"tree": ["sin", ["step", ["var", 0]]]}):
        loss = record["loss"] | {"groups": [group | changed]}
        checked = check_record(record | {"loss": loss})
        assert not checked.valid
        assert "inside" in checked.message or "negative" in checked.message


def _random_tree(rng: np.random.Generator, depth: int) -> list[Any]:
    """An expression of smooth functions in two variables that is finite and of at most linear growth, or nearly so."""
    if depth == 0:
        return [["var", 0], ["var", 1], ["const", float(rng.normal()).hex()]][rng.integers(3)]
    parts = [_random_tree(rng, depth - 1) for _ in range(2)]
    positive = ["add", ["const", "0x1p-1"], ["pow", parts[0], 2]]
    bounded = ["mul", ["sin", parts[0]], ["tanh", parts[1]]]
    bell = ["exp", ["mul", ["const", "-0x1p0"], positive]]
    choices = [["add", *parts], bounded, bell, ["log", positive], ["sqrt", positive], ["softplus", parts[0]]]
    choices += [["pow", positive, -2], ["atan", parts[0]], ["cos", parts[1]], ["mul", ["const", "-0x1p1"], parts[0]]]
    return choices[rng.integers(len(choices))]


@pytest.mark.parametrize("seed", range(16))
def test_the_checkers_quadratics_lie_above_random_losses(seed: int) -> None:
    """On boxes, from anchors inside and outside of them, and by growth everywhere."""
    rng = np.random.default_rng(seed)
    trees = [[name, ["var", 0]] for name in [*ONE_SIDED, "step"]] + [["relu", _random_tree(rng, 1)]]
    trees += [_random_tree(rng, int(rng.integers(1, 4))) for _ in range(3)]
    groups = []
    for tree in [trees[k] for k in rng.choice(len(trees), 3, replace=False)]:
        rows, offsets = rng.normal(size=(2, 2, 2)), rng.normal(size=(2, 2))
        groups.append({"tree": tree, "rows": hexes(rows), "offsets": hexes(offsets), "weights": hexes([0.7, 1.3])})
    H = rng.normal(size=(2, 2))
    record = {"dim": 2, "H": hexes(H + H.T), "b": hexes(rng.normal(size=2)), "c": hexes(0.3), "groups": groups}
    with ctx.workprec(128):
        loss = Loss.read(record)
        origin, basis = exacts(hexes(rng.normal(size=2)), 2), exacts(hexes(rng.normal(size=(2, 2))), 2, 2)
        center = exacts(hexes(rng.normal(size=2)), 2)
        q = Quadratic(center, exact("0x1p0"), center, identity(2))
        excess = Excess(loss, q, origin, basis)

        def height(u: Any) -> arb:
            theta = origin + basis * exacts(hexes(u), 2)
            return loss.value(theta) - arb(q.value(theta))

        def above(bound: Any, d: Any) -> arb:
            step = arb_mat(2, 1, [arb(float(x)) for x in d])
            return bound[0] + (step.transpose() * (bound[1] + bound[2] * step / 2))[0, 0]

        for _ in range(12):
            middle, half = rng.normal(size=2), rng.uniform(size=2) * rng.choice([0.05, 0.5, 3.0])
            at = middle + half * rng.uniform(-2.0, 2.0, size=2)
            spread = rng.choice([None, arb(0), arb(0.5)])
            anchor = arb_mat(exacts(hexes(at), 2)), (arb(0.5), arb(2)), spread
            boxes = arb_mat(exacts(hexes(middle), 2)), arb_mat(exacts(hexes(half), 2))
            try:
                bound = excess.above(*anchor)(*boxes)
            except Refused:
                continue
            for _ in range(16):
                d = half * rng.choice([rng.uniform(-1.0, 1.0), -1.0, 1.0], size=2) * (1.0 - 1e-15)
                exact_d = (middle + d) - middle
                assert not above(bound, exact_d) < height(middle + exact_d) - 1e-9
        try:
            constant, linear, bent = excess.everywhere()
        except Refused:
            return
        for _ in range(60):
            u = rng.normal(size=2) * 10.0 ** rng.uniform(-2.0, 4.0)
            growth = constant + linear * arb(float(np.hypot(*u)))
            assert not above((growth, arb_mat(2, 1), bent), u) < height(u) - 1e-9 * float(u @ u)


@pytest.mark.parametrize(
    "tree",
    [
        ["sqrt", ["add", ["var", 0], ["const", "0x1p3"], ["pow", ["var", 1], 2]]],
        ["sqrt", ["add", ["const", "0x1p0"], ["abs", ["var", 0]], ["pow", ["var", 1], 2]]],
        ["sqrt", ["add", ["const", "0x1p0"], ["abs", ["var", 0]]]],
        ["log", ["add", ["const", "0x1p-9"], ["pow", ["var", 0], 2], ["pow", ["var", 1], 4]]],
        ["softplus", ["add", ["var", 0], ["mul", ["const", "-0x1p3"], ["var", 1]]]],
        ["mul", ["var", 0], ["exp", ["mul", ["const", "-0x1p0"], ["pow", ["var", 1], 2]]]],
        ["add", ["squared-relu", ["var", 0]], ["huber", ["var", 1]], ["bump", ["var", 0]]],
        ["pow", ["add", ["const", "0x1p0"], ["pow", ["var", 0], 2]], -3],
    ],
)
def test_the_checkers_polynomials_are_larger_than_expressions(tree: list[Any]) -> None:
    rng = np.random.default_rng(0)

    def value(node: list[Any], z: list[arb]) -> arb:
        name, *parts = node
        if name in ("const", "var"):
            return z[parts[0]] if name == "var" else arb(float.fromhex(parts[0]))
        if name == "pow":
            return value(parts[0], z) ** parts[1]
        found = [value(part, z) for part in parts]
        if name in ("add", "mul"):
            return sum(found, arb(0)) if name == "add" else found[0] * found[1]
        return (SMOOTH[name] if name in SMOOTH else ONE_SIDED[name]).value(found[0])

    for _ in range(300):
        start = rng.normal(size=2) * 10.0 ** rng.uniform(-2.0, 2.0)
        z = start + rng.normal(size=2) * 10.0 ** rng.uniform(-2.0, 4.0)
        found = value(tree, [arb(x) for x in z])
        size = sized(tree, [arb(x) for x in start])(arb(float(np.hypot(*(z - start)))) * (1 + arb(1e-9)))
        assert not found.is_finite() or abs(found) <= size * (1 + arb(1e-9))


def test_a_jump_that_balls_cannot_decide_counts_both_ways() -> None:
    """e^z - e^z at z = 1 is 0 up to rounding: above the step for the majorant, below it for the atoms."""
    z: list[Any] = ["var", 0]
    step = ["step", ["add", ["exp", z], ["mul", ["const", "-1"], ["exp", z]]]]
    record = {"dim": 1, "H": [["0"]], "b": ["0"], "c": "0"}
    group = {"tree": step, "rows": [[["1"]]], "offsets": [["0"]], "weights": ["1"]}
    value = Loss.read(record | {"groups": [group]}).value(fmpq_mat(1, 1, [1]))
    assert value.contains(0)
    assert value.contains(1)


def test_certificates_of_the_first_format_are_refused_in_one_sentence() -> None:
    record = fenchel.biconjugate(losses.ReLU(), Gaussian([0.4], [[0.7]])).certificate().to_dict()
    message = fenchel.check(record | {"version": 1}).message
    assert message == "the format has version 1, only 2 is known here; make the certificate again"


def _leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(node, dict):
        return [leaf for key, part in node.items() for leaf in _leaves(part, (*path, key))]
    if isinstance(node, list):
        return [leaf for k, part in enumerate(node) for leaf in _leaves(part, (*path, k))]
    return [path] if isinstance(node, str) and re.fullmatch("-?(0x.*|[0-9]+/[0-9]+)", node) else []


@pytest.mark.parametrize("name", ["wells", "logistic", "moduli", "indicator", "wells as an expression"])
def test_a_tampered_certificate_proves_nothing_false(name: str) -> None:
    """One number changed: either it is refused, or what is proved is true of the numbers given."""
    loss = CASES[name]
    q = _moments(loss.dim, "full")
    result = fenchel.biconjugate(loss, q)
    record = result.certificate().to_dict()
    rng = random.Random(0)
    room = 1e-12 * max(1.0, abs(result.value))
    refused = 0
    for path in rng.sample(_leaves(record), 30):
        changed = copy.deepcopy(record)
        node: Any = changed
        for key in path[:-1]:
            node = node[key]
        number = float.fromhex(node[path[-1]]) if node[path[-1]].lstrip("-").startswith("0x") else 1.0
        node[path[-1]] = (number * (1.0 + rng.choice([-1e-3, 1e-3, 0.5])) + rng.choice([0.0, 1e-3])).hex()
        checked = fenchel.check(changed)
        refused += not checked.valid
        if path[0] not in ("loss", "moments", "family"):
            # The problem is the same, so that whatever is proved has to bracket the same number.
            assert checked.lower <= result.upper + room
            assert checked.upper >= result.lower - room
            assert checked.lower <= checked.upper
    assert refused > 0


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"version": 1},
        {"version": VERSION, "claim": {}},
        {
            "version": VERSION,
            "claim": {"quantity": "biconjugate", "lower": "nan", "upper": "0x1p0"},
            "loss": {"kind": "?"},
        },
        {"version": VERSION, "claim": [], "loss": 3},
    ],
)
def test_what_cannot_be_read_is_not_valid(record: dict[str, Any]) -> None:
    checked = fenchel.check(record)
    assert not checked.valid
    assert checked.message
    with pytest.raises(TypeError, match="certificate"):
        fenchel.check(3)  # type: ignore[arg-type]


def test_missing_parts_are_refused() -> None:
    record = fenchel.biconjugate(CASES["logistic"], _moments(2, "full")).certificate().to_dict()
    assert check_record(record).valid
    assert len(record["proof"]["lower"]["tree"]) > 1
    for key in ("loss", "family", "moments", "majorant", "atoms", "weights", "proof"):
        assert not check_record({k: v for k, v in record.items() if k != key}).valid
    cut = copy.deepcopy(record)
    cut["proof"]["lower"]["tree"] = []
    assert not check_record(cut).valid
    wide = copy.deepcopy(record)
    wide["proof"]["lower"]["tree"] *= 2
    assert not check_record(wide).valid


def test_only_certified_results_of_known_losses_have_certificates() -> None:
    q = Gaussian([0.4], [[0.7]])
    sampled = fenchel.biconjugate(losses.ReLU(), q, method="sampled", num_pieces=5)
    with pytest.raises(ValueError, match="certified"):
        sampled.certificate()
    opaque = losses.from_function(
        lambda t: np.cos(t[:, 0]),
        lambda t: -np.sin(t),
        1,
        curvature=1.0,
        majorizer=losses.Quadratic([[0.0]], [0.0], 1.0),
    )
    result = fenchel.biconjugate(opaque, q)
    assert result.certified
    with pytest.raises(ValueError, match="from_expression"):
        result.certificate()


def test_saved_certificates_read_back_and_are_checked_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = fenchel.biconjugate(losses.ReLU(), Gaussian([0.4], [[0.7]])).certificate()
    good, bad, foreign = (tmp_path / name for name in ("good.json", "bad.json", "foreign.json"))
    certificate.save(good)
    assert fenchel.Certificate.load(good).to_dict() == certificate.to_dict()
    record = certificate.to_dict()
    record["claim"]["lower"] = record["claim"]["upper"]
    bad.write_text(json.dumps(record))
    foreign.write_text("[1, 2")
    assert main(["check", str(good)]) == 0
    assert main(["check", str(good), str(bad)]) == 1
    assert "not proved" in capsys.readouterr().out
    assert main(["check", str(good), str(foreign)]) == 2
    assert main(["check", str(tmp_path / "missing.json")]) == 2
    assert "missing.json" in capsys.readouterr().err


def test_the_checker_shares_no_code_with_the_solver() -> None:
    folder = Path(fenchel.__file__).parent / "checker"
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert not name.startswith("fenchel") or name.startswith("fenchel.checker"), (file.name, name)
                assert name.split(".")[0] not in ("numpy", "scipy", "cvxpy"), (file.name, name)


def test_the_picture_of_a_proof() -> None:
    """The majorant touches the loss at the atoms and lies above it; the boxes cover where the loss comes near it."""
    loss = CASES["logistic"]
    result = fenchel.biconjugate(loss, _moments(2, "full"))
    certificate = result.certificate()
    atoms = result.atoms[result.weights > 1e-6]
    assert np.abs(certificate.majorant(atoms) - loss(atoms)).max() < 1e-6
    theta = result.atoms[0] + 6.0 * np.random.default_rng(0).normal(size=(2000, 2))
    assert (certificate.majorant(theta) >= loss(theta)).all()
    boxes = certificate.boxes()
    assert boxes.shape[1:] == (4, 2)
    for atom in atoms:
        center, axes = boxes.mean(axis=1), boxes[:, [1, 2]] - boxes[:, [0]]
        inside = np.abs(np.linalg.solve(axes.transpose(0, 2, 1), (atom - center)[:, :, None])[:, :, 0]) <= 0.5 + 1e-9
        assert inside.all(axis=1).any()
    flat = fenchel.biconjugate(losses.Quadratic([[1.0]], [0.0]), Gaussian([0.2], 1.0)).certificate()
    assert flat.boxes().shape == (1, 2, 1)
    assert flat.majorant(np.array([[2.0]]))[0] == pytest.approx(2.0, abs=1e-9)
