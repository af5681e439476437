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
        InputError: when the file is not there or is not such a table.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; name a CSV or Parquet table")
    try:
        if path.suffix.lower() == ".parquet":
            table = pl.read_parquet(path).select(pl.all().cast(pl.String))
        else:
            table = _read_csv(path)
    except (pl.exceptions.PolarsError, OSError, UnusableFile) as error:
        raise InputError(f"{path}: not a readable CSV or Parquet table ({type(error).__name__})") from None
    return table.rename({name: name.strip() for name in table.columns})


def _read_csv(path: Path) -> pl.DataFrame:
    content = path.read_bytes()
    try:
        return pl.read_csv(io.BytesIO(content), infer_schema=False, encoding="utf8")
    except pl.exceptions.ComputeError:
        text, _ = decode_report(content)
        return pl.read_csv(io.BytesIO(text.encode()), infer_schema=False)


def column_among(table: pl.DataFrame, names: tuple[str, ...]) -> str | None:
    """The first of the table's columns that has one of these names, whatever its case and underscores."""
    wanted = {name.replace("_", "") for name in names}
    return next((column for column in table.columns if column.lower().replace("_", "") in wanted), None)
