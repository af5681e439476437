"""Writing a store: the tables, the datalist, the contact sheet and the run record, in an order that survives a kill."""

import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl

from preprocessing.contact_sheet import contact_sheet, write_png
from preprocessing.errors import InputError
from preprocessing.files import StoreNotWritable, write_atomically
from preprocessing.ingest_summary import IngestSummary
from preprocessing.ledger import Ledger
from preprocessing.preparation import Preparation
from preprocessing.splits import SPLITS
from preprocessing.store import (
    FORMAT,
    IDENTITIES,
    IDENTITY_SCHEMA,
    VERSION,
    OpenStore,
    parquet_bytes,
    remove_unlisted_images,
    write_identities,
    write_json,
)

SHEET_PICTURES = 48
SHEET_OUTLIERS = 6  # of each kind
SHEET_COLUMNS = 8
SHEET_TILE = 160  # pixels

_DISTRIBUTIONS = (
    "cxr-local-mi",
    "numpy",
    "scipy",
    "pydicom",
    "imagecodecs",
    "opencv-python-headless",
    "pillow",
    "polars",
)


@dataclass(frozen=True)
class StoreTables:
    """Everything that ingest found out; `reports` are (pseudonym, kind, original) of those that were left out."""

    images: pl.DataFrame
    studies: pl.DataFrame
    rejects: pl.DataFrame
    labels: tuple[str, ...]
    report_labels: pl.DataFrame
    report_evidence: pl.DataFrame
    reports: Sequence[tuple[str, str, str]]


def write_store(
    opened: OpenStore, ledger: Ledger, tables: StoreTables, summary: IngestSummary, *, seed: int, started: float
) -> IngestSummary:
    """Write all files of the store; return the summary with the time since `started` (`time.monotonic`).

    The run record goes first and comes last: a store without it was cut short, and the next run mends it. Arrays that
    are not listed any more go once no datalist names them.

    Raises:
        StoreNotWritable: for instance on a full disk.
    """
    try:
        return _write_store(opened, ledger, tables, summary, seed, started)
    except OSError as error:
        raise StoreNotWritable(error.errno or 0) from error


def _write_store(
    opened: OpenStore, ledger: Ledger, tables: StoreTables, summary: IngestSummary, seed: int, started: float
) -> IngestSummary:
    store = opened.path
    (store / "run.json").unlink(missing_ok=True)
    _write_side_table(opened, ledger, tables)
    files: dict[str, bytes | Iterator[bytes]] = {
        "images.parquet": parquet_bytes(tables.images),
        "studies.parquet": parquet_bytes(tables.studies),
        "report_labels.parquet": parquet_bytes(tables.report_labels),
        "report_evidence.parquet": parquet_bytes(tables.report_evidence),
        "rejects.parquet": parquet_bytes(tables.rejects),
        "rejects.csv": tables.rejects.write_csv().encode(),
        "datalist.json": (line.encode() for line in _datalist(opened, tables)),
    }
    hashes = {name: write_atomically(store / name, content) for name, content in files.items()}
    remove_unlisted_images(store, tables.images["path"])
    write_png(store / "contact_sheet.png", _sheet(store, tables.images, seed))
    summary = replace(summary, seconds=round(time.monotonic() - started, 3))
    write_json(store / "run.json", _run_record(opened, ledger, summary, hashes, seed))
    _add_to_history(store, summary)
    return summary


def _write_side_table(opened: OpenStore, ledger: Ledger, tables: StoreTables) -> None:
    """Write the way back, or take it away where it is not to be kept."""
    if not ledger.keeps_identities:
        (opened.private / IDENTITIES).unlink(missing_ok=True)
        return
    reports = pl.DataFrame(tables.reports, schema=IDENTITY_SCHEMA, orient="row")
    write_identities(opened, pl.concat([ledger.identities(), reports]))


_PREPARATION = tuple(field.name for field in fields(Preparation))


