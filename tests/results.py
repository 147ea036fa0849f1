"""The table of a run of all tests, from what pytest wrote of it: `make test-all` makes `tests/RESULTS.md` by it.

python tests/results.py build/test-all.xml
"""

import os
import platform
import sys
from collections import defaultdict
from datetime import datetime
from importlib.metadata import version
from xml.etree import ElementTree

OUTCOMES = ("passed", "failed", "skipped")
PACKAGES = ("jax", "numpyro", "blackjax", "arviz")


def outcome(case: ElementTree.Element) -> str:
    kinds = {child.tag for child in case}
    return "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


def table(path: str) -> str:
    """In Markdown: a line a file, with how its tests ended and the seconds that they took together."""
    suite = next(ElementTree.parse(path).getroot().iter("testsuite"))
    counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(OUTCOMES, 0))
    seconds: dict[str, float] = defaultdict(float)
    for case in suite.iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py" if case.attrib["classname"] else case.attrib["name"]
        counts[file][outcome(case)] += 1
        seconds[file] += float(case.attrib["time"])
    rows = [[file, *(str(counts[file][kind]) for kind in OUTCOMES), f"{seconds[file]:.0f}"] for file in sorted(counts)]
    totals = [str(sum(count[kind] for count in counts.values())) for kind in OUTCOMES]
    rows.append(["all", *totals, f"{sum(seconds.values()):.0f}"])
    began = datetime.fromisoformat(suite.attrib["timestamp"])
    minutes = float(suite.attrib["time"]) / 60
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return "\n".join(
        [
            "# All tests, the long statistical ones among them",
            "",
            f"`make test-all`, {began:%Y-%m-%d}: {minutes:.0f} minutes on {os.cpu_count()} cores,",
            f"Python {platform.python_version()}, {packages}.",
            "",
            "| file | passed | failed | skipped | seconds |",
            "|---|---|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


if __name__ == "__main__":
    print(table(sys.argv[1]))
