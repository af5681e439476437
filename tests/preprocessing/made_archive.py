"""Archives of small radiographs and reports made by the tests, and what became of them in a store."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from made_dicom import made
from pydicom import dcmwrite

import preprocessing
from preprocessing.configuration import IngestConfiguration

SMALL = IngestConfiguration(size=32, workers=2)
REPORT = "INDICATION: Cough.\nFINDINGS: The lungs are clear. No effusion.\nIMPRESSION: 1. Normal chest.\n"


def picture(number: int = 0, rows: int = 40, columns: int = 30) -> np.ndarray:
    """Noise of 12 bits with a bright mark in the upper left corner."""
    pixels = np.random.default_rng(number).integers(0, 2000, (rows, columns)).astype(np.uint16)
    pixels[:6, :6] = 4095
    return pixels


def write_image(path: Path, number: int = 0, **elements: Any) -> Path:
    named = {
        "SOPInstanceUID": f"1.2.3.{number}",
        "StudyInstanceUID": f"1.2.{number}",
        "PatientID": f"P{number}",
        "AccessionNumber": f"A{number}",
        "BitsStored": 12,
        "HighBit": 11,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, made(picture(number), **(named | elements)), enforce_file_format=False)
    return path


def write_report(path: Path, text: str = REPORT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def datalist(store: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    content: dict[str, Any] = json.loads((store / "datalist.json").read_text(encoding="utf-8"), parse_constant=refuse)
    return content


def items(store: Path) -> list[dict[str, Any]]:
    content = datalist(store)
    return [item for split in ("training", "validation", "test") for item in content[split]]


def reasons(store: Path, kind: str = "image") -> dict[str, str]:
    """Reason by file name, the way its owner finds it: through the private side table."""
    originals = pl.read_parquet(store.with_name(store.name + ".private") / "identity.parquet")
    by_pseudonym = dict(originals.select("pseudonym", "original").iter_rows())
    rejects = pl.read_parquet(store / "rejects.parquet").filter(pl.col("kind") == kind)
    return {by_pseudonym[file]: reason for file, reason in rejects.select("file", "reason").iter_rows()}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def result(store: Path) -> dict[str, bytes]:
    """Everything that a run makes, but for the journal of runs; what links it to identities included.

    Not where the store lies, which the private table tells its owner.
    """
    files = contents(store)
    files.pop("history.jsonl")
    identities = pl.read_parquet(store.with_name(store.name + ".private") / "identity.parquet")
    return files | {"identity": identities.filter(pl.col("kind") != "store").write_ndjson().encode()}


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(preprocessing.__file__).parents[1])}
