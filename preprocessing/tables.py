"""CSV and Parquet tables that users hand in, read as text columns; shared by reports, labels and manifest."""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import polars as pl

from preprocessing.errors import InputError, UnusableFile
from preprocessing.text_files import decoded, decoded_line

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_SLICE = 20_000
"""Rows of a Parquet file that are in memory at a time."""

_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""Of damaged files, some make Polars panic, which is no `Exception`."""


def is_table(path: Path) -> bool:
    """Whether a file's name says that it is a table."""
    return path.name.lower().endswith(TABLE_SUFFIXES)


def read_text_table(path: Path) -> pl.DataFrame:
    """Read a CSV (UTF-8 or Windows-1252, gzip or not) or Parquet file; every column becomes text.

    Raises:
        InputError: when the file is not there, is not such a table, or two of its columns have one name.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: there is no such file; name a CSV or Parquet table")
        if path.suffix.lower() == ".parquet":
            table = pl.read_parquet(path).select(pl.all().cast(pl.String))
            header = table.columns
        else:
            header, table = _read_csv(path)
    except (*_POLARS_ERRORS, UnusableFile) as error:
        raise _unreadable_table(path, error) from None
    _refuse_repeated(path, [name.strip() for name in header])
    return table.rename({name: name.strip() for name in table.columns})


def _read_csv(path: Path) -> tuple[list[str], pl.DataFrame]:
    """Header as written, and the table, in which Polars gives repeated columns names of their own."""
    content = path.read_bytes()
    try:
        table = pl.read_csv(io.BytesIO(content), infer_schema=False, encoding="utf8")
    except pl.exceptions.ComputeError:
        text, _ = decoded(content)
        content = text.encode()
        table = pl.read_csv(io.BytesIO(content), infer_schema=False)
    first = pl.read_csv(io.BytesIO(content), has_header=False, n_rows=1, infer_schema=False)
    return [name or "" for name in first.row(0)], table


def _refuse_repeated(path: Path, header: list[str]) -> None:
    # Positions, not names: the first line of a table without a header may be a patient's.
    for place, name in enumerate(header):
        if name and name in header[:place]:
            raise InputError(
                f"{path}: columns {header.index(name) + 1} and {place + 1} have the same name; rename or remove one"
            )


def column_named(header: Sequence[str], names: tuple[str, ...]) -> int | None:
    """Place of the first column that has one of these names, whatever its case and underscores."""
    wanted = {name.replace("_", "") for name in names}
    return next((place for place, name in enumerate(header) if name.lower().replace("_", "") in wanted), None)


def stream_text_table(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    """Header and rows of a table that need not fit into memory, for texts; formats as in `read_text_table`.

    Lines of a CSV that are not UTF-8 are read as Windows-1252. A row may have fewer or more cells than the header, and
    a blank line is a row without any.

    Raises:
        InputError: as `read_text_table`, and when a column of a Parquet file holds lists, structures or bytes; when it
            turns out on the way that the file is damaged or that a quotation mark is out of place, then.
    """
    if path.suffix.lower() == ".parquet":
        header, rows = _parquet_rows(path)
    else:
        header, rows = _csv_rows(path)
    header = [name.strip() for name in header]
    _refuse_repeated(path, header)
    return header, rows


def _parquet_rows(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    try:
        schema = pl.scan_parquet(path).collect_schema()
    except _POLARS_ERRORS as error:
        raise _unreadable_table(path, error) from None
    for number, kind in enumerate(schema.dtypes(), 1):
        if kind.is_nested() or kind == pl.Binary:
            raise InputError(
                f"{path}: column {number} holds lists, structures or bytes; store it as text or leave it out"
            )
    return schema.names(), _rows_of_parquet(path)


def _rows_of_parquet(path: Path) -> Iterator[list[str]]:
    try:
        table = pl.scan_parquet(path).select(pl.all().cast(pl.String).fill_null(""))
        count = pl.scan_parquet(path).select(pl.len()).collect().item()
        for start in range(0, count, _SLICE):
            yield from map(list, table.slice(start, _SLICE).collect().iter_rows())
    except _POLARS_ERRORS as error:  # its message may quote values
        raise _unreadable_table(path, error) from None


def _csv_rows(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    rows = _checked_rows(path)
    return next(rows, []), rows


def _checked_rows(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 30))  # what is too long for a report costs its row
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield from _strict_rows(path, _text_lines(file))
    except (OSError, EOFError, UnicodeError, UnusableFile, zlib.error) as error:
        raise _unreadable_table(path, error) from None


def _strict_rows(path: Path, lines: Iterator[str]) -> Iterator[list[str]]:
    """The rows; a quotation mark that is not closed would put what follows, of other patients, into one cell."""
    reader = csv.reader(lines, strict=True)
    begin = 1
    try:
        for row in reader:
            yield row
            begin = reader.line_num + 1
    except csv.Error:
        raise InputError(
            f"{path}: the row that begins in line {begin} has a quotation mark or line break out of place; "
            "put texts in quotation marks and double those inside"
        ) from None


def _text_lines(file: BinaryIO | gzip.GzipFile) -> Iterator[str]:
    first = file.readline()
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        file.seek(0)
        yield from io.TextIOWrapper(file, "utf-16", newline="")
        return
    yield decoded(first)[0]
    for line in file:
        yield decoded_line(line)


def _unreadable_table(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a readable CSV or Parquet table ({type(error).__name__})")
