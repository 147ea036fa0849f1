"""The pages of the site: their snippets run, and they list what is public and every reason of a status."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

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


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """What makes the links of the repository those of the site."""
    return extension("pages")


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as code hosts and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", MARKDOWN, ids=[str(page.relative_to(DOCS.parent)) for page in MARKDOWN])
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
