"""A table that says which report is of which study, for reports that name none themselves; used by `pairing`.

Columns: `report` (path of a file within the source, its name, its name without suffix, or a key of the report), and
`study` or `accession` or both.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from preprocessing.errors import InputError, UnusableFile
from preprocessing.report_records import ReportRecord, usable_keys
from preprocessing.report_sources import ACCESSION_COLUMNS, STUDY_COLUMNS
from preprocessing.tables import column_named, read_text_table

_COLUMNS = ("report", "report_file", "report_id")


class Pairs:
    """The rows of a pairing table.

    Args:
        rows: name of a report -> number of its row, and keys of its study.
    """

    def __init__(self, rows: dict[str, tuple[int, tuple[str, ...]]]) -> None:
        self._rows = rows
        self._unused = {number for number, _ in rows.values()}

    def keys_of(self, report: ReportRecord) -> tuple[str, ...]:
        """Keys of a report's study: those of the table, which was made to say so, else the report's own.

        Raises:
            UnusableFile: `contradicting_pairs`, when rows that name it in different ways name different studies.
        """
        found = [self._rows[name] for name in _names(report) if name in self._rows]
        self._unused.difference_update(number for number, _ in found)
        if len({keys for _, keys in found}) > 1:
            raise UnusableFile("contradicting_pairs", "rows of the pairing table name different studies for it")
        return found[0][1] if found else report.keys

    def unused(self) -> list[int]:
        """Rows that named no report so far, in their order; the header is row 1."""
        return sorted(self._unused)


def read_pairs(path: Path) -> Pairs:
    """Read a pairing table.

    Raises:
        InputError: when a column or value is missing, or rows name one report for different studies.
    """
    table = read_text_table(path)
    report = column_named(table.columns, _COLUMNS)
    study, accession = (column_named(table.columns, names) for names in (STUDY_COLUMNS, ACCESSION_COLUMNS))
    columns = [column for column in (study, accession) if column is not None]
    if report is None or not columns:
        raise InputError(f"{path}: a pairing table needs a column `report`, and a column `study` or `accession`")
    rows: dict[str, tuple[int, tuple[str, ...]]] = {}
    for number, row in enumerate(table.iter_rows(), 2):
        name = (row[report] or "").strip().removeprefix("./")
        keys = usable_keys([row[column] or "" for column in columns])
        if not name or not keys:
            raise InputError(f"{path}: row {number} has no {'study' if name else 'report'}; fill it in")
        first, known = rows.setdefault(name, (number, keys))
        if known != keys:
            raise InputError(f"{path}: rows {first} and {number} name one report for different studies; keep one")
    return Pairs(rows)


def _names(report: ReportRecord) -> Iterator[str]:
    """What a table may call a report: origin, what holds it up to its file, the file's name and stem, and its keys."""
    origin = report.origin
    yield origin
    for mark in (" order ", " message ", " entry ", " line "):
        head, found, number = origin.rpartition(mark)
        if found and number.isdigit():
            origin = head
            yield origin
    yield from (PurePosixPath(origin).name, PurePosixPath(origin).stem, *report.keys)
