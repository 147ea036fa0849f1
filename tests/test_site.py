"""The pages of the site: their snippets run, and they list what is public and every reason of a status."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from flatprior.inference.reasons import MESSAGES, Code

from .snippets import errors_of, snippets_of

DOCS = Path(__file__).parents[1] / "docs"


def extension(name: str) -> ModuleType:
    """Return a module of the site."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "_extensions" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


PAGES = {
    path.relative_to(DOCS).as_posix(): snippets
    for path in sorted([*DOCS.glob("*.md"), *DOCS.glob("howto/*.md"), *DOCS.glob("from/*.md")])
    if path.name != "machines.md" or path.parent != DOCS
    if (snippets := snippets_of(path))
}
"""Page -> its blocks of Python, which share a namespace; the script for several machines has `test_processes.py`."""
CHEAP = ("howto/cost.md",)
"""Pages whose snippets run by default; those of the README do as well, in `test_package.py`."""
PACKAGES = {
    page: f"flatprior.{package}"
    for page, package in {
        "models": "models",
        "inference": "inference",
        "methods": "inference.methods",
        "criticism": "inference.criticism",
        "objective": "inference.objective",
        "information": "inference.information",
        "plots": "inference.plots",
        "tables": "tables",
        "estimators": "estimators",
    }.items()
}
"""Page of the reference -> its package."""


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=() if page in CHEAP else pytest.mark.slow) for page in PAGES]
)
def test_the_snippets_of_a_page_run(page: str, tmp_path: Path) -> None:
    (error,) = errors_of(["\n".join(PAGES[page])], tmp_path)
    assert error is None, error