def _datalist(opened: OpenStore, tables: StoreTables) -> Iterator[str]:
    """Strict JSON, one item a line, so that it can be read by eye and compared by `diff`."""
    preprocessing = {name: opened.configuration[name] for name in _PREPARATION} | {
        "range": [0, 2 ** opened.configuration["bit_depth"] - 1],
        "configuration_hash": opened.configuration_hash,
    }
    head = {
        "name": "chest radiographs with report sentences",
        "description": "made by cxr-local-mi ingest; labels are 1 present, 0 absent, -1 uncertain, null unknown",
        "label_names": list(tables.labels),
        "preprocessing": preprocessing,
    }
    yield "{\n" + "".join(f"{_json(name)}: {_json(value)},\n" for name, value in head.items())
    studies = tables.studies.select("study", "split", "sentences", "edema_severity", *tables.labels)
    rows = tables.images.select("path", "study", "patient", "view").join(studies, on="study", maintain_order="left")
    for split in SPLITS:
        between = ""
        yield f"{_json(split)}: [\n"
        for row in rows.filter(pl.col("split") == split).iter_rows():
            yield between + _item(row)
            between = ",\n"
        yield "\n]\n}\n" if split == SPLITS[-1] else "\n],\n"


def _item(row: tuple[Any, ...]) -> str:
    path, study, patient, view, _, sentences, severity, *label = row
    item = {"image": path, "study": study, "patient": patient, "view": view, "sentences": sentences, "label": label}
    return _json(item | {"edema_severity": severity})


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _sheet(store: Path, images: pl.DataFrame, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Outliers first (darkest, flattest, most clipped), then a sample that depends on the seed alone."""
    chosen: dict[str, str] = {}
    outliers = {"dark": ("mean", False), "flat": ("deviation", False), "clipped": ("clipped", True)}
    for word, (column, descending) in outliers.items():
        ordered = images.sort(column, "image", descending=[descending, False])
        for image in ordered["image"].head(min(SHEET_OUTLIERS, len(images) // 6)):
            chosen.setdefault(image, word)
    for image in sorted(images["image"], key=lambda image: hashlib.sha256(f"{seed}\0{image}".encode()).digest()):
        if len(chosen) >= SHEET_PICTURES:
            break
        chosen.setdefault(image, "")
    rows = {row[0]: row for row in images.select("image", "path", "view").iter_rows()}
    pictures = [_picture(store / rows[image][1]) for image in chosen]
    captions = [f"{image[:6]} {rows[image][2]} {word}" for image, word in chosen.items()]
    return contact_sheet(pictures, captions, min(SHEET_COLUMNS, len(pictures)), SHEET_TILE)


def _picture(path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A stored image as float32 (size, size) in [0, 1].

    Raises:
        InputError: it is damaged, which no run leaves behind.
    """
    try:
        array = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.suffix == ".png" else np.load(path))
    except (ValueError, EOFError):
        array = np.array(None)
    if array.ndim != 2:
        raise InputError(f"{path}: is damaged; delete it, and the next run makes it again")
    return np.asarray(array / np.float32(np.iinfo(array.dtype).max), np.float32)


def _run_record(
    opened: OpenStore, ledger: Ledger, summary: IngestSummary, hashes: dict[str, str], seed: int
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "configuration": dict(opened.configuration),
        "configuration_hash": opened.configuration_hash,
        "seed": seed,
        "counts": summary.counts(),
        "files": hashes,
        # The image table has the hash of every array, so this one stands for all data.
        "data_hash": hashlib.sha256("".join(hashes.values()).encode()).hexdigest(),
        "made_by": ledger.versions(),
    }


def _add_to_history(store: Path, summary: IngestSummary) -> None:
    """Add a line about this run."""
    line = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": summary.seconds,
        "seen": summary.files.seen,
        "converted": summary.converted,
        "versions": tool_versions(),
    }
    with (store / "history.jsonl").open("a", encoding="utf-8") as history:
        history.write(_json(line) + "\n")


def tool_versions() -> dict[str, str]:
    """Versions of the programs that decide what is in a store."""
    versions = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # another build of OpenCV, or a checkout that is not installed
            versions[name] = "not installed"
    return versions
