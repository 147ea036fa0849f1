"""The reasons of statuses as the site lists them, read from the code: `flatprior.inference.reasons`."""

import inspect
import re

from flatprior.inference.reasons import MESSAGES, Code


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
    """Return the sentence of a code as Markdown; what is a number or a name in a status is in italics."""
    text = MESSAGES[code].replace("{{", "\0").replace("}}", "\1")
    text = re.sub(r"([*_`<\[|])", r"\\\1", text)
    text = re.sub(r"\{([\w\\]+)[^}]*\}", lambda match: f"*{match[1].replace('\\_', ' ')}*", text)
    return text.replace("\0", "{").replace("\1", "}")


def markdown(group: str) -> str:
    """Return the codes of a group as a definition list."""
    return "\n\n".join(f"`Code.{code.name}`\n: {sentence(code)}" for code in groups()[group])