@pytest.mark.parametrize("page", PAGES)
def test_snippets_import_what_exists(page: str) -> None:
    """The cheap part of the test above, for every change."""
    for node in ast.walk(ast.parse("\n".join(PAGES[page]))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("flatprior"):
            module = importlib.import_module(str(node.module))
            assert not (missing := [name.name for name in node.names if not hasattr(module, name.name)]), missing


MARKDOWN = sorted([*DOCS.parent.glob("*.md"), *DOCS.rglob("*.md"), *(DOCS.parent / "benchmarks").glob("*.md")])
every_page = pytest.mark.parametrize("page", MARKDOWN, ids=[str(page.relative_to(DOCS.parent)) for page in MARKDOWN])
BLOCK = re.compile(r"^ *```(\S*)[^\n]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
"""A block of code: its language, and what it says."""
NOT_RUN = {
    "": "a tree of files, or what a command prints",
    "text": "what another block prints",
    "yaml": "needs a cluster",
    "make": "its targets are the tests, the site and the demo themselves; that they exist is tested",
    "pip": "installs into the environment of the tests",
    "git": "changes the repository",
    "build/release/tools/bin/twine": "publishes",
}
"""What tests do not run, of the languages of blocks and of the commands in those of a console, and why."""
SEVERAL = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from flatprior.inference import NUTS, fit
from flatprior.models import MLP, Model, Normal, gaussian
x, model = np.linspace(-1, 1, 40, dtype=np.float32)[:, None], Model(MLP(), Normal(0.1), gaussian(1.0))
y = 3 * x[:, 0]
"""
"""What the first block of `docs/machines.md` takes as given."""


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the blocks of a page in some languages."""
    return [text for language, text in BLOCK.findall(page.read_text()) if language in languages]


def commands(page: Path) -> list[str]:
    """Return the commands of the consoles of a page, without comments."""
    lines = "\n".join(blocks(page, "console")).splitlines()
    return [line.split("$ ", 1)[1].split(" #")[0].strip() for line in lines if "$ " in line]


@every_page
def test_what_is_not_run_has_a_reason(page: Path) -> None:
    languages = {language for language, _ in BLOCK.findall(page.read_text())}
    directives = {language for language in languages if language.startswith("{")}
    assert languages - directives - NOT_RUN.keys() <= {"python", "console", "bash"}
    assert {command.split()[0] for command in commands(page)} - NOT_RUN.keys() <= {"flatprior"}
    makefile = (DOCS.parent / "Makefile").read_text()
    for target in (
        target for command in commands(page) if command.startswith("make ") for target in command.split()[1:]
    ):
        assert f"\n{target}:" in makefile, target
    for script in blocks(page, "bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.slow
def test_the_first_block_for_several_devices_runs(tmp_path: Path) -> None:
    first, *_ = snippets_of(DOCS / "machines.md")
    (error,) = errors_of([SEVERAL + first], tmp_path)
    assert error is None, error


@pytest.mark.slow
def test_the_commands_for_a_table_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    houses = pd.DataFrame(
        {"area": rng.uniform(40, 160, 120).round(1), "city": rng.choice(["Bern", "Basel", "Chur"], 120)}
    )
    houses["price"] = (5_000 * houses["area"] + rng.normal(0, 30_000, 120)).round()
    houses.to_csv(tmp_path / "houses.csv", index=False)
    houses.drop(columns="price").head(5).to_csv(tmp_path / "new.csv", index=False)
    for command in commands(DOCS / "howto" / "table.md"):
        name, *arguments = command.split()
        assert name == "flatprior"
        run = [sys.executable, "-m", "flatprior.command", *arguments, "--no-cache"]
        subprocess.run(run, check=True, cwd=tmp_path, capture_output=True)
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 5
    assert (tmp_path / "page.html").exists()


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """What makes the links of the repository those of the site."""
    return extension("pages")


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as code hosts and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_to_files_and_headings(page: Path, pages: ModuleType) -> None:
    """Where the files lie in the repository, without links of folders, which code hosts do not follow."""
    for _, _, path, anchor in pages.LINK.findall(page.read_text()):
        file = page.parent / path
        assert file.exists(), path
        assert not anchor or anchor[1:] in anchors(file), (path, anchor)
        assert DOCS / "notebooks" not in file.parents
        assert DOCS / "benchmarks" not in file.parents


def test_links_are_those_of_the_site(pages: ModuleType) -> None:
    readme, howto = DOCS.parent / "README.md", DOCS / "howto" / "build.md"
    assert pages.on_the_site("[a](docs/start.md#data)", readme) == "[a](/start.md#data)"
    assert pages.on_the_site("![a](notebooks/a.png)", readme) == "![a](/notebooks/a.png)"
    assert pages.on_the_site("[a](../../notebooks/b.ipynb)", howto) == "{doc}`a </notebooks/b>`"
    assert pages.on_the_site("[a](CONTRIBUTING.md)", readme) == "[a](/contributing.md)"
    assert pages.on_the_site("[a](https://b.org/c.md) [d](#e)", howto) == "[a](https://b.org/c.md) [d](#e)"


def documented() -> dict[str, set[str]]:
    """Return the names on each page of the reference."""
    entry = re.compile(r"\.\. auto(?:class|function|exception):: ([\w.]+)")
    return {page: set(entry.findall((DOCS / "api" / f"{page}.rst").read_text())) for page in PACKAGES}


def test_the_reference_has_every_public_name_once() -> None:
    """What two packages export is in the one of its subject."""
    names = documented()
    everywhere = [name for page in names.values() for name in page]
    assert len(everywhere) == len(set(everywhere))
    for package in PACKAGES.values():
        module = importlib.import_module(package)
        public = {name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)}
        assert not public - set(everywhere), (package, public - set(everywhere))


def test_a_page_has_names_of_its_package_alone() -> None:
    for page, names in documented().items():
        module = importlib.import_module(PACKAGES[page])
        assert not (unknown := [n for n in names if "." not in n and n not in module.__all__]), (page, unknown)


@pytest.fixture(scope="module")
def reasons() -> ModuleType:
    """What reads the reasons for the site."""
    return extension("reasons")


def test_the_page_on_statuses_has_every_code_under_its_group(reasons: ModuleType) -> None:
    page = (DOCS / "howto" / "status.md").read_text()
    assert re.findall(r"```\{reasons\} (.*)", page) == list(reasons.groups())
    assert sorted(code for group in reasons.groups().values() for code in group) == sorted(Code)


@pytest.mark.parametrize("code", MESSAGES)
def test_a_sentence_has_words_for_its_numbers(code: Code, reasons: ModuleType) -> None:
    without_fields = re.sub(r"(?<!\{)\{\w+[^}]*\}(?!\})", "", MESSAGES[code])
    sentence = reasons.sentence(code)
    assert sentence.count("{") == without_fields.count("{{")
    assert ":." not in sentence
