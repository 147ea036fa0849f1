"""Awkward files: each is read right, or refused with line, column and cure."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flatprior.tables import encoding, read_csv
from flatprior.tables import reading as reading_module
from flatprior.tables.cells import Format

A = {"a": [1.0, 2.0, 3.0], "b": [0.5, 1.5, 2.5]}
PLAIN = "a,b\n1,0.5\n2,1.5\n3,2.5\n"
DAYS = pd.to_datetime(["2024-01-31", "2024-02-01", "2024-02-02"])

READ: dict[str, tuple[bytes | str, dict[str, Any], str]] = {
    "plain": (PLAIN, A, ""),
    "a byte order mark": (b"\xef\xbb\xbf" + PLAIN.encode(), A, "UTF-8 with a byte order mark"),
    "UTF-16 with a mark": (PLAIN.encode("utf-16"), A, "Encoding: UTF-16."),
    "UTF-16 without a mark": (PLAIN.encode("utf-16-be"), A, "UTF-16 without a byte order mark"),
    "UTF-32": (PLAIN.encode("utf-32"), A, "Encoding: UTF-32."),
    "Latin-1": ("Größe;b\n1;x\n2;y\n".encode("latin-1"), {"Größe": [1, 2], "b": ["x", "y"]}, "Windows-1252"),
    "a euro sign of Windows": ("a;b\n€ 1;x\n€ 2;y\n".encode("cp1252"), {"a": [1, 2], "b": ["x", "y"]}, "Windows-1252"),
    "CRLF": (PLAIN.replace("\n", "\r\n"), A, ""),
    "CR": (PLAIN.replace("\n", "\r"), A, ""),
    "no newline at the end": (PLAIN.strip(), A, ""),
    "blank lines": (PLAIN.replace("2,", "\n\n2,"), A, ""),
    "lines of empty fields": (PLAIN + ",\n,\n", A, ""),
    "semicolons": (PLAIN.replace(",", ";"), A, "Separator: semicolon."),
    "tabs": (PLAIN.replace(",", "\t"), A, "Separator: tab."),
    "bars": (PLAIN.replace(",", "|"), A, "Separator: vertical bar."),
    "blanks": ("a b\n1 0.5\n2   1.5\n 3  2.5\n", A, "Separator: blanks."),
    "semicolons and decimal commas": ("a;b\n1;0,5\n2;1,5\n3;2,5\n", A, "Separator: semicolon. Decimal comma."),
    "decimal commas in every field": ("a;b\n1,0;0,5\n2,0;1,5\n3,0;2,5\n", A, "Decimal comma."),
    "tabs and decimal commas": ("a\tb\n1\t0,5\n2\t1,5\n3\t2,5\n", A, "Decimal comma."),
    "decimal commas in quotes": ('a,b\n1,"0,5"\n2,"1,5"\n3,"2,5"\n', A, "Decimal comma."),
    "sep= of Excel": ("sep=;\na;b\n1;0,5\n2;1,5\n3;2,5\n", A, "Separator: semicolon."),
    "thousands": ('a,b\n"1,234",1\n"12,345,678",2\n7,3\n', {"a": [1234, 12345678, 7]}, ""),
    "thousands with points": ("a;b\n1.234,5;1\n12.345.678,0;2\n", {"a": [1234.5, 12345678]}, "Decimal comma."),
    "thousands with blanks": ("a;b\n1 234,5;1\n12 345,0;2\n", {"a": [1234.5, 12345]}, "Decimal comma."),
    "a comma that may be decimal": ("a;b\n1,234;1\n2,345;2\n", {"a": [1.234, 2.345]}, "A comma is taken to be decimal"),
    "dollars": ('a,b\n"$97,830.22",1\n-$5,2\n(3),3\n', {"a": [97830.22, -5, -3]}, ""),
    "percent": ("a,b\n12.5%,1\n3 %,2\n", {"a": [0.125, 0.03]}, ""),
    "exponents and signs": ("a,b\n1e3,1\n+2.5E-1,2\n\u22124,3\n", {"a": [1000, 0.25, -4]}, ""),
    "question marks": ("a,b\n1,0.5\n?,1.5\n3,?\n", {"a": [1, np.nan, 3], "b": [0.5, 1.5, np.nan]}, ""),
    "missing in words": (
        "a,b\n1,x\nNA,y\nn/a,\nNone,None\nNULL,NaN\n",
        {"a": [1, *[np.nan] * 4], "b": ["x", "y", np.nan, "None", np.nan]},
        "",
    ),
    "ISO weeks": ("a,b\n2024-W01,1\n2024-W02,2\n", {"a": pd.to_datetime(["2024-01-01", "2024-01-08"])}, ""),
    "days of ISO weeks": ("a,b\n2024W017,1\n2024W021,2\n", {"a": pd.to_datetime(["2024-01-07", "2024-01-08"])}, ""),
    "quarters": ("a,b\n2024Q1,1\n2024Q4,2\n?,3\n", {"a": pd.to_datetime(["2024-01-01", "2024-10-01", None])}, ""),
    "quarters first": ("a,b\nQ2 2024,1\nQ3 2024,2\n", {"a": pd.to_datetime(["2024-04-01", "2024-07-01"])}, ""),
    "months of Excel": ("a,b\nJan-24,1\nFeb-24,2\n", {"a": pd.to_datetime(["2024-01-01", "2024-02-01"])}, ""),
    "months": ("a;b\n01/2024;1\n02/2024;2\n", {"a": pd.to_datetime(["2024-01-01", "2024-02-01"])}, ""),
    "days with their names": (
        'a,b\n"Wednesday, January 31, 2024",1\n"Thursday, February 1, 2024",2\n',
        {"a": DAYS[:2]},
        "",
    ),
    "days of SAS": ("a,b\n31JAN2024,1\n01FEB2024,2\n", {"a": DAYS[:2]}, ""),
    "quotes": ('"a","b, c"\n"1","say ""x"", y"\n"2",z\n', {"a": [1, 2], "b, c": ['say "x", y', "z"]}, ""),
    "single quotes": ("a,b\n'x','1'\n'y, z','2'\n", {"a": ["x", "y, z"], "b": [1, 2]}, "quotes: '"),
    "a line break in quotes": ('a,b\n1,"two\nlines"\n2,z\n', {"a": [1, 2], "b": ["two\nlines", "z"]}, ""),
    "commas in text between tabs": (
        "a\tb\n1\tone, two\n2\tthree, four, five\n",
        {"a": [1, 2], "b": ["one, two", "three, four, five"]},
        "Separator: tab.",
    ),
    "comments": (f"# by: me, today\n{PLAIN.replace('2,', '# no, not this\n2,')}", A, "begin with # are comments"),
    "no comment inside quotes": ('# c\na,b\n1,"x\n# y"\n2,z\n', {"a": [1, 2], "b": ["x\n# y", "z"]}, "comments"),
    "a header of NumPy": ("# a,b\n1,0.5\n2,1.5\n3,2.5\n", A, "the header is the comment before the first row"),
    "numbers of colours": ("a,b\n#ff0000,1\n#00ff00,2\n", {"a": ["#ff0000", "#00ff00"], "b": [1, 2]}, ""),
    "no header": ("1,x\n2,y\n3,x\n", {"column 1": [1, 2, 3], "column 2": ["x", "y", "x"]}, "no header"),
    "no header, all text": ("x,y\ny,x\nx,y\n", {"column 1": ["x", "y", "x"]}, "no header"),
    "no header, a gap": ("?,1\n2,2\n3,4\n", {"column 1": [np.nan, 2, 3]}, "no header"),
    "a new word above words": ("year,kind\n1990,x\n1991,x\n", {"year": [1990, 1991], "kind": ["x", "x"]}, ""),
    "a new word and a number": ("2020,kind\n1990,x\n1991,x\n", {"2020": [1990, 1991], "kind": ["x", "x"]}, ""),
    "positions as a header": ("0,1,2\n5,6,7\n8,9,9\n", {"0": [5, 8], "2": [7, 9]}, ""),
    "positions after an index": (",0,1,2\n0,5,6,7\n1,8,9,9\n", {"column 1": [0, 1], "2": [7, 9]}, "'column 1'"),
    "years as a header": ("name,2023\nx,1\ny,2\n", {"name": ["x", "y"], "2023": [1, 2]}, ""),
    "names with blanks": (" a , b\n1,2\n3,4\n", {"a": [1, 3], "b": [2, 4]}, ""),
    "an unnamed index": (
        ",a\n0,1\n1,2\n",
        {"column 1": [0, 1], "a": [1, 2]},
        "without a name in the header: 'column 1'",
    ),
    "row names of R": (
        "a,b\nr1,1,2\nr2,3,4\n",
        {"column 1": ["r1", "r2"], "a": [1, 3], "b": [2, 4]},
        "no name for the",
    ),
    "separators at the end": ("a,b\n1,2,\n3,4,\n", {"a": [1, 3], "b": [2, 4]}, "at the end of each row is left out"),
    "days of ISO 8601": ("a,b\n2024-01-31,1\n2024-02-01,2\n2024-02-02,3\n", {"a": DAYS}, ""),
    "days with points": ("a;b\n31.01.2024;1\n01.02.2024;2\n02.02.2024;3\n", {"a": DAYS}, ""),
    "days of the USA": ("a,b\n1/31/2024,1\n2/1/2024,2\n2/2/2024,3\n", {"a": DAYS}, ""),
    "days in words": ('a,b\n"Jan 31, 2024",1\n"Feb 1, 2024",2\n"Feb 2, 2024",3\n', {"a": DAYS}, ""),
    "days as numbers": ("a,b\n20240131,1\n20240201,2\n20240202,3\n", {"a": DAYS}, ""),
    "times": ("a,b\n2024-01-31T10:30:00Z,1\n,2\n", {"a": [pd.Timestamp("2024-01-31 10:30"), pd.NaT]}, ""),
    "postal codes": ("a,b\n08001,1\n8002,2\n", {"a": ["08001", "8002"]}, ""),
    "telephone numbers": ("a,b\n555-1234,1\n555-3456,2\n", {"a": ["555-1234", "555-3456"]}, ""),
    "an empty column": ("a,b\n,1\n,2\n", {"a": [np.nan, np.nan]}, ""),
    "booleans": ("a,b\nTrue,1\nFalse,2\n", {"a": ["True", "False"]}, ""),
}
"""What is awkward -> the file, columns that are read from it, and a part of what is said of it."""

REFUSED: dict[str, tuple[bytes | str, str]] = {
    "nothing": (b"", "awkward.csv is empty. Expected a header and rows"),
    "only blanks": ("\n \n", "awkward.csv is empty"),
    "a header only": ("a,b\n", "has no rows, only a header"),
    "a short row": (
        "a,b,c\n1,2,3\n4,5\n6,7,8\n",
        r"line 3: expected 3 fields, as in the header; got 2: '4,5'. A comma may",
    ),
    "a long row": ("a,b\n1,2\n3,4,5\n6,7\n", r"line 3: expected 2 fields, as in the header; got 3: '3,4,5'. Text that"),
    "a ragged row after a long cell": ('a,b\n1,"x\n\ny"\n2\n3,z\n', "line 5: expected 2 fields"),
    "a title before the header": (
        "Report 2024\na,b\n1,2\n3,4\n",
        "line 1: expected the names of 2 columns, as the rows have 2 fields; got 1: 'Report 2024'",
    ),
    "names twice": ("a,b, a\n1,2,3\n4,5,6\n", "columns 1 and 3 are both named 'a'. Rename one"),
    "an open quote": ('a,b\n1,"x\n2,y\n3,z\n', "Line 2: a quotation mark .* has no partner"),
    "text after a quote": ('a,b\n1,"x"y\n', "Line 2: a quotation mark"),
    "a mistake in numbers": (
        "a,b\n" + "".join(f"{i},1\n" for i in range(20)) + "1O,1\n",
        "'a', line 22: expected a number such as '0'; got '1O'. Correct it, or leave it empty",
    ),
    "a day that is none": (
        "a,b\n" + "".join(f"{i}.02.2024,1\n" for i in range(1, 9)) + "31.02.2024,1\n",
        "'a', line 10: expected a date such as '1.02.2024'; got '31.02.2024'",
    ),
    "some are percent": ("a,b\n1%,1\n2,2\n3%,3\n", "'a': expected numbers of one kind; some are percent and others"),
    "two currencies": ("a,b\n$1,1\n€2,2\n$3,3\n", r"'a': expected numbers of one kind; the units \$, € are mixed"),
    "Excel": (b"PK\x03\x04" + bytes(range(256)), "is an Excel workbook or a zip archive. Save the sheet as CSV"),
    "gzip": (b"\x1f\x8b\x08\x00", "is compressed by gzip. Decompress it first"),
    "xz": (b"\xfd7zXZ\x00\x00", "is compressed by xz. Decompress it first"),
    "NumPy": (b"\x93NUMPY\x01\x00", "is an array of NumPy. Write it by numpy.savetxt"),
    "a week that is none": (
        "a,b\n" + "".join(f"2024-W{i:02d},1\n" for i in range(1, 12)) + "2024-W60,1\n",
        "'a', line 13: expected a date such as '2024-W01'; got '2024-W60'",
    ),
    "Parquet": (b"PAR1\x00\x00", "is a Parquet file. Convert it by pandas.read_parquet"),
    "JSON": ('{"a": [1, 2]}', "is JSON. Convert it"),
    "HTML": ("<html></html>", "is HTML or XML"),
    "binary": (b"a,b\n1,\x07\x01\n", "is no text: byte 6 is 0x07"),
    "a zero byte": (b"a,b\n1,2\n3,\x00\n", "is no text: byte 10 is 0x00"),
}
"""What is wrong -> the file and the message."""


def read(content: bytes | str, tmp_path: Path, **options: Any) -> reading_module.Sheet:
    path = tmp_path / "awkward.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_csv(path, **options)


@pytest.mark.parametrize("name", READ)
def test_an_awkward_file_is_read(name: str, tmp_path: Path) -> None:
    content, columns, words = READ[name]
    sheet = read(content, tmp_path)
    assert words in " ".join(sheet.words)
    for column, values in columns.items():
        expected = pd.Series(values, sheet.frame.index, name=column)
        pd.testing.assert_series_equal(sheet.frame[column], expected, check_dtype=False)
        assert pd.api.types.is_numeric_dtype(sheet.frame[column]) == pd.api.types.is_numeric_dtype(expected)
    again = read(content, tmp_path, like=sheet.formats)
    pd.testing.assert_frame_equal(again.frame, sheet.frame)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_place_and_a_cure(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        read(content, tmp_path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"is a folder. Give one of its files"):
        read_csv(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        read_csv(tmp_path / "gone.csv")
    with pytest.raises(ValueError, match=r"https:/example.org/a.csv is an address, not a file. Download it first"):
        read_csv(Path("https://example.org/a.csv"))


def test_the_whole_file_decides_whether_it_is_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SAMPLE", 5)  # in the middle of a character
    assert read("a,b\n1é,1\n2é,2\n", tmp_path).frame["a"].tolist() == ["1é", "2é"]
    assert read("a,b\n12345,1\n2é,2\n".encode("cp1252"), tmp_path).frame["a"].tolist() == ["12345", "2é"]
    assert read(b"a,b\n12345,1\n2\x81,2\n", tmp_path).words == ("Encoding: Latin-1, as it is not UTF-8.",)


def test_plain_files_need_no_words(tmp_path: Path) -> None:
    assert read(PLAIN, tmp_path).words == ()


def test_the_index_is_the_line_where_a_row_begins(tmp_path: Path) -> None:
    frame = read('# x\na,b\n1,"p\nq"\n\n2,r\n', tmp_path).frame
    assert frame.index.tolist() == [3, 6]
    assert frame.index.name == "line"


def test_what_was_read_is_said_by_column(tmp_path: Path) -> None:
    content = 'a,b,c,d,e\n"$1,200.50",3%,01/02/2024,007,1\n"$3,400.10",4%,03/04/2024,012,x\n"$5",5%,05/06/2024,1,2\n'
    notes = read(content, tmp_path).notes
    assert notes == {
        "a": "in $; ',' separates thousands",
        "b": "percent, as shares",
        "c": "month/day/year (day/month/year is possible as well; 2024-01-31 is clear)",
        "d": "some begin with a zero",
        "e": "1 of its 3 values are no numbers, such as 'x'",
    }


def test_what_is_recognised_may_be_given(tmp_path: Path) -> None:
    assert list(read("1,2\n3,4\n", tmp_path, has_header=True).frame) == ["1", "2"]
    assert list(read("a,b\nb,a\n", tmp_path, has_header=False).frame) == ["column 1", "column 2"]
    assert list(read("a;b,c\n1;2,3\n", tmp_path, separator=",").frame) == ["a;b", "c"]
    assert read("a;b\n1,234;2\n", tmp_path, decimal=".").frame["a"].tolist() == [1234]
    assert list(read("Größe,b\n1,2\n".encode("mac-roman"), tmp_path, encoding="mac-roman").frame) == ["Größe", "b"]
    with pytest.raises(ValueError, match="cannot be read in the encoding utf-8"):
        read("Größe,b\n1,2\n".encode("latin-1"), tmp_path, encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be read in the encoding martian"):
        read(PLAIN, tmp_path, encoding="martian")


def test_long_and_wide_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "MOST_CELLS", 6)
    with pytest.raises(ValueError, match=r"at most 6 values; it has more than 3 rows of 2. Read fewer by rows=2"):
        read(PLAIN, tmp_path)
    assert read(PLAIN, tmp_path, rows=2).frame["a"].tolist() == [1, 2]
    monkeypatch.setattr(reading_module, "MOST_COLUMNS", 1)
    with pytest.raises(ValueError, match="at most 1 columns; got 2"):
        read(PLAIN, tmp_path)


FIT = {"n": Format("number"), "p": Format("number", "%"), "d": Format("date", "%d.%m.%Y"), "t": Format("text")}


def test_new_rows_are_read_as_those_of_the_fit(tmp_path: Path) -> None:
    frame = read("n;p;d;t\n1,5;3%;03.04.2024;7\n", tmp_path, like=FIT).frame
    assert frame.iloc[0].tolist() == [1.5, 0.03, pd.Timestamp("2024-04-03"), "7"]
    iso = read("n;p;d;t\n?;?;2024-04-03;\n", tmp_path, like=FIT).frame
    assert iso["d"].tolist() == [pd.Timestamp("2024-04-03")]
    assert iso[["n", "p", "t"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x;3%;03.04.2024;7", "'n', line 2: expected a number, as in the fit; got 'x'"),
        (
            "1;3;03.04.2024;7",
            "'p': expected numbers in percent, as in the fit; got them without a percent sign, such as '3'",
        ),
        ("1;3%;7;7", "'d', line 2: expected a date, as in the fit; got '7'"),
        ("1%;3%;03.04.2024;7", "'n': expected numbers without a percent sign, as in the fit; got them in percent"),
    ],
)
def test_new_rows_of_another_kind_are_refused(row: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(f"n;p;d;t\n{row}\n", tmp_path, like=FIT)
