"""Reports from where they lie: folders, files and tables; the way into `ingest` for text.

A folder may hold any mix of text files, DICOM SR, HL7 v2, FHIR and Open-i's XML. What a file is, its content tells
(`report_formats`); each format has a module that turns bytes into records. Which study a record is of, `pairing` finds
out by the record's keys; nothing is guessed here.
"""

import io
import itertools
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from preprocessing.errors import InputError, UnusableFile
from preprocessing.files import path_text
from preprocessing.hl7_messages import messages_in
from preprocessing.hl7_reports import read_message
from preprocessing.openi_reports import read_openi
from preprocessing.report_formats import DICOM, FHIR, HEAD, HL7, XML, format_of, head_of, is_report_file, opened
from preprocessing.report_records import (
    FORMAT_REASONS,
    LARGEST_OBJECT,
    RejectedReport,
    ReportRecord,
    unexpected,
    usable_keys,
)
from preprocessing.sources import SourceImage
from preprocessing.sr_reports import read_sr
from preprocessing.tables import column_named, is_table, stream_text_table
from preprocessing.text_files import COMPRESSED, LONGEST_REPORT, checked_text, decode_report, decoded

__all__ = ["RejectedReport", "ReportRecord", "read_report_file", "read_reports"]

STUDY_COLUMNS = ("study", "study_instance_uid", "study_uid", "study_id")
ACCESSION_COLUMNS = ("accession", "accession_number")
TEXT_COLUMNS = ("text", "report", "report_text")


def read_reports(
    source: Path, images: Iterable[Path] = (), *, among: Path | None = None
) -> Iterator[ReportRecord | RejectedReport]:
    """Yield the reports of a folder (searched in depth), of one file, or of a CSV or Parquet table.

    A table has a column `study` or `accession` or both, and a column `text`. A text file is named by its key. Every
    file, row, message and resource that is a report yields one record or one rejection, and so does every file that
    holds none, in the order of names or rows. Texts are read one after another as they are asked for.

    Args:
        source: folder, file or table.
        images: files and folders that are accounted for as something else, images for instance.
        among: a folder of images that holds the reports, lies inside their folder, or is the same. Where both overlap,
            files that are no reports (`report_formats.is_report_file`) are left to the images' side.

    Raises:
        InputError: when the source is not there, has no report, or is a table without these columns.
    """
    try:
        if source.is_dir():
            return _read_folder(source, {os.path.abspath(path) for path in images}, among)  # noqa: PTH100 -- links stay
        is_file = source.is_file()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if is_file and is_table(source):
        return _read_table(source)
    if is_file:
        return _read_single(source)
    raise InputError(f"{source}: there is no such folder, file or table of reports; check the path")


def read_report_file(path: Path, key: str, origin: str) -> ReportRecord | RejectedReport:
    """One report from one text file, of which no more is read than a report can have."""
    try:
        with opened(path) as file:
            text, flags = decode_report(file.read(LONGEST_REPORT + 1))
        return ReportRecord(usable_keys([key]), text, origin, flags)
    except (OSError, ValueError) as error:
        return _unreadable(error, origin)


def overlap(images: Path | None, reports: Path | None) -> bool:
    """Whether both are folders and are the same, or one lies in the other."""
    if images is None or reports is None or not (os.path.isdir(images) and os.path.isdir(reports)):  # noqa: PTH112
        return False
    first, second = Path(os.path.realpath(images)), Path(os.path.realpath(reports))
    return first.is_relative_to(second) or second.is_relative_to(first)


def apart_from_reports(images: Iterable[SourceImage], reports: Path) -> Iterator[SourceImage]:
    """Leave out the files that `read_reports` takes where images and reports lie in one folder."""
    folder = _folder(reports)
    for image in images:
        if image.member or not _place(image.path).startswith(folder) or not is_report_file(image.path):
            yield image


def _folder(path: Path) -> str:
    """A folder with a separator behind it."""
    return os.path.join(os.path.realpath(path), "")  # noqa: PTH118


def _place(path: str | Path) -> str:
    """Where a file lies in the end; a link is itself and not what it points at."""
    folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 -- links stay
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118 -- fast


def _unreadable(error: Exception, origin: str) -> RejectedReport:
    if isinstance(error, UnusableFile):
        return RejectedReport(origin, error.reason, error.detail)
    if isinstance(error, FileNotFoundError | ValueError):  # a path with a NUL in it, from a manifest
        return RejectedReport(origin, "missing_file", "there is no such file")
    return RejectedReport(origin, "unreadable", f"the file cannot be read ({type(error).__name__})")


def _read_folder(source: Path, images: Collection[str], among: Path | None) -> Iterator[ReportRecord | RejectedReport]:
    closed: list[OSError] = []
    paths: list[str] = []  # of hundreds of thousands of files, so no `Path`
    for folder, folders, names in os.walk(source, onerror=closed.append):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        folders[:] = [name for name in folders if os.path.abspath(Path(folder, name)) not in images]  # noqa: PTH100
        paths += [os.path.join(folder, name) for name in (*names, *links)]  # noqa: PTH118
    unentered = {str(error.filename) for error in closed}
    if any(Path(path) == source for path in unentered):
        raise InputError(f"{source}: cannot be read ({closed[0].strerror}); check its permissions")
    paths = [path for path in (*paths, *unentered) if os.path.abspath(path) not in images]  # noqa: PTH100
    paths.sort(key=lambda path: path.split(os.sep))  # noqa: PTH206
    if not any(path.lower().endswith(".txt") or is_report_file(path) for path in paths):
        raise InputError(f"{source}: holds no report; name the folder, file or table that holds them")
    return _from_folder(source, paths, unentered, _folder(among) if among else None)


