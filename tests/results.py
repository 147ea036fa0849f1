"""The table of a run of all tests, from what pytest wrote of it: `make test-all` makes `tests/RESULTS.md` by it.

    python tests/results.py build/test-all.xml [AGAIN.xml ...]

Of a file that was run again, the last run counts, and the table says so.
"""

import os
import platform
import sys
from collections import Counter, defaultdict
from datetime import datetime
from importlib.metadata import version
from xml.etree import ElementTree

OUTCOMES = ("passed", "failed", "skipped")
PACKAGES = ("jax", "numpyro", "blackjax", "arviz")


def outcome(case: ElementTree.Element) -> str:
    kinds = {child.tag for child in case}
    return "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


def table(paths: list[str]) -> str:
    """In Markdown: a line a file, with how its tests ended and the seconds that they took together."""
    first, *again = [next(ElementTree.parse(path).getroot().iter("testsuite")) for path in paths]
    cases: dict[str, list[ElementTree.Element]] = {}
    repeated: set[str] = set()
    for suite in (first, *again):
        of_suite: dict[str, list[ElementTree.Element]] = defaultdict(list)
        for case in suite.iter("testcase"):
            name = case.attrib["classname"]
            of_suite[name.replace(".", "/") + ".py" if name else case.attrib["name"]].append(case)
        repeated |= cases.keys() & of_suite.keys()
        cases |= of_suite
    counts = {file: Counter(map(outcome, of_file)) for file, of_file in cases.items()}
    seconds = {file: sum(float(case.attrib["time"]) for case in of_file) for file, of_file in cases.items()}
    rows = [[file, *(str(counts[file][kind]) for kind in OUTCOMES), f"{seconds[file]:.0f}"] for file in sorted(counts)]
    totals = [str(sum(count[kind] for count in counts.values())) for kind in OUTCOMES]
    rows.append(["all", *totals, f"{sum(seconds.values()):.0f}"])
    began = datetime.fromisoformat(first.attrib["timestamp"])
    minutes = float(first.attrib["time"]) / 60
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return "\n".join(
        [
            "# All tests, the long statistical ones among them",
            "",
            f"`make test-all`, {began:%Y-%m-%d}: {minutes:.0f} minutes on {os.cpu_count()} cores,",
            f"Python {platform.python_version()}, {packages}.",
            *([f"Run again after later changes: {', '.join(sorted(repeated))}."] if repeated else []),
            "",
            "| file | passed | failed | skipped | seconds |",
            "|---|---|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


if __name__ == "__main__":
    print(table(sys.argv[1:]))
