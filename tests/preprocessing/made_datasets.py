"""Small trees in the form of the public data sets, made by the tests, and what a store has of them."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
from made_archive import datalist, picture, write_image

from preprocessing.configuration import IngestConfiguration
from preprocessing.ingest import ingest
from preprocessing.ingest_summary import IngestSummary

SMALL = IngestConfiguration(size=32, text_policy="impression-else-findings-else-body")
CHEXPERT = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_raster(root: Path, *names: str, dtype: type = np.uint8) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = (picture(number) >> 4).astype(np.uint8) if dtype is np.uint8 else picture(number) << 4
        cv2.imwrite(str(root / name), pixels)


def write_bare_dicom(path: Path, number: int) -> None:
    """A DICOM file as VinDr-CXR has them: without patient, study, modality or body part."""
    gone = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID")
    blank = ("PatientID", "AccessionNumber", "Modality", "BodyPartExamined", "ViewPosition", "PatientName")
    write_image(path, number, **dict.fromkeys(gone), **dict.fromkeys(blank, ""))


def fourteen(**values: str) -> str:
    """A row's values of CheXpert's columns; names without spaces."""
    return ",".join(values.pop(name.replace(" ", ""), "") for name in CHEXPERT.split(","))


def run(tmp_path: Path, name: str, root: Path | None = None, **arguments: Any) -> IngestSummary:
    configuration = replace(SMALL, dataset=name)
    return ingest(root or tmp_path / "in", tmp_path / "out", configuration=configuration, **arguments)


def originals(store: Path) -> dict[str, str]:
    table = pl.read_parquet(store.with_name(store.name + ".private") / "identity.parquet")
    return dict(table.select("pseudonym", "original").iter_rows())


def taken(store: Path) -> dict[str, tuple[str, str, str, str]]:
    """Study, patient, view and split by path, under the names that the data set has for them."""
    names = originals(store)
    studies = pl.read_parquet(store / "studies.parquet").select("study", "split")
    images = pl.read_parquet(store / "images.parquet").join(studies, on="study")
    return {
        names[file].split(": ", 1)[1]: (names[study], names[patient], view, split)
        for file, study, patient, view, split in images.select("file", "study", "patient", "view", "split").iter_rows()
    }


def labels(store: Path, known: Iterable[str] = ()) -> dict[str, dict[str, int]]:
    """Labels that are not null, by study; those of `known` alone where it is given."""
    names, table = originals(store), pl.read_parquet(store / "studies.parquet")
    wanted = list(known) or label_names(store)
    return {
        names[row["study"]]: {name: row[name] for name in wanted if row[name] is not None}
        for row in table.iter_rows(named=True)
    }


def label_names(store: Path) -> list[str]:
    names: list[str] = datalist(store)["label_names"]
    return names


def sentences(store: Path) -> dict[str, list[str]]:
    names = originals(store)
    table = pl.read_parquet(store / "studies.parquet").select("study", "sentences")
    return {names[study]: found for study, found in table.iter_rows()}


def left_out(store: Path) -> dict[str, str]:
    """Reason of each reject, by "kind origin"; rows of the manifest in memory by the path of their image."""
    names = originals(store)
    rejects = pl.read_parquet(store / "rejects.parquet").select("file", "kind", "reason")
    return {f"{kind} {_short(names[file])}": reason for file, kind, reason in rejects.iter_rows()}


def _short(origin: str) -> str:
    return origin.removeprefix("data set: ").removeprefix("manifest image 1: ")


def check_account(summary: IngestSummary) -> None:
    """Every image file and every row that is not one, and every report, has one outcome."""
    for found in (summary.files, summary.reports):
        assert found.seen == found.accepted + found.rejected + found.duplicates
        assert sum(found.reasons.values()) == found.rejected
