"""Pages as they lie in the repository, and as the site has them: links between them work in both."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ABOVE = {"index": "README.md", "contributing": "CONTRIBUTING.md", "changes": "CHANGELOG.md"}
"""Page of the site -> the file of the repository of which it is."""
LINKED = ("notebooks", "benchmarks")
"""Folders of the repository that are also, as links, in that of the site."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
"""A picture, or a link of Markdown to a file: its text, its path and its anchor."""


def target(page: Path, path: str) -> str | None:
    """Return where on the site a file is to which a page of the repository links; None where the site has it not."""
    file = (page.resolve().parent / path).resolve()
    if not file.is_relative_to(ROOT):
        return None
    name = file.relative_to(ROOT).as_posix()
    for site, above in ABOVE.items():
        if name == above:
            return f"/{site}.md"
    if file.is_relative_to(DOCS):
        return f"/{file.relative_to(DOCS).as_posix()}"
    return f"/{name}" if name.split("/")[0] in LINKED else None


def on_the_site(text: str, page: Path) -> str:
    """Return the text of a page of the repository with its links as the site has them."""

    def replaced(link: re.Match[str]) -> str:
        picture, words, path, anchor = link.groups(default="")
        found = target(page, path)
        if found is None:
            return link[0]
        if not picture and found.split("/")[1] in LINKED:  # MyST follows links of folders, and then finds no page
            return f"{{doc}}`{words} <{found.rsplit('.', 1)[0]}>`"
        return f"{picture}[{words}]({found}{anchor})"

    return LINK.sub(replaced, text)


def read(app: Any, docname: str, source: list[str]) -> None:
    """Put the file that a page is of before it, and its links right."""
    page = Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return
    source[0] = on_the_site(source[0], page)
    if docname in ABOVE:
        above = ROOT / ABOVE[docname]
        app.env.note_dependency(str(above))
        source[0] = f"{on_the_site(above.read_text(), above)}\n{source[0]}"


def setup(app: Any) -> dict[str, bool]:
    """Read pages so."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
