"""What became of every file of a prediction: so that a later run does only what is new, and a killed one goes on.

One SQLite file in the output folder, from which the tables are written. What is in it has happened: an outcome is
recorded after its maps and DICOM results are written.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.errors import InputError
from preprocessing.ledger import COMMIT_SECONDS, PAGE, TRANSIENT, is_damaged, not_writable
from preprocessing.sources import SourceImage

LEDGER = "predictions.sqlite"

_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS outcomes (
    origin TEXT PRIMARY KEY, version TEXT, program TEXT, reason TEXT, maps INTEGER, dicom INTEGER);
CREATE TABLE IF NOT EXISTS rows (origin TEXT, frame INTEGER, row TEXT, PRIMARY KEY (origin, frame));
CREATE TABLE IF NOT EXISTS sent (file TEXT, version TEXT, peer TEXT, PRIMARY KEY (file, peer));
"""


@dataclass(frozen=True)
class Wanted:
    """What is to be there for each file beside its row.

    Args:
        maps: heat maps.
        dicom: DICOM results.
    """

    maps: bool = False
    dicom: bool = False


@contextmanager
def open_prediction_ledger(folder: Path, stamp: Mapping[str, str], program: str) -> Iterator["PredictionLedger"]:
    """Open the ledger of an output folder, or make one; the folder must be locked.

    Args:
        folder: where it lies.
        stamp: what two runs into one folder must agree on: the name of each thing, and its value.
        program: version of the program; what another one left out is tried again.

    Raises:
        InputError: the ledger is damaged, or of something else.
        OSError: it cannot be written, for instance on a full disk, here or in the body.
    """
    path = folder / LEDGER
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?nolock=1", uri=True)) as connection:
            connection.executescript(_TABLES)
            known = dict(connection.execute("SELECT name, value FROM about"))
            for name, value in stamp.items():
                if known.get(name, value) != value:
                    raise InputError(f"{folder} holds predictions of another {name}; name another folder")
            connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", stamp.items())
            ledger = PredictionLedger(connection, program)
            try:
                yield ledger
            finally:
                ledger.commit()
    except sqlite3.DatabaseError as error:
        raise _as_people_know_it(error, path) from error


def _as_people_know_it(error: sqlite3.DatabaseError, path: Path) -> Exception:
    if is_damaged(error):
        return InputError(f"{path}: is damaged; delete it, and the next run will predict every file again")
    if (number := not_writable(error)) is None:
        return error
    return OSError(number, "the disk is full or may not be written", str(path))


class PredictionLedger:
    """An open ledger; made by `open_prediction_ledger`."""

    def __init__(self, connection: sqlite3.Connection, program: str) -> None:
        self._connection = connection
        self._program = program
        self._committed = time.monotonic()

    def is_outstanding(self, image: SourceImage, wanted: Wanted) -> bool:
        """Whether a file is new or changed, could not be read, was left out by another version, or lacks a result."""
        query = "SELECT version, program, reason, maps, dicom FROM outcomes WHERE origin = ?"
        found = self._connection.execute(query, (image.origin,)).fetchone()
        if found is None:
            return True
        version, program, reason, maps, dicom = found
        if version != version_of(image) or not version or reason in TRANSIENT:
            return True
        if reason:
            return bool(program != self._program)
        return bool(maps < wanted.maps or dicom < wanted.dicom)

    def result_names(self, image: SourceImage) -> set[str]:
        """Under which the maps and DICOM results of a file lie that were made of it before."""
        rows = self._connection.execute("SELECT row FROM rows WHERE origin = ?", (image.origin,))
        return {json.loads(row)["results"] for (row,) in rows} - {""}

    def record(self, image: SourceImage, reason: str, rows: Sequence[Mapping[str, Any]], wanted: Wanted) -> None:
        """Take down what became of a file: its rows, one a frame, or one that says why there is none."""
        self._connection.execute("DELETE FROM about WHERE name = 'tables'")
        self._connection.execute("DELETE FROM rows WHERE origin = ?", (image.origin,))
        self._connection.executemany(
            "INSERT INTO rows VALUES (?, ?, ?)",
            [(image.origin, row["frame"], json.dumps(row, allow_nan=False)) for row in rows],
        )
        self._connection.execute(
            "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?)",
            (image.origin, version_of(image), self._program, reason, wanted.maps, wanted.dicom),
        )
        if time.monotonic() - self._committed > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Bring everything recorded to the disk."""
        self._connection.commit()
        self._committed = time.monotonic()

    def are_tables_current(self) -> bool:
        """Whether nothing was recorded since `keep_tables` was called."""
        return self._connection.execute("SELECT 1 FROM about WHERE name = 'tables'").fetchone() is not None

    def keep_tables(self) -> None:
        """Take down that the tables in the folder hold all that is recorded."""
        self._connection.execute("INSERT OR REPLACE INTO about VALUES ('tables', 'current')")
        self.commit()

    def pages(self) -> Iterator[list[dict[str, Any]]]:
        """All rows in the order of files and frames, some thousands at a time."""
        cursor = self._connection.execute("SELECT row FROM rows ORDER BY origin, frame")
        while page := cursor.fetchmany(PAGE):
            yield [json.loads(row) for (row,) in page]

    def counts(self) -> dict[str, int]:
        """Number of files by reason; blank for those that were predicted."""
        return dict(self._connection.execute("SELECT reason, count(*) FROM outcomes GROUP BY reason ORDER BY reason"))

    def is_sent(self, file: str, version: str, peer: str) -> bool:
        """Whether a DICOM result as it is now was stored by an archive."""
        query = "SELECT 1 FROM sent WHERE file = ? AND version = ? AND peer = ?"
        return self._connection.execute(query, (file, version, peer)).fetchone() is not None

    def record_sent(self, file: str, version: str, peer: str) -> None:
        """Take down that an archive has stored a DICOM result."""
        self._connection.execute("INSERT OR REPLACE INTO sent VALUES (?, ?, ?)", (file, version, peer))
        self.commit()


def version_of(image: SourceImage) -> str:
    """Version of a file and of what a table says of it, which may change without the file; blank if not known."""
    if image.row is None or not image.version:
        return image.version
    return f"{image.version} {image.row.study} {image.row.view} {image.row.inverted}"
