"""Reports from where they lie: a folder of text files or a table; the way into `ingest` for text.

A report is known by a key, which is a StudyInstanceUID, an AccessionNumber or a manifest's study id. Which study that
is, `ingest` finds out; nothing is guessed here.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from preprocessing.errors import InputError, UnusableFile
from preprocessing.tables import column_among, is_table, read_text_table
from preprocessing.text_files import decode_report

STUDY_COLUMNS = ("study", "study_instance_uid", "study_uid", "study_id")
ACCESSION_COLUMNS = ("accession", "accession_number")
TEXT_COLUMNS = ("text", "report", "report_text")


@dataclass(frozen=True, slots=True)
class ReportRecord:
    """One report.

    Args:
        key: StudyInstanceUID, AccessionNumber or manifest study id.
        text: the report as written.
        origin: where it came from, relative to the source ("a/b.txt", "reports.csv row 7"); an identifier.
        flags: how it was decoded.
    """

    key: str
    text: str
    origin: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RejectedReport:
    """A report that cannot be used, with the reason; `origin` as in `ReportRecord`."""

    origin: str
    reason: str
    detail: str


def read_reports(source: Path) -> Iterator[ReportRecord | RejectedReport]:
    """Yield the reports of a folder of `.txt` files (searched in depth, named by key), or of a CSV or Parquet table.

    A table has a column `study` or `accession` (or both: the study counts), and a column `text`. Every file or row
    yields one record or one rejection, in the order of names or rows.

    Raises:
        InputError: when the source is not there, has no report, or is a table without these columns.
    """
    if source.is_dir():
        return _read_folder(source)
    if source.is_file() and is_table(source):
        return _read_table(source)
    if source.is_file():
        raise InputError(f"{source}: reports come as a folder of .txt files or as a CSV or Parquet table")
    raise InputError(f"{source}: there is no such folder or table of reports; check the path")


def read_report_file(path: Path, key: str, origin: str) -> ReportRecord | RejectedReport:
    """One report from one text file."""
    try:
        text, flags = decode_report(path.read_bytes())
        return ReportRecord(key, text, origin, flags)
    except UnusableFile as error:
        return RejectedReport(origin, error.reason, error.detail)
    except FileNotFoundError:
        return RejectedReport(origin, "missing_file", "there is no such file")
    except OSError as error:
        return RejectedReport(origin, "unreadable", f"the file cannot be read ({type(error).__name__})")


def _read_folder(source: Path) -> Iterator[ReportRecord | RejectedReport]:
    paths = sorted(
        Path(folder, name) for folder, _, names in os.walk(source) for name in names if name.lower().endswith(".txt")
    )
    if not paths:
        raise InputError(f"{source}: holds no .txt file; name the folder or table that holds the reports")
    return (read_report_file(path, path.stem, path.relative_to(source).as_posix()) for path in paths)


def _read_table(source: Path) -> Iterator[ReportRecord | RejectedReport]:
    table = read_text_table(source)
    text_column = column_among(table, TEXT_COLUMNS)
    study, accession = column_among(table, STUDY_COLUMNS), column_among(table, ACCESSION_COLUMNS)
    keys = [column for column in (study, accession) if column is not None]
    if text_column is None or not keys:
        raise InputError(f"{source}: a table of reports needs a column `study` or `accession`, and a column `text`")
    rows = table.select(*keys, text_column).iter_rows()
    return (_record(row[:-1], row[-1], f"{source.name} row {number}") for number, row in enumerate(rows, 2))


def _record(keys: tuple[str | None, ...], text: str | None, origin: str) -> ReportRecord | RejectedReport:
    key = next((key.strip() for key in keys if key and key.strip()), None)
    if key is None:
        return RejectedReport(origin, "no_key", "the row names neither study nor accession number")
    try:
        decoded, flags = decode_report((text or "").encode())
    except UnusableFile as error:
        return RejectedReport(origin, error.reason, error.detail)
    return ReportRecord(key, decoded, origin, flags)
