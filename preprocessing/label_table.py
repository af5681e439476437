"""Labels that a user hands in, a row a study; `ingest` copies them into the studies table and the datalist."""

from pathlib import Path

import polars as pl

from preprocessing.errors import InputError
from preprocessing.tables import read_text_table

VALUES = (1, 0, -1)
"""Present, absent, uncertain; a blank is unknown."""


def read_label_table(path: Path) -> pl.DataFrame:
    """Read a CSV or Parquet table of labels.

    Returns:
        Column `study` (String: StudyInstanceUID, accession number or manifest study id) and one Int8 column for each
        label, under its own name and in the file's order, with 1, 0, -1 or null.

    Raises:
        InputError: when the first column is not `study`, a study is missing or named twice, a column has no name, or a
            value is none of 1, 0, -1 and blank; the message names rows (the header is row 1) and column.
    """
    table = read_text_table(path)
    if not table.columns or table.columns[0] != "study":
        raise InputError(f"{path}: the first column of a label table is `study`; the others are the labels")
    if len(table.columns) < 2 or not all(table.columns):
        raise InputError(f"{path}: a label table needs at least one label, and a name for every column")
    table = table.with_columns(pl.all().str.strip_chars()).with_columns(pl.col("study").replace("", None))
    study = table["study"]
    _require(path, "study", study.is_not_null(), "names no study")
    _require(path, "study", study.is_first_distinct(), "names a study again")
    return table.select("study", *(_values(path, table[name]) for name in table.columns[1:]))


def _values(path: Path, column: pl.Series) -> pl.Series:
    numbers = column.replace("", None).cast(pl.Float64, strict=False)
    blank = column.is_null() | (column == "")
    _require(path, column.name, blank | numbers.is_in(list(map(float, VALUES))), "is none of 1, 0, -1 and blank")
    return numbers.cast(pl.Int8)


def _require(path: Path, column: str, good: pl.Series, fault: str) -> None:
    # The value itself is not shown: a wrong column may hold names.
    bad = (~good.fill_null(False)).arg_true()
    if len(bad):
        rows = ", ".join(str(row + 2) for row in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InputError(f"{path}: column {column!r}, row {rows}{more}: the value {fault}")
