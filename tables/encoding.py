"""How the bytes of a file stand for characters."""

import codecs
import re
from pathlib import Path

SAMPLE = 1 << 20
"""The number of bytes at the beginning by which an encoding is recognised."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with a byte order mark"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
"""The byte order marks with which files may begin; that of UTF-32 begins with that of UTF-16."""
OTHERS = (
    (b"PK\x03\x04", "an Excel workbook or a zip archive", "Save the sheet as CSV, or unpack the archive"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook", "Save the sheet as CSV"),
    (b"\x1f\x8b", "compressed by gzip", "Decompress it first, by gunzip"),
    (b"BZh", "compressed by bzip2", "Decompress it first, by bunzip2"),
    (b"\xfd7zXZ", "compressed by xz", "Decompress it first, by unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "Decompress it first, by unzstd"),
    (b"ARROW1", "a Feather file", "Convert it by pandas.read_feather(...).to_csv(...)"),
    (b"\x93NUMPY", "an array of NumPy", "Write it by numpy.savetxt(..., delimiter=',')"),
    (b"\x80\x04", "a pickle", "Write its table as CSV"),
    (b"\x80\x05", "a pickle", "Write its table as CSV"),
    (b"\x89PNG", "a picture", "Write its table as CSV"),
    (b"@relation", "an ARFF file", "Write its table as CSV"),
    (b"@RELATION", "an ARFF file", "Write its table as CSV"),
    (b"PAR1", "a Parquet file", "Convert it by pandas.read_parquet(...).to_csv(...)"),
    (b"\x89HDF", "an HDF5 file", "Write its table as CSV"),
    (b"SQLite", "an SQLite database", "Write its table as CSV"),
    (b"%PDF", "a PDF", "Write its table as CSV"),
    (b"{", "JSON", "Convert it by pandas.read_json(...).to_csv(...)"),
    (b"[", "JSON", "Convert it by pandas.read_json(...).to_csv(...)"),
    (b"<", "HTML or XML", "Write its table as CSV"),
)
"""How files of other kinds begin, what they are, and the cure."""
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x19\x1c-\x1f]")
"""Bytes that texts of one byte per character do not have."""


def encoding_of(path: Path) -> tuple[str, str]:
    """Return the encoding of a file by Python's name, and in words.

    A byte order mark decides; without one, zeros in every other byte are UTF-16, bytes that are valid UTF-8 are that,
    and others Windows-1252, of which Latin-1 is a part.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is empty, or no text.
    """
    with path.open("rb") as file:
        sample = file.read(SAMPLE)
    if not sample.strip():
        raise ValueError(f"{path.name} is empty. Expected a header and rows.")
    for mark, encoding, words in MARKS:
        if sample.startswith(mark):
            return encoding, words
    for start, what, cure in OTHERS:
        if sample.startswith(start):
            raise ValueError(f"{path.name} is {what}. {cure}.")
    if b"\x00" in sample:
        for encoding, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
            if zeros.count(0) > 0.7 * len(zeros):
                return encoding, "UTF-16 without a byte order mark"
    if bad := CONTROL.search(sample):
        raise ValueError(
            f"{path.name} is no text: byte {bad.start()} is 0x{bad.group()[0]:02X}. Expected a file of separated "
            f"values."
        )
    return ("utf-8", "UTF-8") if is_utf8(path) else windows(path)


def is_utf8(path: Path) -> bool:
    """Return whether the bytes of a whole file are valid UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while part := file.read(SAMPLE):
                decoder.decode(part)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def windows(path: Path) -> tuple[str, str]:
    """Return Windows-1252, or Latin-1 where the file has bytes that are no character of the former."""
    with path.open("rb") as file:
        is_latin = any(re.search(rb"[\x81\x8d\x8f\x90\x9d]", part) for part in iter(lambda: file.read(SAMPLE), b""))
    return ("latin-1", "Latin-1, as it is not UTF-8") if is_latin else ("cp1252", "Windows-1252, as it is not UTF-8")
