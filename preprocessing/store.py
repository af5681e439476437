"""The store: what ingest leaves on disk, and the only thing that training sees.

    OUT/store.json          format version, configuration and keyed hash of the source, written first; a run with
                            another one is refused
    OUT/images/ab/ab12.npy  uint8 or uint16 (size, size), a file each; or .png
    OUT/images.parquet      a row an image (`IMAGE_SCHEMA`)
    OUT/studies.parquet     a row a study (`STUDY_SCHEMA`, then a column a label)
    OUT/report_labels.parquet    a row a study with a report: what the labeler read in it
    OUT/report_evidence.parquet  a row a place in a report that says so (`report_tables.EVIDENCE_SCHEMA`)
    OUT/rejects.parquet     a row a file left out (`REJECT_SCHEMA`), and the same as rejects.csv
    OUT/datalist.json       MONAI datalist by split
    OUT/contact_sheet.png   pictures to look at, outliers first
    OUT/run.json            counts, versions, hashes; written last, so a store without it is not complete
    OUT/history.jsonl       a line a run: when, how long, how many new files
    OUT.private/            key, ledger.sqlite (what became of every file) and identity.parquet: the only way back

All files appear at once under their names (`files.write_atomically`). Nothing in OUT holds an identifier, and all of it
but history.jsonl depends on the sources, the key and the configuration alone, however many runs it took to make it.
"""

import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from preprocessing.errors import InputError
from preprocessing.files import StoreNotWritable, is_temporary, path_text, sweep_temporaries, write_atomically
from preprocessing.identity import (
    fingerprint,
    key_fingerprint,
    load_key,
    load_or_create_key,
    make_private_folder,
    write_private,
)

FORMAT = "cxr-local-mi store"
VERSION = 3

IMAGE_SCHEMA: dict[str, Any] = {
    "image": pl.String,  # pseudonyms: image, study, patient, file
    "study": pl.String,
    "patient": pl.String,
    "file": pl.String,
    "frame": pl.UInt32,  # from 1
    "view": pl.String,
    "view_source": pl.String,
    "modality": pl.String,
    "transfer_syntax": pl.String,
    "photometric": pl.String,
    "bits_stored": pl.UInt8,
    "preset": pl.String,
    "voi": pl.String,
    "decoder": pl.String,
    "flags": pl.List(pl.String),
    "rows": pl.UInt32,  # of the original
    "columns": pl.UInt32,
    "row_mm": pl.Float64,  # distance of pixel centres in the original
    "column_mm": pl.Float64,
    "size": pl.UInt32,  # of the stored square; the six numbers of `geometry.Geometry`
    "scale_rows": pl.Float64,
    "scale_columns": pl.Float64,
    "offset_rows": pl.Float64,
    "offset_columns": pl.Float64,
    "mean": pl.Float64,  # of the rendered original in [0, 1]
    "deviation": pl.Float64,
    "clipped": pl.Float64,
    "path": pl.String,  # relative to the store
    "sha256": pl.String,  # of the array's file
}

STUDY_SCHEMA: dict[str, Any] = {
    "study": pl.String,
    "patient": pl.String,
    "split": pl.String,
    "days": pl.Int32,  # since the patient's first study in the store
    "images": pl.UInt32,
    "report_status": pl.String,  # see `report_reading.REPORT_STATUS`
    "report_reason": pl.String,  # why there are no sentences; blank where there are
    "report_flags": pl.List(pl.String),
    "sections": pl.List(pl.String),  # canonical names, in the report's order
    "sentences": pl.List(pl.String),
    "edema_severity": pl.Int8,  # 0 none to 3 alveolar, as the report says; null where it says nothing of it
}

REJECT_SCHEMA: dict[str, Any] = {"file": pl.String, "kind": pl.String, "reason": pl.String, "detail": pl.String}
IDENTITY_SCHEMA: dict[str, Any] = {"pseudonym": pl.String, "kind": pl.String, "original": pl.String}

KEY, LEDGER, IDENTITIES = "key", "ledger.sqlite", "identity.parquet"
"""Files of the private folder."""

_LOCK = ".lock"


@dataclass(frozen=True)
class OpenStore:
    """A store that this process alone may write.

    Args:
        path: the store's folder.
        private: the folder of ledger and side table.
        key: key of the pseudonyms.
        configuration: what is stamped on the store.
        identity: number by which the private folder knows that its side table is of this store.
    """

    path: Path
    private: Path
    key: bytes = field(repr=False)
    configuration: Mapping[str, Any]
    identity: str

    @property
    def configuration_hash(self) -> str:
        """SHA-256 of the configuration."""
        return hash_of(self.configuration)


