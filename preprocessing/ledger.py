"""The ledger: what became of every file, so that a later run does only what is new, and a killed one goes on.

One SQLite file in the store's private folder. It knows files by pseudonyms; the originals behind them are in columns
that can be left out. What is in it has happened: an outcome is recorded after its arrays were written, and forgotten
before they are written again.
"""

import json
import os
import sqlite3
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from errno import EACCES, EIO, ENOSPC
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from preprocessing.conversion import Converted
from preprocessing.errors import InputError
from preprocessing.files import StoreNotWritable
from preprocessing.identity import pseudonym
from preprocessing.manifest import ManifestRow
from preprocessing.sources import SourceImage
from preprocessing.store import IDENTITY_SCHEMA, IMAGE_SCHEMA

TRANSIENT = (
    "missing_file",
    "permission",
    "read_error",
    "corrupt_archive",
    "out_of_memory",
    "worker_crashed",
    "timed_out",
)
"""Reasons that may be another machine's or another day's: such files are tried again by the next run."""

COMMIT_SECONDS = 1.0
"""Work that a kill can cost; each commit waits for the disk."""

PAGE = 10_000
"""Rows read at a time."""

FILE_SCHEMA: dict[str, Any] = {
    "file": pl.String,  # pseudonyms: file, sop, study, patient, accession; blank where unknown
    "reason": pl.String,
    "detail": pl.String,
    "sop": pl.String,
    "study": pl.String,
    "patient": pl.String,
    "accession": pl.String,
    "nameless": pl.Boolean,
    "day": pl.Int32,
    "split": pl.String,
}

_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS seen (
    file TEXT PRIMARY KEY, origin TEXT, path BLOB, member TEXT, version TEXT, row INTEGER);
CREATE TABLE IF NOT EXISTS outcomes (
    file TEXT PRIMARY KEY, version TEXT, reason TEXT, detail TEXT, sop TEXT, study TEXT, patient TEXT, accession TEXT,
    nameless INTEGER, day INTEGER, split TEXT, digest BLOB, made_by INTEGER);
CREATE TABLE IF NOT EXISTS originals (
    file TEXT PRIMARY KEY, origin TEXT, sop TEXT, study TEXT, patient TEXT, accession TEXT);
CREATE TABLE IF NOT EXISTS images (path TEXT PRIMARY KEY, file TEXT, frame INTEGER, image TEXT, row TEXT);
CREATE TABLE IF NOT EXISTS made_by (number INTEGER PRIMARY KEY, versions TEXT UNIQUE);
"""

_IDENTITIES = """
SELECT o.patient AS pseudonym, 'patient' AS kind, n.patient AS original
    FROM outcomes o JOIN originals n USING (file) WHERE o.reason = ''
UNION SELECT o.study, 'study', n.study FROM outcomes o JOIN originals n USING (file) WHERE o.reason = ''
UNION SELECT o.study, 'accession', n.accession FROM outcomes o JOIN originals n USING (file)
    WHERE o.reason = '' AND n.accession != ''
UNION SELECT i.image, 'image', n.sop || CASE WHEN i.frame THEN char(0) || i.frame ELSE '' END
    FROM images i JOIN originals n USING (file)
UNION SELECT file, 'file', origin FROM originals
"""


@contextmanager
def open_ledger(path: Path, store: str, versions: Mapping[str, str], *, identities: bool) -> Iterator["Ledger"]:
    """Open a store's ledger, or make one (mode 0600).

    Args:
        path: of the file.
        store: identity of the store that it belongs to.
        versions: of the programs that will convert.
        identities: whether the originals of pseudonyms are kept; if not, those that are there are erased.

    Raises:
        InputError: the ledger is damaged or another store's, or originals are wanted that were left out before.
        StoreNotWritable: for instance on a full disk, here or in the body.
    """
    try:
        os.close(os.open(path, os.O_CREAT, 0o600))
        # No locks of its own, which network file systems may lack: the private folder is locked already.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?nolock=1", uri=True)) as connection:
            connection.executescript("PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY;" + _TABLES)
            _claim(connection, path, store, identities)
            number = _number_of(connection, json.dumps(dict(versions), sort_keys=True))
            connection.commit()
            with _nothing_seen_is_left(connection):
                yield Ledger(connection, number, identities)
    except sqlite3.DatabaseError as error:
        if is_damaged(error):
            raise InputError(
                f"{path}: is damaged; delete it, and the next run will convert every file again"
            ) from error
        if (refused := not_writable(error)) is None:
            raise
        raise StoreNotWritable(refused) from error


def is_damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is no whole database."""
    return getattr(error, "sqlite_errorname", "") in ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def not_writable(error: sqlite3.DatabaseError) -> int | None:
    """The `errno` where the file cannot be written, for instance on a full disk; None where something else is wrong."""
    name = getattr(error, "sqlite_errorname", "")
    numbers = {"SQLITE_FULL": ENOSPC, "SQLITE_READONLY": EACCES, "SQLITE_CANTOPEN": EACCES}
    return numbers.get(name, EIO if name.startswith("SQLITE_IOERR") else None)


