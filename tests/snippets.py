"""The snippets of pages, run as their readers run them: in a new process, each page or snippet in its own namespace."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RUN_ALL = """
import json, pathlib, sys, traceback

snippets, errors = json.loads(pathlib.Path(sys.argv[1]).read_text()), []
for i, snippet in enumerate(snippets, 1):
    try:
        exec(compile(snippet, f"snippet {i}", "exec"), {"__name__": "__main__"})
        errors.append(None)
    except Exception:
        errors.append(traceback.format_exc())
pathlib.Path(sys.argv[2]).write_text(json.dumps(errors))
"""


def snippets_of(page: Path) -> list[str]:
    """Return the blocks of Python of a page, in order."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def errors_of(snippets: Sequence[str], folder: Path) -> list[str | None]:
    """Return the error of each snippet, or None: all of them in one new process, each in a namespace of its own."""
    given, written = folder / "snippets.json", folder / "errors.json"
    given.write_text(json.dumps(snippets))
    run = [sys.executable, "-W", "error::DeprecationWarning", "-c", RUN_ALL, str(given), str(written)]
    subprocess.run(run, check=True, cwd=folder)
    return json.loads(written.read_text())  # type: ignore[no-any-return]
