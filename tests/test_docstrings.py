"""The examples of the docstrings print what they show, in the modules as users import them."""

import ast
import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import flatprior.inference
import flatprior.models
import flatprior.tables

PACKAGES = (flatprior.models, flatprior.inference, flatprior.tables)
DEFINITIONS = ast.Module | ast.ClassDef | ast.FunctionDef


def documented(tree: ast.AST, name: str) -> Iterator[tuple[str, str, int]]:
    """The name, the docstring and the line of everything that has one."""
    if isinstance(tree, DEFINITIONS) and (docstring := ast.get_docstring(tree)):
        yield name, docstring, getattr(tree, "lineno", 1)
    for child in ast.iter_child_nodes(tree):
        yield from documented(child, f"{name}.{getattr(child, 'name', '')}".rstrip("."))


def examples() -> Iterator[doctest.DocTest]:
    """Read from the sources: doctest itself does not look into decorated functions."""
    parser = doctest.DocTestParser()
    for package in PACKAGES:
        names = [fitted.name for fitted in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
        for module in map(importlib.import_module, [package.__name__, *names]):
            path = Path(str(module.__file__))
            for name, docstring, line in documented(ast.parse(path.read_text()), module.__name__):
                example = parser.get_doctest(docstring, vars(module), name, str(path), line)
                if example.examples:
                    yield example


EXAMPLES = {example.name: example for example in examples()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_shows(name: str) -> None:
    printed: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(EXAMPLES[name], out=printed.append)
    assert not result.failed, "".join(printed)


def test_there_are_examples_in_every_package() -> None:
    assert {name.split(".")[1] for name in EXAMPLES} == {"models", "inference", "tables"}
