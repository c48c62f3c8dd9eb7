"""The shape of the code base: no import circles, theory without torch, no pickle, no rooms with two ideas."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("fenchel", "experiments", "figures")
TORCH_SIDE = ("fenchel.optim", "fenchel.predict", "fenchel.metrics", "fenchel.integrations")
LIBRARIES_LOADED_LATE = ("torch", "matplotlib", "cvxpy", "highspy", "sklearn", "jax", "numpyro", "triton")


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, name: str, *, late: bool) -> set[str]:
    """Modules imported by a file; ``late`` also counts imports inside functions, never those for type checking."""
    tree = ast.parse(path.read_text())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not late:
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return names


def test_imports_have_no_circle() -> None:
    known = modules()
    graph = {n: {i for i in imports(p, n, late=False) if i in known and i != n} for n, p in known.items()}
    done: set[str] = set()

    def walk(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, "import circle: " + " -> ".join((*trail[trail.index(node) :], node))
        if node in done:
            return
        for target in graph[node]:
            # A submodule's package is imported before it by Python itself; that is no circle of ours.
            if not node.startswith(target + ".") or target in trail:
                walk(target, (*trail, node))
        done.add(node)

    for name in graph:
        walk(name, ())


def test_theory_never_imports_torch() -> None:
    for name, path in modules().items():
        if name.startswith("fenchel") and not name.startswith(TORCH_SIDE):
            used = {i.split(".")[0] for i in imports(path, name, late=True)}
            assert not used & {"torch", "matplotlib"}, f"{name} imports {used & {'torch', 'matplotlib'}}"
            assert not any(i.startswith(TORCH_SIDE) for i in imports(path, name, late=True)), name


def test_data_flows_one_way() -> None:
    for name, path in modules().items():
        used = {i.split(".")[0] for i in imports(path, name, late=True)}
        if name.startswith("fenchel"):
            assert not used & {"experiments", "figures"}, name
        if name.startswith("experiments"):
            assert "figures" not in used, name


def test_only_one_module_imports_cvxpy() -> None:
    users = [n for n, p in modules().items() if n.startswith("fenchel") and "cvxpy" in imports(p, n, late=True)]
    assert users in ([], ["fenchel.moments.programs"]), users


def test_importing_the_theory_is_light() -> None:
    code = f"import fenchel, sys; print([m for m in {LIBRARIES_LOADED_LATE} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert out.stdout.strip() == "[]"


def test_a_file_of_the_theory_has_one_idea() -> None:
    for name, path in modules().items():
        if name.startswith("fenchel") and not name.startswith(TORCH_SIDE):
            assert path.read_text().count("\n") <= 250, f"{path} is long: does it hold two ideas?"


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_files_are_short_and_free_of_pickle(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 500, f"{path} is long: does it hold two ideas?"
        assert not re.search(r"pickle\.load|(weights_only)=False|(allow_pickle)=True|\bexcept\s*:", text), path


def test_public_names_are_exported() -> None:
    import fenchel

    for name in fenchel.__all__:
        assert hasattr(fenchel, name), name


def test_a_loss_is_asked_and_not_inspected() -> None:
    """No switch on the class of a loss outside fenchel/losses, so that a user's own class is like any other."""
    switch = re.compile(r"isinstance\([\w.]*loss, *[\w.]*(Linear|User|Expression)\w*Loss")
    files = [p for p in (ROOT / "fenchel").rglob("*.py") if "losses" not in p.relative_to(ROOT).parts]
    assert len(files) > 50
    assert not [str(p) for p in files if switch.search(p.read_text())]