@contextmanager
def _nothing_seen_is_left(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit, and erase the names of the files seen, however a run ends; one that fails gives up its last moments."""
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    finally:
        connection.execute("DELETE FROM seen")
        connection.commit()


def _claim(connection: sqlite3.Connection, path: Path, store: str, identities: bool) -> None:
    about = dict(connection.execute("SELECT name, value FROM about"))
    if about.get("store", store) != store:
        raise InputError(f"{path}: belongs to another store; name another private folder")
    kept = "kept" if identities else "left out"
    if about.get("identities") == "left out" and identities:
        raise InputError(
            f"{path}: this store was made without identities; leave them out again (--no-identities), or delete the "
            "ledger to convert every file again"
        )
    if not identities:
        connection.execute("DELETE FROM originals")
    connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", [("store", store), ("identities", kept)])


def _number_of(connection: sqlite3.Connection, versions: str) -> int:
    connection.execute("INSERT OR IGNORE INTO made_by (versions) VALUES (?)", (versions,))
    (number,) = connection.execute("SELECT number FROM made_by WHERE versions = ?", (versions,)).fetchone()
    return int(number)


class Ledger:
    """An open ledger; made by `open_ledger`."""

    def __init__(self, connection: sqlite3.Connection, made_by: int, identities: bool) -> None:
        self._connection = connection
        self._made_by = made_by
        self.keeps_identities = identities
        self._committed = time.monotonic()

    def see(self, images: Iterable[SourceImage], key: bytes) -> int:
        """Take down the files that there are now, in place of those of the run before; return their number."""
        self._connection.execute("DELETE FROM seen")
        rows = (
            (
                pseudonym(key, "file", image.origin),
                image.origin,
                os.fsencode(image.path),
                image.member,
                _version(image, key),
                image.row.number if image.row else None,
            )
            for image in images
        )
        self._connection.executemany("INSERT INTO seen VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._connection.commit()
        return self._count("seen")

    def outdated(self) -> set[str]:
        """Pseudonyms of files that had an outcome, and have to be converted again.

        Those that have changed, that could not be read, or that other versions of the programs left out. Files that
        are gone are not among them.
        """
        marks = ", ".join("?" * len(TRANSIENT))
        changed = self._connection.execute(
            "SELECT file FROM outcomes o JOIN seen s USING (file) "
            f"WHERE o.version != s.version OR s.version = '' OR o.reason IN ({marks}) "
            "OR (o.reason != '' AND o.made_by != ?)",
            (*TRANSIENT, self._made_by),
        )
        return {file for (file,) in changed}

    def without_arrays(self, arrays: Container[str]) -> set[str]:
        """Pseudonyms of files that were converted and lack an array: left out before as they contradicted others, say.

        Args:
            arrays: paths in the store of those that are there.
        """
        rows = self._connection.execute("SELECT path, file FROM images")
        return {file for path, file in rows if path not in arrays}

    def outstanding_files(self) -> Iterator[str]:
        """Pseudonyms of files that were seen and have no outcome."""
        query = "SELECT s.file FROM seen s LEFT JOIN outcomes o USING (file) WHERE o.file IS NULL"
        return (file for (file,) in self._connection.execute(query))

    def is_of_place(self, place: str) -> bool:
        """Tell whether the store was at this place (a keyed number) when `keep_place` was last called, if ever."""
        before = self._connection.execute("SELECT value FROM about WHERE name = 'place'").fetchone()
        return before is None or before[0] == place

    def keep_place(self, place: str) -> None:
        """Take down the place of the store, once the arrays there are those of the ledger."""
        self._connection.execute("INSERT OR REPLACE INTO about VALUES ('place', ?)", (place,))

    def hashes(self) -> Iterator[tuple[str, str]]:
        """Path in the store, and SHA-256 in hexadecimal, of every array."""
        return (
            (path, json.loads(row)["sha256"]) for path, row in self._connection.execute("SELECT path, row FROM images")
        )

    def forget(self, files: Iterable[str]) -> None:
        """Forget these files, and all that are not seen any more."""
        for file in files:
            self._connection.execute("DELETE FROM outcomes WHERE file = ?", (file,))
        self._connection.execute("DELETE FROM outcomes WHERE file NOT IN (SELECT file FROM seen)")
        for table in ("images", "originals"):
            self._connection.execute(f"DELETE FROM {table} WHERE file NOT IN (SELECT file FROM outcomes)")
        self._connection.commit()

    def outstanding(self, rows: Mapping[int, ManifestRow]) -> Iterator[SourceImage]:
        """Files that were seen and have no outcome, in the order in which they were seen; `rows` by number."""
        last = 0
        while True:
            page = self._connection.execute(
                "SELECT s.rowid, s.origin, s.path, s.member, s.version, s.row FROM seen s LEFT JOIN outcomes o "
                "USING (file) WHERE o.file IS NULL AND s.rowid > ? ORDER BY s.rowid LIMIT 1000",
                (last,),
            ).fetchall()
            if not page:
                return
            for last, origin, path, member, version, row in page:  # noqa: B007 -- `last` is where the next page begins
                yield SourceImage(os.fsdecode(path), origin, member, version, rows[row] if row is not None else None)

    def record(self, source: SourceImage, outcome: Converted) -> None:
        """Take down what became of a file, after its arrays are written."""
        values = (outcome.reason, outcome.detail, outcome.sop, outcome.study, outcome.patient, outcome.accession)
        more = (outcome.is_nameless, outcome.day, source.row.split if source.row else "", None, self._made_by)
        self._insert("outcomes", (outcome.file, source.version, *values, *more))
        for row in outcome.rows:
            frame = row["frame"] if len(outcome.rows) > 1 else 0
            self._insert("images", (row["path"], outcome.file, frame, row["image"], json.dumps(row)))
        if self.keeps_identities:
            names = outcome.originals
            self._insert(
                "originals", (outcome.file, source.origin, names.sop, names.study, names.patient, names.accession)
            )
        self._commit_in_time()

    def _commit_in_time(self) -> None:
        if time.monotonic() - self._committed > COMMIT_SECONDS:
            self.commit()

    def _insert(self, table: str, values: tuple[Any, ...]) -> None:
        self._connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)

    def commit(self) -> None:
        """Bring everything recorded to the disk."""
        self._connection.commit()
        self._committed = time.monotonic()

    def count_outstanding(self) -> int:
        """Number of files that were seen and have no outcome."""
        return self._count("seen") - self._count("outcomes")  # all outcomes are of files seen, after `forget`

    def _count(self, table: str) -> int:
        (count,) = self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)

    def files(self) -> pl.DataFrame:
        """A row a file (`FILE_SCHEMA`), in the order of their names."""
        columns = ", ".join(f"o.{name}" for name in FILE_SCHEMA)
        query = f"SELECT {columns} FROM outcomes o JOIN seen s USING (file) ORDER BY s.origin"
        return self._table(query, FILE_SCHEMA)

    def images(self) -> pl.DataFrame:
        """A row an image (`store.IMAGE_SCHEMA`) of all files that have any."""
        rows = self._table("SELECT row FROM images ORDER BY path", {"row": pl.String})
        return rows.select(pl.col("row").str.json_decode(pl.Struct(IMAGE_SCHEMA))).unnest("row")

    def identities(self) -> pl.DataFrame:
        """What pseudonyms stand for (`store.IDENTITY_SCHEMA`)."""
        return self._table(_IDENTITIES, IDENTITY_SCHEMA)

    def _table(self, query: str, schema: Mapping[str, Any]) -> pl.DataFrame:
        cursor = self._connection.execute(query)
        parts = [pl.DataFrame(schema=schema)]
        while rows := list(islice(cursor, PAGE)):
            parts.append(pl.DataFrame(rows, schema=schema, orient="row"))
        return pl.concat(parts)

    def source(self, file: str) -> SourceImage:
        """Where a file that was seen is."""
        query = "SELECT path, origin, member, version FROM seen WHERE file = ?"
        path, origin, member, version = self._connection.execute(query, (file,)).fetchone()
        return SourceImage(os.fsdecode(path), origin, member, version)

    def digest(self, file: str) -> bytes | None:
        """SHA-256 of a file's content, where it was asked for before."""
        (digest,) = self._connection.execute("SELECT digest FROM outcomes WHERE file = ?", (file,)).fetchone()
        return bytes(digest) if digest else None

    def keep_digest(self, file: str, digest: bytes) -> None:
        """Take down the SHA-256 of a file's content."""
        self._connection.execute("UPDATE outcomes SET digest = ? WHERE file = ?", (digest, file))
        self._commit_in_time()

    def versions(self) -> list[dict[str, Any]]:
        """The programs that made what is in the store: `versions`, and the number of `files` that they converted."""
        query = "SELECT versions, count(*) FROM outcomes JOIN made_by ON made_by = number GROUP BY number ORDER BY 1"
        rows = self._connection.execute(query)
        return [{"versions": json.loads(versions), "files": count} for versions, count in rows]


def _version(image: SourceImage, key: bytes) -> str:
    """Version of a file, and of what the manifest says of it, which may change without the file."""
    if image.row is None:
        return image.version
    row = image.row
    inverted = ("inverted",) if row.inverted else ()
    said = pseudonym(key, "file", "\0".join((row.study, row.patient, row.view, row.split, *inverted)))
    return f"{image.version} {said}" if image.version else ""
