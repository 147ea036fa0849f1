"""Docstrings as pages: names in single backticks become links, and what is plain text stays so."""

import re
from typing import Any

from docutils import nodes
from sphinx.util.nodes import make_refnode

LITERAL = re.compile(r"(``.+?``|`.+?`)")
"""What is left as it is: code, and names."""
LONE_STAR = re.compile(r"(?<![*\w\\])\*(?=[\w(])(?![^*]*\w\*(?!\*))")
"""A star before a word, without one that ends the emphasis: ``(chain, draw, *shape)``."""
TOP = ("function", "class", "exception", "module")


def resolve(app: Any, env: Any, node: Any, content: nodes.Element) -> nodes.Element | None:
    """Return a link to the public object whose name ends with the target; where there is none, the name stays code.

    A single word is that of a function, a class or a package, and no method's: it may as well be an argument.
    """
    if node.get("refdomain") != "py" or node.get("reftype") != "obj":
        return None
    target = node["reftarget"].strip(".")
    found = [
        (name.count("."), name, entry)
        for name, entry in env.domaindata["py"]["objects"].items()
        if name.endswith(f".{target}") and ("." in target or entry.objtype in TOP) and not entry.aliased
    ]
    if not found:
        return None
    _, name, entry = min(found)
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)


def plain(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape bars and lone stars in the text of a docstring, which reStructuredText takes for its own."""
    code_from: int | None = None  # the indentation from which lines are those of a block of code
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if code_from is not None and line and indent < code_from:
            code_from = None
        if line.lstrip().startswith(">>>"):
            code_from = indent
        elif code_from is None:
            parts = LITERAL.split(line)
            for j in range(0, len(parts), 2):
                parts[j] = LONE_STAR.sub(r"\\*", parts[j].replace("|", r"\|"))
            lines[i] = "".join(parts)
            if line.endswith("::"):
                code_from = indent + 1


def setup(app: Any) -> dict[str, bool]:
    """Treat docstrings so."""
    app.connect("autodoc-process-docstring", plain, priority=100)  # before napoleon
    app.connect("missing-reference", resolve, priority=400)  # before intersphinx
    return {"parallel_read_safe": True, "parallel_write_safe": True}
