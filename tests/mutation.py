"""Mutation testing of the certified core: is a change of the code noticed by the tests that run it?

    pip install cosmic-ray coverage
    PYTHONPATH=. python tests/mutation.py --each 60 --seed 0

Draws mutants at random, the same number from each group of modules, and runs each against the tests that execute the
changed statement, the fastest first, until one fails. `docs/mutation.md` says what is changed and what was found.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import parso.python.tree
import pytest
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator
from scipy.stats import beta

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "mutation"
GROUPS = {
    "moments": "fenchel/moments/*.py",
    "search": "fenchel/search/*.py",
    "closed": "fenchel/closed/*.py",
    "conjugate": "fenchel/conjugate.py",
    "biconjugate": "fenchel/biconjugate.py",
    "functional": "fenchel/optim/functional.py",
}
# Tests that never run these modules, or run them in other processes, where nothing is seen of it.
LEFT_OUT = ("docs", "experiments", "figures", "judges", "metrics", "packaging", "predict", "architecture", "toy")
OPTIM = ("functional", "bsam", "baselines", "parity")
BINARY = "Add_Sub Sub_Add Mul_Div Div_Mul Pow_Mul FloorDiv_Mul Mod_Add BitOr_BitAnd BitAnd_BitOr"
COMPARISON = "Lt_LtE Lt_Gt LtE_Lt LtE_GtE Gt_GtE Gt_Lt GtE_Gt GtE_LtE Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is"
OTHERS = (
    "ReplaceUnaryOperator_Delete_USub ReplaceUnaryOperator_Delete_Not ReplaceUnaryOperator_Delete_Invert AddNot "
    "ReplaceTrueWithFalse ReplaceFalseWithTrue ReplaceAndWithOr ReplaceOrWithAnd ReplaceBreakWithContinue "
    "ReplaceContinueWithBreak NumberReplacer RemoveDecorator ZeroIterationForLoop"
)
OPERATORS = [
    *(f"core/ReplaceBinaryOperator_{name}" for name in BINARY.split()),
    *(f"core/ReplaceComparisonOperator_{name}" for name in COMPARISON.split()),
    *(f"core/{name}" for name in OTHERS.split()),
    "statement",
    "keyword",
]
ALIASES = ("__all__", "Array", "Index", "Majorant", "Scalar", "ClosedForm", "Master", "Uncertainty")
OPTIONS = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
BROKEN = 70
KILLED, SURVIVED, TIMEOUT, UNREACHED = "killed", "survived", "timeout", "unreached"


class DeleteStatement(Operator):
    """Replaces a statement by ``pass``: no import or docstring, nor one that names a variable for the first time."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "simple_stmt" and node.children[0].type not in ("import_name", "import_from", "string"):
            leaves = _leaves(node.search_ancestor("funcdef"))
            if _defined(node.children[0]) <= {leaf.value for leaf in leaves if leaf.start_pos < node.start_pos}:
                yield node.start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        leaf = node.get_first_leaf()
        node.children[0] = parso.python.tree.Name("pass", leaf.start_pos, leaf.prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class DeleteKeyword(Operator):
    """Removes ``name=value`` from a call, so that the default is taken."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "argument" and node.children[1] == "=":
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[0].value, node.children[1].value = "**", "{"
        node.children[2] = parso.python.tree.Name("}", node.children[2].start_pos)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


def operator(name: str) -> Operator:
    made = {"statement": DeleteStatement, "keyword": DeleteKeyword}
    return made[name]() if name in made else get_operator(name)()  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True)
class Mutant:
    """The ``occurrence``-th place in ``path`` where ``operator`` applies; it is on ``line``."""

    group: str
    path: str
    operator: str
    occurrence: int
    line: int

    def source(self) -> str:
        code = mutate_code((ROOT / self.path).read_text(), operator(self.operator), self.occurrence)
        if code is None:
            raise LookupError(f"nothing to change for {self}")
        return str(code)

    def change(self) -> str:
        """The lines that differ, before and after."""
        old, new = (ROOT / self.path).read_text().splitlines(), self.source().splitlines()
        rows = [(a.strip(), b.strip()) for a, b in zip(old, new, strict=False) if a != b]
        return f"{rows[0][0]}  ->  {rows[0][1]}" if rows else "?"


def mutants(group: str) -> Iterator[Mutant]:
    """All mutants of a group; not those in annotations, messages (f-strings, what is raised) and ``__all__``."""
    for path in sorted(ROOT.glob(GROUPS[group])):
        nodes = list(_nodes(parso.parse(path.read_text())))
        for name in OPERATORS:
            positions = ((node, start) for node in nodes for start, _ in operator(name).mutation_positions(node))
            for occurrence, (node, start) in enumerate(positions):
                if not _is_text(node, statement=name == "statement"):
                    yield Mutant(group, str(path.relative_to(ROOT)), name, occurrence, start[0])


def _leaves(node: Any) -> Iterator[Any]:
    return (inner for inner in _nodes(node) if node is not None and not hasattr(inner, "children"))


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in getattr(node, "children", ()):
        yield from _nodes(child)


def _defined(statement: Any) -> set[str]:
    return {name.value for name in statement.get_defined_names()} if statement.type == "expr_stmt" else set()


def _is_text(node: Any, *, statement: bool) -> bool:
    inner = node
    while node is not None:
        if node.type in ("fstring", "annassign", "tfpdef", "decorator") and inner.type != "decorator":
            return True
        if node.type == "raise_stmt" and not statement:
            return True
        if inner is node and node.type == "operator" and node.value in ("*", "**") and "param" in node.parent.type:
            return True  # a star in a signature multiplies nothing
        parent = node.parent
        if parent is not None and parent.type == "funcdef" and node is parent.annotation:
            return True
        if node.type == "expr_stmt" and parent.type == "simple_stmt" and parent.parent.type == "file_input":
            return node.children[0].get_code().strip() in ALIASES
        node = parent
    return False


# ---- which tests run which statement ---------------------------------------------------------------------------------


class _Recorder:
    """Tells coverage which test runs, and notes the processor time of each."""

    def __init__(self, switch: Callable[[str], None]) -> None:
        self.switch, self.seconds, self.failed = switch, dict[str, float](), set[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        begin = time.process_time()
        self.switch(item.nodeid)
        try:
            return (yield)
        finally:
            self.switch("")
            self.seconds[item.nodeid] = time.process_time() - begin


def cover(files: list[str]) -> int:
    """Run the tests once, under coverage; to `FOLDER`/cover.json."""
    import coverage

    include = [str(ROOT / pattern) for pattern in GROUPS.values()]
    measured = coverage.Coverage(data_file=None, include=include, config_file=False)
    recorder = _Recorder(lambda name: measured.switch_context(name) if measured._started else None)
    measured.start()
    pytest.main([*OPTIONS, *files], plugins=[recorder])
    measured.stop()
    data = measured.get_data()
    lines = {
        str(Path(file).relative_to(ROOT)): {
            line: [name for name in names if name and name not in recorder.failed]
            for line, names in data.contexts_by_lineno(file).items()
        }
        for file in data.measured_files()
    }
    known = {"seconds": recorder.seconds, "lines": lines, "failed": sorted(recorder.failed)}
    (FOLDER / "cover.json").write_text(json.dumps(known))
    return 0


def reaching(mutant: Mutant, lines: dict[str, list[str]]) -> set[str]:
    """Tests that execute the changed statement; for what runs at import, those of its function or of its module."""
    spans = []
    for node in ast.walk(ast.parse((ROOT / mutant.path).read_text())):
        if isinstance(node, ast.stmt) and node.lineno <= mutant.line <= (node.end_lineno or 0):
            spans.append((node.lineno, node.end_lineno or 0))
            body = getattr(node, "body", None)
            if body and mutant.line < body[0].lineno:
                spans.append((node.lineno, body[0].lineno - 1))
    for first, last in [*sorted(spans, key=lambda span: span[1] - span[0]), (0, 10**9)]:
        found = {name for line, names in lines.items() if first <= int(line) <= last for name in names}
        if found:
            return found
    return set()


# ---- one mutant ------------------------------------------------------------------------------------------------------


class _Limits:
    """No shrinking of failures; a test that takes far longer than it did ends the process by a signal."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile("mutation", settings.get_profile("same"), phases=(Phase.explicit, Phase.generate))
        settings.load_profile("mutation")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        signal.setitimer(signal.ITIMER_PROF, 5.0 + 10.0 * self.seconds[item.nodeid])
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            (FOLDER / "failed").write_text(report.nodeid)


def apart(work: Callable[[], Any], wall: float) -> int | None:
    """The exit status of ``work`` in a process of its own, minus the signal that ended it, None after ``wall``."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        status = BROKEN
        try:
            status = int(work())
        finally:
            os._exit(status)
    end = time.monotonic() + wall
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def tried(mutant: Mutant, names: list[str], seconds: dict[str, float]) -> tuple[str, str]:
    """Killed, survived or timed out; and the test that ended it."""
    code, target = mutant.source(), mutant.path.removesuffix(".py").replace("/", ".")
    load: Any = SourceFileLoader.get_code

    def get_code(self: Any, name: str) -> Any:
        return compile(code, self.path, "exec", dont_inherit=True) if name == target else load(self, name)

    def work() -> int:
        SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
        return int(pytest.main(["-x", "--tb=no", *OPTIONS, *names], plugins=[_Limits(seconds)]))

    (FOLDER / "failed").write_text("")
    status = apart(work, wall=120.0 + 4.0 * sum(seconds[name] for name in names))
    if status == 0:
        return SURVIVED, ""
    if status == BROKEN:
        raise RuntimeError(f"pytest could not be started for {mutant}")
    failed = (FOLDER / "failed").read_text()
    return (TIMEOUT if status is None or status == -signal.SIGPROF else KILLED), failed or f"status {status}"


# ---- the sample and its table ----------------------------------------------------------------------------------------


def sample(each: int, seed: int) -> list[Mutant]:
    """``each`` mutants of every group (all, where there are fewer), so ordered that every beginning is a sample."""
    drawn = []
    for group in GROUPS:
        everything = list(mutants(group))
        chosen = random.Random(f"{seed} {group}").sample(everything, min(each, len(everything)))
        drawn += [((k + 0.5) / len(chosen), mutant) for k, mutant in enumerate(chosen)]
    return [mutant for _, mutant in sorted(drawn, key=lambda pair: pair[0])]


def table(rows: list[dict[str, Any]]) -> str:
    """Killed and drawn by group with the Clopper-Pearson 95 % interval, as Markdown; timeouts count as killed."""
    lines = [
        "| modules | mutants | drawn | killed | of these by time | survived | killed, 95 % interval |",
        7 * "|---" + "|",
    ]
    sizes = {group: sum(1 for _ in mutants(group)) for group in GROUPS}
    for group in [*GROUPS, "all"]:
        of = [row["outcome"] for row in rows if group in ("all", row["group"])]
        killed = sum(outcome in (KILLED, TIMEOUT) for outcome in of)
        low = beta.ppf(0.025, killed, len(of) - killed + 1) if killed else 0.0
        high = beta.ppf(0.975, killed + 1, len(of) - killed) if killed < len(of) else 1.0
        share = f"{100 * killed / max(1, len(of)):.0f} % ({100 * low:.0f} to {100 * high:.0f})"
        counts = [sizes.get(group, sum(sizes.values())), len(of), killed, of.count(TIMEOUT), len(of) - killed]
        lines.append(f"| {group} | {' | '.join(map(str, counts))} | {share} |")
    return "\n".join(lines)


def attempt(row: dict[str, Any], known: dict[str, Any], most: float) -> dict[str, Any]:
    """The row of a mutant after its next tests, the fastest first, together about ``most`` seconds long."""
    mutant = Mutant(**{name: row[name] for name in Mutant.__dataclass_fields__})
    names = sorted(reaching(mutant, known["lines"].get(mutant.path, {})), key=lambda name: known["seconds"][name])
    spent, chosen = 0.0, list[str]()
    for name in names[row["tests"] :]:
        spent += known["seconds"][name]
        if spent > most and chosen:
            break
        chosen.append(name)
    outcome, by = tried(mutant, chosen, known["seconds"]) if chosen else (SURVIVED if names else UNREACHED, "")
    print(outcome, mutant.path, mutant.line, mutant.change(), by, flush=True)
    counts = {"tests": row["tests"] + len(chosen), "of": len(names)}
    return {**row, "outcome": outcome, "by": by, **counts, "change": mutant.change()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--each", type=int, default=60, help="mutants of every group")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=float, default=30.0, help="seconds of tests a mutant has to survive")
    parser.add_argument("--again", action="store_true", help="only more tests for the survivors of the last run")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("cvxpy", "highspy", "hypothesis.strategies", "scipy.optimize", "scipy.spatial", "torch"):
        importlib.import_module(name)  # once for all processes
    if not (FOLDER / "cover.json").exists():
        files = [str(file) for file in sorted((ROOT / "tests").glob("test_*.py")) if file.stem[5:] not in LEFT_OUT]
        files += [str(ROOT / "tests" / "optim" / f"test_{name}.py") for name in OPTIM]
        if apart(lambda: cover(files), wall=7200.0) != 0:
            sys.exit("the tests could not be run")
    known = json.loads((FOLDER / "cover.json").read_text())
    results = FOLDER / f"outcomes-{options.seed}.json"
    rows: list[dict[str, Any]] = json.loads(results.read_text()) if results.exists() else []
    if options.again:
        todo = [k for k, row in enumerate(rows) if row["outcome"] == SURVIVED and row["tests"] < row["of"]]
    else:
        drawn = [{**asdict(mutant), "tests": 0} for mutant in sample(options.each, options.seed)]
        todo = list(range(len(rows), len(drawn)))
        rows += drawn[len(rows) :]
    for k in todo:
        rows[k] = attempt(rows[k], known, options.most)
        results.write_text(json.dumps([row for row in rows if "outcome" in row], indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
