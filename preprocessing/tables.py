"""CSV and Parquet tables that users hand in, read as text columns; shared by reports, labels and manifest."""

import io
from pathlib import Path

import polars as pl

from preprocessing.errors import InputError, UnusableFile
from preprocessing.text_files import decode_report

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")


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
    except (pl.exceptions.PolarsError, OSError, UnusableFile) as error:
        raise InputError(f"{path}: not a readable CSV or Parquet table ({type(error).__name__})") from None
    _refuse_repeated(path, [name.strip() for name in header])
    return table.rename({name: name.strip() for name in table.columns})


def _read_csv(path: Path) -> tuple[list[str], pl.DataFrame]:
    """Header as written, and the table, in which Polars gives repeated columns names of their own."""
    content = path.read_bytes()
    try:
        table = pl.read_csv(io.BytesIO(content), infer_schema=False, encoding="utf8")
    except pl.exceptions.ComputeError:
        text, _ = decode_report(content)
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


def column_among(table: pl.DataFrame, names: tuple[str, ...]) -> str | None:
    """The first of the table's columns that has one of these names, whatever its case and underscores."""
    wanted = {name.replace("_", "") for name in names}
    return next((column for column in table.columns if column.lower().replace("_", "") in wanted), None)