@contextmanager
def open_store(
    path: Path,
    private: Path,
    configuration: Mapping[str, Any],
    sources: Sequence[Path | None] = (),
    key: Path | None = None,
) -> Iterator[OpenStore]:
    """Make a store, or open one made from the same sources with the same configuration and key, for this process alone.

    When the body raises `InputError` or `StoreNotWritable`, a new store that holds no image yet is removed; anything
    else stays as it is, for the next run to go on with.

    Args:
        path: folder of the store; `private` that of its ledger and side table, with no other store's in it.
        configuration: what two runs must agree on.
        sources: folder and manifest that the images come from.
        key: file of the key, which must be there; `private/key`, made if needed, where `None`.

    Raises:
        InputError: when the folder holds something else, another source's images, another configuration, is in use or
            cannot be written; when the key is missing, another, or open to others.
    """
    undo = _Undo()
    with ExitStack() as locks:
        try:
            _check_places(path, private, key)
            made = _highest_missing(path)
            path.mkdir(parents=True, exist_ok=True)
            locks.enter_context(locked(path, "store"))
            undo.folders += made
        except OSError as error:
            raise _not_writable(path, error.errno) from error
        try:
            try:
                made = _highest_missing(private)
                make_private_folder(private)
                locks.enter_context(locked(private, "private folder"))
                undo.folders += made
                opened = _stamped(path, private, configuration, sources, key, undo)
                _check_side_table(private, opened.identity)
                sweep_temporaries([path, private, *(path / "images").glob("*")])
            except OSError as error:
                place = private if str(error.filename).startswith(str(private)) else path
                raise _not_writable(place, error.errno) from error
            yield opened
        except (InputError, StoreNotWritable) as error:
            undo.run(path, private)
            if isinstance(error, StoreNotWritable):
                raise _not_writable(path, error.number) from error
            raise


def _check_places(path: Path, private: Path, key: Path | None) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; name a folder for the store")
    if path.exists() and not (path / "store.json").exists():
        _check_empty(path)  # before there is a lock in what may be somebody's pictures
    for place in (private, key or private):
        if Path(os.path.realpath(place)).is_relative_to(os.path.realpath(path)):
            raise InputError(f"{place}: the key must not lie inside the store; name a place outside of {path}")


def _check_empty(path: Path) -> None:
    if any(entry.name != _LOCK and not is_temporary(entry) for entry in path.iterdir()):
        raise InputError(f"{path}: is neither empty nor a store; name an empty or new folder")


def _not_writable(path: Path, number: int | None) -> InputError:
    reason = os.strerror(number) if number is not None else "for a reason that the system does not give"
    return InputError(f"{path}: cannot be written ({reason}); make room for it, or name another folder")


