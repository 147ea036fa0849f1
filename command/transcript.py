"""What a command has to say: as text while it runs, as one HTML page, and as JSON."""

import base64
import json
import math
import textwrap
from html import escape
from pathlib import Path
from typing import Any

from ..inference.files import atomic_write
from ..inference.report import WIDTH

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 70rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; } img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
thead th { border-bottom: 2px solid #888; white-space: nowrap; } tbody th { font-weight: 600; white-space: nowrap; }
footer { margin-top: 3rem; color: #666; font-size: 0.875rem; }
"""


class Transcript:
    """Sections of text, tables and pictures.

    Args:
        title: the heading of the page.
        is_json: whether only JSON is printed, at the end.
    """

    def __init__(self, title: str, *, is_json: bool) -> None:
        self.title, self.is_json = title, is_json
        self.html, self.values = list[str](), dict[str, Any]()

    def add(self, heading: str, *parts: Any) -> None:
        """Add a section: texts, and tables that have `_repr_html_`. They are printed at once."""
        if not self.is_json:
            texts = [textwrap.fill(part, WIDTH) if isinstance(part, str) else part for part in parts]
            print(*texts, "", sep="\n", flush=True)
        self.html.append(f"<h2>{escape(heading)}</h2>")
        for part in parts:
            table = getattr(part, "_repr_html_", None) or getattr(part, "html", None)
            self.html.append(f'<div class="wide">{table()}</div>' if table else f"<p>{escape(str(part))}</p>")

    def picture(self, heading: str, path: Path, words: str) -> None:
        """Add a PNG to the page."""
        data = base64.b64encode(path.read_bytes()).decode()
        self.html.append(f'<h2>{escape(heading)}</h2><img alt="{escape(words)}" src="data:image/png;base64,{data}">')

    def record(self, **values: Any) -> None:
        """Add values to the JSON; data frames become lists of rows, and what is no number null."""
        self.values |= values

    def finish(self, report: Path | None, written: list[Path]) -> None:
        """Write the page, if there is one, and name the files that were written, or print the JSON."""
        if report is not None:
            page = self.page()
            written = [*written, atomic_write(report, lambda file: file.write_text(page, encoding="utf-8"))]
        if self.is_json:
            print(json.dumps(plain({**self.values, "written": written}), indent=2, ensure_ascii=False))
        elif written:
            print("Written:", *written)

    def page(self) -> str:
        """Return the page, which needs no other file."""
        body = "\n".join(self.html)
        return (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n"
            f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(self.title)}</h1>\n{body}\n"
            f"<footer>Written by flatprior.</footer>\n</body>\n</html>\n"
        )


def plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if hasattr(value, "to_dict"):
        return plain(value.reset_index().to_dict("records"))
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)
