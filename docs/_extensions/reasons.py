"""The reasons of statuses as the site lists them, read from the code: `flatprior.inference.reasons`."""

import inspect
import re

from flatprior.inference.reasons import MESSAGES, Code

FIELD = re.compile(r"(?<!\{)\{(\w+)[^{}]*\}(?!\})")
"""A field of a sentence: ``{gain:.3g}``."""
CODE = re.compile(r"(\b[\w.]*\w\([^()]*\)|\b\w+=(?:'\w+'|\{.*?\}|\w+)|\b\w+_\w+)")
"""Code in a sentence: a call, a setting with its value, a name with an underscore."""


def groups() -> dict[str, list[Code]]:
    """Return the codes under the comments that group them in the source; the first ones are of every method."""
    result: dict[str, list[Code]] = {"Every method": []}
    for line in inspect.getsource(Code).splitlines():
        if comment := re.match(r"    # (.+)", line):
            result[comment[1]] = []
        elif member := re.match(r"    ([A-Z_]+) = ", line):
            list(result.values())[-1].append(Code[member[1]])
    return result


def sentence(code: Code) -> str:
    """Return the sentence of a code as Markdown, with italics for what is a number or a name in a status."""
    parts = FIELD.split(MESSAGES[code])  # text, the name of a field, text, ...
    return "".join(f"*{part.replace('_', ' ')}*" if i % 2 else _text(part) for i, part in enumerate(parts))


def _text(part: str) -> str:
    """Return a part without fields as Markdown."""
    parts = CODE.split(part.replace("{{", "{").replace("}}", "}"))
    return "".join(f"`{part}`" if i % 2 else re.sub(r"([*_`<\[|])", r"\\\1", part) for i, part in enumerate(parts))


def markdown(group: str) -> str:
    """Return the codes of a group as a definition list."""
    return "\n\n".join(f"`Code.{code.name}`\n: {sentence(code)}" for code in groups()[group])
