"""The package as others get it: a wheel, the README's snippets, and the import names."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from .snippets import errors_of, snippets_of

ROOT = Path(__file__).parents[1]
VERSION = ast.literal_eval((ROOT / "package" / "__init__.py").read_text().split("__version__ = ")[1])
SNIPPETS = snippets_of(ROOT / "README.md")


def test_the_version_is_that_of_the_change_log() -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    citation = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert versions[0] == VERSION
    assert citation
    assert citation[1] == VERSION


def test_folders_are_not_importable_by_their_bare_names(tmp_path: Path) -> None:
    """A second copy of every class would answer to `models`, and collide with every user's own models.py."""
    code = "import sys; from importlib.util import find_spec; sys.exit(any(map(find_spec, ['models', 'inference'])))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def run(code: str) -> None:
    """In an interpreter of its own."""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_models_do_not_know_inference_and_neither_starts_jax() -> None:
    """The number of devices can be set until JAX has begun, and so after these imports."""
    run("""
import sys, jax, flatprior.models
assert not any(name.startswith("flatprior.inference") for name in sys.modules)
import flatprior.inference
jax.config.update("jax_num_cpu_devices", 2)
assert jax.device_count() == 2
""")


def test_inference_does_not_know_models_and_can_be_imported_after_arviz() -> None:
    """ArviZ leaves a lazy numpyro behind, whose submodules cannot be imported before it."""
    run("""
import sys, arviz, flatprior.inference
assert not any(name.startswith("flatprior.models") for name in sys.modules)
""")


LATE = (
    "matplotlib",
    "sklearn",
    "arviz",
    "arviz_base",
    "arviz_stats",
    "pandas",
    "xarray",
    "arviz_plots",
    "netCDF4",
    "blackjax",
    "constriction",
    "scipy.stats",
)
"""What only some functions need, and takes as long to import as a tenth of this library or more."""


def test_what_few_functions_need_is_imported_by_them() -> None:
    run(f"""
import sys, flatprior.models, flatprior.inference, flatprior.inference.plots
assert not (early := [name for name in {LATE} if name in sys.modules]), early
""")


def test_the_wheel_imports_and_runs_elsewhere(tmp_path: Path) -> None:
    """Built from the sources, installed in a fresh environment, with the dependencies of this one."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    target = tmp_path / "site"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    dependencies = Path(importlib.util.find_spec("numpyro").origin).parents[1]  # type: ignore[union-attr, arg-type]
    code = f"""
import sys
sys.path[:0] = [{str(target)!r}]
sys.path.append({str(dependencies)!r})
import numpy as np, flatprior.models, flatprior.inference, flatprior.tables, flatprior.command
from flatprior.inference import MLE, fit
from flatprior.models import MLP, Model, Normal
for module in (flatprior.models, flatprior.inference, flatprior.tables, flatprior.command):
    assert module.__file__.startswith({str(target)!r}), module.__file__
assert flatprior.__version__ == {VERSION!r}
x = np.linspace(-1.0, 1.0, 9)[:, None]
line = fit(Model(MLP(), Normal(1.0)), MLE(num_steps=10), x, 2 * x[:, 0], key=0)
assert abs(line.draws["w1"].item() - 2) < 1e-5
"""
    subprocess.run([str(python), "-I", "-c", code], check=True, cwd=tmp_path)


def test_every_subpackage_is_in_the_wheel() -> None:
    """The list of packages is written by hand: a new folder must be added to it."""
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    result = {"flatprior"} | {
        ".".join(("flatprior", *path.parent.relative_to(ROOT).parts))
        for top in ("models", "inference", "tables", "estimators", "command")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert listed == result


SHORTER = {"num_warmup=500, num_samples=500": "num_warmup=50, num_samples=50"}
"""What snippets say -> what runs by default; with the slow tests they run as they are."""


@pytest.fixture(scope="module")
def errors(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> list[str | None]:
    """The error of each snippet, or None: all of them in one new process, each in a namespace of its own."""
    text = json.dumps(SNIPPETS)
    for long, short in SHORTER.items() if pytestconfig.option.markexpr == "not slow" else ():
        assert long in text
        text = text.replace(long, short)
    return errors_of(json.loads(text), tmp_path_factory.mktemp("snippets"))


@pytest.mark.parametrize("number", range(1, len(SNIPPETS) + 1))
def test_the_snippets_of_the_readme_run(number: int, errors: list[str | None]) -> None:
    assert errors[number - 1] is None, errors[number - 1]


def test_the_readme_has_snippets() -> None:
    assert SNIPPETS
