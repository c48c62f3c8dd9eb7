"""What is installed: the package alone, one version everywhere, and one sentence where an extra is missing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

import fenchel

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_wheel_holds_the_package_alone() -> None:
    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.split(".")[0] for name in find_packages(str(ROOT), include=include)} == {"fenchel"}


def test_one_version_everywhere() -> None:
    assert fenchel.__version__ == PROJECT["version"]
    assert f"version: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert "## " in (ROOT / "CHANGELOG.md").read_text()


def test_all_is_the_sum_of_the_extras() -> None:
    extras = PROJECT["optional-dependencies"]
    named = set(extras["all"][0].split("[")[1].rstrip("]").split(","))
    assert named == set(extras) - {"all", "dev"}


_BLOCK = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import importlib.util
spec = importlib.util.find_spec
def find(name, package=None):
    return None if name.split(".")[0] in {hidden} else spec(name, package)
importlib.util.find_spec = find
"""


_NUTS = """
import fenchel
prior = fenchel.Gaussian([0.0] * 3, 1.0)
fenchel.exact_posterior(fenchel.losses.LogisticRegression([[1.0, 2.0, 3.0]], [1]), prior)
"""


def test_type_checkers_of_users_see_the_annotations() -> None:
    """The marker that the classifier "Typing :: Typed" promises lies in the package, and goes into the wheel."""
    assert (ROOT / "fenchel" / "py.typed").exists()
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["fenchel"]
    assert "py.typed" in data


@pytest.mark.parametrize(
    ("code", "hidden", "sentence"),
    [
        ("from fenchel.optim import BSAM", ["torch"], "pip install 'fenchel[optim]'"),
        ("import fenchel.predict", ["torch"], "pip install 'fenchel[optim]'"),
        ("import fenchel.metrics", ["torch"], "pip install 'fenchel[optim]'"),
        ("import fenchel.integrations", ["torch"], "pip install 'fenchel[optim]'"),
        ("import fenchel.testing", ["hypothesis"], "pip install 'fenchel[testing]'"),
        ("import fenchel; fenchel.check({})", ["flint"], "pip install 'fenchel[check]'"),
        ("import fenchel; fenchel.losses.from_expression('x**2', ['x'])", ["flint"], "pip install 'fenchel[check]'"),
        ("import fenchel.checker", ["flint"], "pip install 'fenchel[check]'"),
        ("import fenchel; fenchel.problems.breast_cancer()", ["sklearn"], "pip install 'fenchel[experiments]'"),
        (_NUTS, ["numpyro"], "pip install 'fenchel[mcmc]'"),
    ],
)
def test_a_missing_extra_is_said_in_one_sentence(code: str, hidden: list[str], sentence: str) -> None:
    script = _BLOCK.format(hidden=hidden) + code
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(("fenchel.errors.MissingDependencyError: ", "ImportError: fenchel"))
    assert sentence in last


@pytest.mark.parametrize(
    ("arguments", "hidden", "words"),
    [
        (["experiments", "run", "table6"], ["torch", "torchvision"], "is not installed"),
        (["experiments", "list"], ["numpy"], "make setup"),
        (["figures", "make", "fig1"], ["matplotlib"], "is not installed"),
    ],
)
def test_commands_without_their_libraries_say_what_to_do(
    arguments: list[str], hidden: list[str], words: str, tmp_path: Path
) -> None:
    script = _BLOCK.format(hidden=hidden) + (
        f"import os, runpy; os.environ['FENCHEL_RESULTS'] = {str(tmp_path)!r}\n"
        f"sys.argv = {arguments!r}\nrunpy.run_module({arguments[0]!r}, run_name='__main__', alter_sys=True)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode in (1, 2)
    assert "Traceback" not in run.stderr
    assert words in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
