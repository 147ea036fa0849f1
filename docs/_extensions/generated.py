"""Directives for what is read from the code, so that no page can go out of date."""

import contextlib
import io
import os
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from reasons import groups, markdown
from sphinx.util.docutils import SphinxDirective


class Reasons(SphinxDirective):
    """``{reasons} GROUP``: the codes of a group, with their sentences."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        group = self.arguments[0]
        if group not in groups():
            raise self.error(f"reasons: expected one of {', '.join(groups())}; got {group!r}.")
        parent = nodes.Element()
        self.state.nested_parse(StringList(markdown(group).splitlines(), self.get_source_info()[0]), 0, parent)
        return parent.children


class Help(SphinxDirective):
    """``{help} COMMAND``: what ``flatprior COMMAND --help`` prints."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from flatprior.command import main

        os.environ["COLUMNS"] = "90"
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([self.arguments[0], "--help"])
        return [nodes.literal_block(text=printed.getvalue(), language="text")]


def setup(app: Any) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("reasons", Reasons)
    app.add_directive("help", Help)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
