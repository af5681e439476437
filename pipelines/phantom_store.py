"""Phantoms and the store made of them, under a key that is no secret: what the demo and the study run on."""

import csv
import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import polars as pl

from preprocessing.configuration import IngestConfiguration
from preprocessing.errors import InputError
from preprocessing.identity import make_private_folder, write_private
from preprocessing.ingest import OnProgress, ingest
from preprocessing.phantoms import Difficulty, write_phantoms

Step = Callable[[str], AbstractContextManager[OnProgress]]


def make_phantom_store(
    folder: Path, *, studies: int, size: int, difficulty: Difficulty, configuration: IngestConfiguration, step: Step
) -> Path:
    """Write phantoms to `phantoms` of a folder and ingest them into its `store`; returns the store.

    The key is a known one, so that pseudonyms, and with them the splits, are the same every time.

    Args:
        folder: where both go, and `store.private`.
        studies: how many.
        size: long side of the pictures in pixels.
        difficulty: of the phantoms.
        configuration: of the store; its workers draw phantoms too.
        step: entered with the name of each step; gives what is told of progress.
    """
    phantoms, store, private = folder / "phantoms", folder / "store", folder / "store.private"
    with step(f"{studies} synthetic studies") as on_progress:
        write_phantoms(
            phantoms,
            studies=studies,
            size=size,
            seed=0,
            difficulty=difficulty,
            workers=configuration.workers,
            on_progress=on_progress,
        )
    if not (private / "key").is_file():
        make_private_folder(private)
        write_private(private / "key", hashlib.sha256(b"phantoms have no identity").hexdigest().encode() + b"\n")
    with step("ingest") as on_progress:
        ingest(
            phantoms / "dicom",
            store,
            reports=phantoms / "reports",
            labels=phantoms / "labels.csv",
            configuration=configuration,
            on_progress=on_progress,
        )
    return store


def pseudonyms(private: Path, kind: str) -> dict[str, str]:
    """The store's names of what the phantoms know by real ones.

    Args:
        private: the private folder of the store.
        kind: `study` or `image`.

    Raises:
        InputError: the private side table is missing.
    """
    side_table = private / "identity.parquet"
    if not side_table.is_file():
        raise InputError(f"{side_table} is missing; the truth cannot be matched with the store without it")
    identity = pl.read_parquet(side_table).filter(pl.col("kind") == kind)
    return dict(zip(identity["original"], identity["pseudonym"], strict=True))


def true_labels(phantoms: Path, private: Path) -> dict[str, Mapping[str, Any]]:
    """What the pictures of each study show: label name to 1, 0 or -1, and `edema_severity`, by the store's study."""
    names = pseudonyms(private, "study")
    truth: dict[str, dict[str, Any]] = {}
    for row in _rows(phantoms / "truth" / "labels.csv"):
        study = names.get(row.pop("study"))
        if study is not None:
            truth[study] = {label: int(value) for label, value in row.items()}
    for row in _rows(phantoms / "truth" / "studies.csv"):
        if row["study"] in names and row["edema_severity"]:
            truth[names[row["study"]]]["edema_severity"] = int(row["edema_severity"])
    return dict(truth)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