class _Undo:
    """What a new store has made so far, to be removed if the request turns out to be wrong."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        self.is_new = False
        self.is_ledger_new = False

    def run(self, store: Path, private: Path) -> None:
        """Remove what was made, unless work was done in it."""
        if any((store / "images").glob("*/*")):
            return
        if self.is_new:
            for entry in store.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            if self.is_ledger_new:
                (private / LEDGER).unlink(missing_ok=True)
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


def _highest_missing(folder: Path) -> list[Path]:
    """The highest folder that making this one will create, if any."""
    return [parent for parent in (folder, *folder.parents) if not parent.exists()][-1:]


def _stamped(
    path: Path,
    private: Path,
    configuration: Mapping[str, Any],
    sources: Sequence[Path | None],
    key_file: Path | None,
    undo: _Undo,
) -> OpenStore:
    stamp = path / "store.json"
    if stamp.exists():
        content = _read_stamp(stamp)
        _check_configuration(path, content["configuration"], configuration)
        key = _key_of_store(path, key_file or private / KEY, content)
        if content.get("source_fingerprint") != fingerprint(key, "source", sources):
            raise InputError(
                f"{path}: was made from another source; ingest both from one parent folder, or name another store"
            )
        identity = str(content.get("identity"))
    else:
        _check_empty(path)
        undo.is_new, undo.is_ledger_new = True, not (private / LEDGER).exists()  # else it is another store's
        key = _given_key(key_file) if key_file else load_or_create_key(private / KEY)
        identity = fingerprint(key, f"store {hash_of(configuration)}", sources)
        write_json(
            stamp,
            {
                "format": FORMAT,
                "version": VERSION,
                "configuration": dict(configuration),
                "configuration_hash": hash_of(configuration),
                "key_fingerprint": key_fingerprint(key),
                "source_fingerprint": fingerprint(key, "source", sources),
                "identity": identity,
            },
        )
    return OpenStore(path, private, key, configuration, identity)


def _read_stamp(stamp: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(stamp.read_text(encoding="utf-8"))
        known = content["format"] == FORMAT and content["version"] == VERSION
        content["configuration"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{stamp.parent}: is not a store of this program; name an empty or new folder") from error
    if not known:
        raise InputError(f"{stamp.parent}: is a store of another version; ingest into a new folder")
    return content


def _check_configuration(path: Path, before: Mapping[str, Any], configuration: Mapping[str, Any]) -> None:
    now = json.loads(json.dumps(dict(configuration)))
    changed = [
        f"{k} was {before.get(k)!r} and is {now.get(k)!r}"
        for k in sorted({*before, *now})
        if before.get(k) != now.get(k)
    ]
    if changed:
        raise InputError(f"{path}: was made with another configuration ({'; '.join(changed)}); name a new folder")


def _check_side_table(private: Path, identity: str) -> None:
    """Refuse a private folder in which another store's way back would be overwritten."""
    table = private / IDENTITIES
    if not table.exists():
        return
    try:
        of = pl.read_parquet(table).filter(pl.col("kind") == "store")["pseudonym"].to_list()
    except (pl.exceptions.PolarsError, OSError):
        of = []
    if of != [identity]:
        raise InputError(f"{table}: belongs to another store; name another private folder, or move this table away")


def _key_of_store(path: Path, key_file: Path, stamp: Mapping[str, Any]) -> bytes:
    try:
        key = load_key(key_file)
    except FileNotFoundError:
        raise InputError(f"{key_file}: the key of store {path} is missing; put it back, or name a new folder") from None
    if key_fingerprint(key) != stamp.get("key_fingerprint"):
        raise InputError(f"{key_file}: is not the key with which {path} was made; put that back, or name a new folder")
    return key


def _given_key(path: Path) -> bytes:
    """Read the key that was asked for; none is made in its place, whose pseudonyms would be like no others."""
    try:
        return load_key(path)
    except FileNotFoundError:
        raise InputError(
            f"{path}: there is no such key file; make one with `(umask 077; openssl rand -hex 32 > {path})`"
        ) from None


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a folder's lock; the system lets go of it when the process ends, however that happens."""
    lock = path / _LOCK
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = lock.exists() and os.fstat(file.fileno()).st_ino == lock.stat().st_ino
        except BlockingIOError:
            same = False
        if not same:
            raise InputError(f"{path}: another job is writing to this {what}; wait for its end or name another folder")
        yield


def hash_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a mapping as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write strict JSON (no NaN), indented."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def parquet_bytes(table: pl.DataFrame) -> bytes:
    """A table as Parquet; the same table gives the same bytes."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", statistics=True)
    return buffer.getvalue()


def write_identities(opened: OpenStore, identities: pl.DataFrame) -> None:
    """Write the side table (`IDENTITY_SCHEMA`), for its owner alone; one row more names the store itself."""
    place = path_text(os.path.realpath(opened.path))
    own = pl.DataFrame([(opened.identity, "store", place)], schema=IDENTITY_SCHEMA, orient="row")
    table = pl.concat([own, identities]).unique().sort("kind", "pseudonym", "original")
    write_private(opened.private / IDENTITIES, parquet_bytes(table))


def stored_arrays(store: Path) -> set[str]:
    """Paths of all arrays, relative to the store; listing folders is far cheaper than asking for files one by one."""
    folders = filter(Path.is_dir, (store / "images").glob("*"))
    return {f"images/{folder.name}/{name}" for folder in folders for name in os.listdir(folder)}  # noqa: PTH208


def remove_unlisted_images(store: Path, listed: Collection[str]) -> None:
    """Remove arrays that the image table does not have."""
    kept = set(listed)
    for folder in filter(
        Path.is_dir, (store / "images").glob("*")
    ):  # file managers leave files of their own in folders
        for file in folder.iterdir():
            if file.relative_to(store).as_posix() not in kept and not file.is_dir():
                file.unlink()
        with suppress(OSError):
            folder.rmdir()  # only if empty