def _from_folder(
    source: Path, paths: list[str], unentered: Collection[str], shared: str | None
) -> Iterator[ReportRecord | RejectedReport]:
    for path in paths:
        if shared and _place(path).startswith(shared) and not is_report_file(path):
            continue
        origin = path_text(Path(path).relative_to(source))
        if path in unentered:
            yield RejectedReport(origin, "unreadable", "the folder cannot be entered")
        else:
            yield from _read_file(Path(path), origin)


def _read_single(source: Path) -> Iterator[ReportRecord | RejectedReport]:
    try:
        known = format_of(head_of(source), source.name)
    except (OSError, UnusableFile) as error:
        raise InputError(f"{source}: cannot be read ({type(error).__name__}); check its permissions") from error
    if not known:
        raise InputError(f"{source}: no format of reports; give a folder, a CSV or Parquet table, or a file of reports")
    return _read_file(source, path_text(source.name))


def _read_file(path: Path, origin: str) -> Iterator[ReportRecord | RejectedReport]:
    """The reports of one file; at least one record or rejection, and never an exception for what the file holds."""
    count = 0
    try:
        with opened(path) as file:
            head = file.read(HEAD)
            file.seek(0)
            for report in _reports_in(file, head, path, origin):
                count += 1
                yield report
    except (UnusableFile, OSError) as error:
        yield _unreadable(error, origin)
    except Exception as error:  # the libraries of the formats raise what they meet
        yield unexpected(error, origin)
    else:
        if not count:
            yield RejectedReport(origin, "no_report", FORMAT_REASONS["no_report"])


def _reports_in(file: BinaryIO, head: bytes, path: Path, origin: str) -> Iterator[ReportRecord | RejectedReport]:
    kind = format_of(head, path.name)
    if kind == HL7:
        yield from _hl7(file, head, origin)
    elif kind == DICOM:
        yield read_sr(_whole(file, LARGEST_OBJECT), origin)
    elif kind == FHIR:
        yield from _fhir(file, origin)
    elif kind == XML:
        yield read_openi(file.read(LONGEST_REPORT + 1), origin)
    elif kind:
        text, flags = decode_report(file.read(LONGEST_REPORT + 1))
        yield ReportRecord(usable_keys([path.stem]), text, origin, flags)
    else:
        packed = any(head.startswith(mark) for mark in COMPRESSED)
        reason = "compressed" if packed else "not_a_text_file"
        raise UnusableFile(reason, FORMAT_REASONS[reason])


def _whole(file: BinaryIO, limit: int) -> bytes:
    content = file.read(limit + 1)
    if len(content) > limit:
        raise UnusableFile("too_long", f"longer than {limit} bytes, so not a report")
    return content


def _hl7(file: BinaryIO, head: bytes, origin: str) -> Iterator[ReportRecord | RejectedReport]:
    stream: BinaryIO = file
    if b"\0" in head[:8]:  # UTF-16, in which bytes cannot be searched for segments
        text, _ = decoded(_whole(file, LARGEST_OBJECT))
        stream = io.BytesIO(text.encode("utf-8", "replace"))
    messages = enumerate(messages_in(stream), 1)
    first = list(itertools.islice(messages, 2))
    for number, message in itertools.chain(first, messages):
        yield from read_message(message, f"{origin} message {number}" if len(first) > 1 else origin)


def _fhir(file: BinaryIO, origin: str) -> Iterator[ReportRecord | RejectedReport]:
    from preprocessing.fhir_reports import read_fhir  # its models take long to import

    first = file.readline(LARGEST_OBJECT + 1).strip()
    rest = file.readline(LARGEST_OBJECT + 1)
    while rest and not rest.strip():
        rest = file.readline(LARGEST_OBJECT + 1)
    file.seek(0)
    # Of a document in lines of its own, the second line is no object.
    if not (first.removeprefix(b"\xef\xbb\xbf").startswith(b"{") and rest.lstrip().startswith(b"{")):
        yield from read_fhir(_whole(file, LARGEST_OBJECT), origin)
        return
    lines = iter(lambda: file.readline(LARGEST_OBJECT + 1), b"")
    for number, line in enumerate(lines, 1):
        try:
            yield from read_fhir(line, f"{origin} line {number}") if line.strip() else ()
        except UnusableFile as error:
            yield RejectedReport(f"{origin} line {number}", error.reason, error.detail)
        except Exception as error:  # costs one line
            yield unexpected(error, f"{origin} line {number}")


def _read_table(source: Path) -> Iterator[ReportRecord | RejectedReport]:
    header, rows = stream_text_table(source)
    text_column = column_named(header, TEXT_COLUMNS)
    keys = [c for c in (column_named(header, STUDY_COLUMNS), column_named(header, ACCESSION_COLUMNS)) if c is not None]
    if text_column is None or not keys:
        raise InputError(f"{source}: a table of reports needs a column `study` or `accession`, and a column `text`")
    name = path_text(source.name)
    width = len(header)
    return (_of_row(row, width, keys, text_column, f"{name} row {number}") for number, row in enumerate(rows, 2))


def _of_row(
    row: list[str], width: int, columns: list[int], text_column: int, origin: str
) -> ReportRecord | RejectedReport:
    if len(row) != width:  # a comma in a text that is not in quotation marks cuts it
        return RejectedReport(origin, "malformed_row", FORMAT_REASONS["malformed_row"])
    keys = usable_keys([row[column] for column in columns])
    if not keys:
        return RejectedReport(origin, "no_key", "the row names neither study nor accession number")
    try:
        text, flags = checked_text(row[text_column])
    except UnusableFile as error:
        return RejectedReport(origin, error.reason, error.detail)
    return ReportRecord(keys, text, origin, flags)
