"""One printer: words to the left, numbers to the right, blanks for what does not exist, everything escaped."""

import numpy as np
import pandas as pd

from flatprior.inference.report import WIDTH, Report, columns_of

FRAME = pd.DataFrame(
    {"elpd": [-1.25, np.nan], "keys": [3, 2], "status": ["ok", "a < b & c"], "hidden": [0, 0]}, index=["MLE", "<MAP>"]
)
COLUMNS = {"elpd": ("elpd", "{:.3f}"), "absent": ("?", "{}"), "keys": ("keys", "{}"), "status": ("status", "{}")}


def test_text() -> None:
    assert str(Report(FRAME, COLUMNS, ("In nats.",))).splitlines() == [
        "         elpd  keys  status",
        "MLE    -1.250     3  ok",
        "<MAP>             2  a < b & c",
        "",
        "In nats.",
    ]


def test_nan_is_printed_where_it_means_something() -> None:
    assert "nan" in str(Report(FRAME, COLUMNS, printed_nan=("elpd",)))


def test_html_is_escaped() -> None:
    html = Report(FRAME, COLUMNS, ("p < 1",)).html()
    assert "&lt;MAP&gt;" in html
    assert "a &lt; b &amp; c" in html
    assert html.endswith("<p>p &lt; 1</p>")
    assert html.count("<tr>") == html.count("</tr>") == 3


def test_wide_words_and_notes_are_wrapped() -> None:
    words = " ".join(["word"] * 60)
    text = str(Report(FRAME.assign(status=words), COLUMNS, (words,)))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.count("word") == 180


def test_all_columns_of_a_frame() -> None:
    frame = pd.DataFrame({"count": [1], "value": [0.12345]}, index=pd.Index([7], name="row"))
    assert str(Report(frame, columns_of(frame, "{:.2f}"))).splitlines() == ["row  count  value", "  7      1   0.12"]


def test_no_word_is_broken() -> None:
    """Where the numbers alone are too wide, the table is wider than the terminal."""
    frame = pd.DataFrame({"status": ["check this"], **{f"column {i}": [1] for i in range(13)}}, index=["posterior"])
    lines = str(Report(frame, columns_of(frame, "{}"))).splitlines()
    assert [line.split()[0] for line in lines] == ["status", "posterior", "this"]
    assert len(lines[0]) > WIDTH
