"""The structure of the packages: the page that describes it is true, and modules stay small."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from .mutations import BUGS, Bug

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "inference", "tables", "estimators", "command")
MODULES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
"""Path of a module -> its syntax tree."""
LISTED = tuple(path for path in MODULES if not path.endswith(("__init__.py", "__main__.py")))


def imported(path: str) -> Iterator[str]:
    """The modules of the packages that a module imports when it is itself imported, as paths."""
    folder = path.rpartition("/")[0].split("/")
    nodes = list(MODULES[path].body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Try):
            nodes += node.body
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        parts = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
        base = "/".join(part for part in parts if part)
        for name in node.names:
            candidates = (
                f"{base}/{name.name}.py",
                f"{base}/{name.name}/__init__.py",
                f"{base}.py",
                f"{base}/__init__.py",
            )
            yield next(each for each in candidates if each in MODULES)


def listed_on_the_page() -> list[str]:
    """The modules in the order in which docs/architecture.md lists them."""
    result, folder = [], ""
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        if match := re.match(r"((?:models|inference|tables|estimators|command)/[\w/]*)", line):
            folder = match[1]
        elif (match := re.match(r"    (\w+\.py)  ", line)) and folder:
            result.append(folder + match[1])
    return result


def test_the_page_lists_every_module_once() -> None:
    assert sorted(listed_on_the_page()) == sorted(LISTED)


def test_a_module_imports_only_modules_above_it_on_the_page() -> None:
    """So there is no cycle, whatever order modules are imported in."""
    order = {path: i for i, path in enumerate(listed_on_the_page())}
    upwards = {
        (path, other) for path in LISTED for other in imported(path) if other in order and order[other] >= order[path]
    }
    assert not upwards


def test_models_inference_and_tables_are_strangers() -> None:
    for path, tree in MODULES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom) or path.startswith(("estimators", "command")):
                continue
            words = ast.unparse(node)
            others = {"models": "inference|tables", "inference": "models|tables", "tables": "models|inference"}
            assert not re.search(rf"(flatprior\.|\.\.+)({others[path.split('/')[0]]})\b", words), (path, words)


def run_on_import(path: str) -> set[str]:
    """What Python runs for a module: what it imports, and the `__init__` of each package that is entered for that.

    The outermost `__init__` is left out: it imports modules in an order of its own.
    """
    modules = set(imported(path))
    folders = {str(parent) for other in modules for parent in Path(other).parents if len(parent.parts) > 1}
    entered = {folder for folder in folders if not path.startswith(f"{folder}/")}
    return (modules | {f"{folder}/__init__.py" for folder in entered}) - {f"{name}/__init__.py" for name in PACKAGES}


def test_imports_have_no_cycle() -> None:
    """So any module can be imported first; the slow tests import each of them first."""
    TopologicalSorter({path: run_on_import(path) for path in MODULES}).prepare()


@pytest.mark.slow
@pytest.mark.parametrize("package", ["models", "inference"])
def test_any_module_can_be_imported_first(package: str) -> None:
    """The package's own `__init__` imports modules in an order of its own, and is left out here."""
    code = f"""
import importlib, pkgutil, sys, types
import flatprior.{package} as package
names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    for loaded in [m for m in sys.modules if m.startswith(package.__name__)]:
        del sys.modules[loaded]
    stub = types.ModuleType(package.__name__)
    stub.__path__ = list(package.__path__)
    sys.modules[package.__name__] = stub
    importlib.import_module(name)
print(len(names))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= sum(path.startswith(package) for path in LISTED)


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function, without its docstring."""
    total = node.end_lineno - node.lineno + 1 if node.end_lineno else 0
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def test_functions_fit_a_screen_and_modules_a_few() -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    long = {
        f"{path}:{node.name}": lines_of(node)
        for path, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, functions) and lines_of(node) > 50
    }
    assert not long
    assert not {path: lines for path in MODULES if (lines := len((ROOT / path).read_text().splitlines())) > 350}


def test_what_y_is_is_asked_in_one_place() -> None:
    """No module but `kinds.py`, and what it reads distributions with, looks into that of the observed site."""
    tests = re.compile(r"isinstance\([^)]*\bdist\.|hasattr\(d,|getattr\(d,")
    allowed = {f"inference/{name}.py" for name in ("sites", "distributions", "marginals", "kinds", "words")}
    priors = {
        "inference/objective/formulas.py",
        "inference/objective/terms.py",
        "inference/fingerprint.py",
        "inference/curvature.py",
    }
    result = {
        path: line
        for path in LISTED
        if path.startswith("inference") and path not in allowed | priors
        for line in (ROOT / path).read_text().splitlines()
        if tests.search(line)
    }
    assert not result


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_has_its_line_and_its_tests(bug: Bug) -> None:
    """`mutations.py` plants them one at a time, in minutes each: here only that it can."""
    assert (ROOT / bug.file).read_text().count(bug.line) == 1
    for test in bug.tests.split():
        file, *names = test.split("::")
        text = (ROOT / "tests" / file).read_text()
        assert all(re.search(rf"^\s*(?:def|class) {name}\b", text, flags=re.MULTILINE) for name in names), test
