"""Reports from where they lie: a folder of text files or a table; the way into `ingest` for text.

A report is known by a key, which is a StudyInstanceUID, an AccessionNumber or a manifest's study id. Which study that
is, `ingest` finds out; nothing is guessed here.
"""

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from preprocessing.errors import InputError, UnusableFile
from preprocessing.files import path_text
from preprocessing.tables import column_among, is_table, read_text_table
from preprocessing.text_files import LONGEST_REPORT, decode_report

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


def read_reports(source: Path, images: Iterable[Path] = ()) -> Iterator[ReportRecord | RejectedReport]:
    """Yield the reports of a folder of `.txt` files (searched in depth, named by key), or of a CSV or Parquet table.

    A table has a column `study` or `accession` (or both: the study counts), and a column `text`. Every file or row
    yields one record or one rejection, in the order of names or rows.

    Args:
        source: folder or table.
        images: files and folders that are accounted for as images, where both lie in one folder.

    Raises:
        InputError: when the source is not there, has no report, or is a table without these columns.
    """
    try:
        if source.is_dir():
            return _read_folder(source, {os.path.abspath(path) for path in images})  # noqa: PTH100 -- links stay
        is_file = source.is_file()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if is_file and is_table(source):
        return _read_table(source)
    if is_file:
        raise InputError(f"{source}: reports come as a folder of .txt files or as a CSV or Parquet table")
    raise InputError(f"{source}: there is no such folder or table of reports; check the path")


def read_report_file(path: Path, key: str, origin: str) -> ReportRecord | RejectedReport:
    """One report from one text file, of which no more is read than a report can have."""
    try:
        text, flags = decode_report(_start_of(path))
        return ReportRecord(key, text, origin, flags)
    except UnusableFile as error:
        return RejectedReport(origin, error.reason, error.detail)
    except FileNotFoundError:
        return RejectedReport(origin, "missing_file", "there is no such file")
    except OSError as error:
        return RejectedReport(origin, "unreadable", f"the file cannot be read ({type(error).__name__})")
    except ValueError:  # a path with a NUL in it, from a manifest
        return RejectedReport(origin, "missing_file", "there is no such file")


def _start_of(path: Path) -> bytes:
    """One byte more than the longest report; a pipe or device is refused before it can keep the reader waiting."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UnusableFile("not_a_file", "neither a file nor a link to one")
        return file.read(LONGEST_REPORT + 1)


def _read_folder(source: Path, images: Collection[str]) -> Iterator[ReportRecord | RejectedReport]:
    closed: list[OSError] = []
    paths: list[Path] = []
    for folder, folders, names in os.walk(source, onerror=closed.append):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        folders[:] = [name for name in folders if os.path.abspath(Path(folder, name)) not in images]  # noqa: PTH100
        paths += [Path(folder, name) for name in (*names, *links)]
    paths += [Path(error.filename) for error in closed]
    paths = sorted(path for path in paths if os.path.abspath(path) not in images)  # noqa: PTH100
    if any(path == source for path in paths):
        raise InputError(f"{source}: cannot be read ({closed[0].strerror}); check its permissions")
    if not any(_is_text_file(path) for path in paths):
        raise InputError(f"{source}: holds no .txt file; name the folder or table that holds the reports")
    unentered = {Path(error.filename) for error in closed}
    return (_from_folder(path, path_text(path.relative_to(source)), path in unentered) for path in paths)


def _from_folder(path: Path, origin: str, unentered: bool) -> ReportRecord | RejectedReport:
    if unentered:
        return RejectedReport(origin, "unreadable", "the folder cannot be entered")
    if not _is_text_file(path):
        return RejectedReport(origin, "not_a_text_file", "its name does not end with .txt")
    return read_report_file(path, path.stem, origin)


def _is_text_file(path: Path) -> bool:
    return path.name.lower().endswith(".txt")


def _read_table(source: Path) -> Iterator[ReportRecord | RejectedReport]:
    table = read_text_table(source)
    text_column = column_among(table, TEXT_COLUMNS)
    study, accession = column_among(table, STUDY_COLUMNS), column_among(table, ACCESSION_COLUMNS)
    keys = [column for column in (study, accession) if column is not None]
    if text_column is None or not keys:
        raise InputError(f"{source}: a table of reports needs a column `study` or `accession`, and a column `text`")
    rows = table.select(*keys, text_column).iter_rows()
    return (_record(row[:-1], row[-1], f"{path_text(source.name)} row {number}") for number, row in enumerate(rows, 2))


def _record(keys: tuple[str | None, ...], text: str | None, origin: str) -> ReportRecord | RejectedReport:
    key = next((key.strip() for key in keys if key and key.strip()), None)
    if key is None:
        return RejectedReport(origin, "no_key", "the row names neither study nor accession number")
    try:
        decoded, flags = decode_report((text or "").encode())
    except UnusableFile as error:
        return RejectedReport(origin, error.reason, error.detail)
    return ReportRecord(key, decoded, origin, flags)
