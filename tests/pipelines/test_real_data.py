"""The whole way on real radiographs and reports, where they are at hand: it runs, nothing is lost, nothing leaks."""

import csv
import json
from pathlib import Path

import polars as pl
import pytest

from pipelines.bundle import evaluate, pretrain, train
from pipelines.demo import demo_settings
from preprocessing.configuration import IngestConfiguration
from preprocessing.ingest import ingest
from preprocessing.ingest_summary import IngestSummary

LABELS = ("Pneumonia", "Effusion", "Infiltration", "Atelectasis")


def write_manifest(shared_data: Path, folder: Path) -> tuple[Path, Path]:
    """Manifest and label table in the project's form from the form that the real images come with."""
    manifest, labels = folder / "manifest.csv", folder / "labels.csv"
    with (shared_data / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "study", "patient", "view", "report"])
        for row in rows:
            report = shared_data / row["text_file"] if row["text_file"] else ""
            writer.writerow([shared_data / row["file"], row["id"], row["group"], row["view"], report])
    with labels.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["study", *LABELS])
        for row in rows:
            found = row["labels"].split("|")
            if row["id"].startswith("nih"):
                writer.writerow([row["id"], *(int(name in found) for name in LABELS)])
            elif row["id"].startswith("ker"):  # a label of the whole image: pneumonia or normal, the rest is unknown
                writer.writerow([row["id"], int("neumonia" in row["labels"]), "", "", ""])
    return manifest, labels


@pytest.fixture(scope="module")
def store(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, IngestSummary]:
    folder = tmp_path_factory.mktemp("real")
    manifest, labels = write_manifest(shared_data, folder)
    configuration = IngestConfiguration(size=128, text_policy="impression-else-findings-else-body")
    summary = ingest(None, folder / "store", manifest=manifest, labels=labels, configuration=configuration)
    return folder / "store", summary


def test_every_image_is_in_the_store_or_has_a_reason(shared_data: Path, store: tuple[Path, IngestSummary]) -> None:
    folder, summary = store
    with (shared_data / "manifest.csv").open(newline="", encoding="utf-8") as file:
        assert summary.files.seen == sum(1 for _ in csv.DictReader(file))
    rejects = pl.read_parquet(folder / "rejects.parquet").filter(pl.col("kind") == "image")
    assert summary.files.accepted + len(rejects) == summary.files.seen
    assert rejects["reason"].is_not_null().all()
    assert summary.report_status["paired"] > 60


def test_pretraining_and_classifier_run_on_real_images(store: tuple[Path, IngestSummary], tmp_path: Path) -> None:
    settings = demo_settings({"max_epochs": 1, "val_interval": 1})
    # No image of the split is left without a partner: small as it is, every view counts.
    everything = {"views": None}
    weights = pretrain(store[0], tmp_path / "pretrain", settings["pretrain"] | everything)
    retrieval = evaluate(store[0], tmp_path / "pretrain", "pretrain", {})
    assert (retrieval["retrieval/studies"] or 0) >= 5
    labels = {"label_names": ["Pneumonia", "Effusion"], "label_fraction": 1.0}
    train(store[0], tmp_path / "classifier", weights, settings["train"] | everything | labels)
    metrics = evaluate(store[0], tmp_path / "classifier", "train", {})
    assert 0 <= (metrics["auroc/Pneumonia"] or 0) <= 1
    record = json.loads((tmp_path / "classifier" / "models" / "model.json").read_text())
    assert record["label_names"] == ["Pneumonia", "Effusion"]


def test_every_dicom_file_is_in_the_store_or_has_a_reason(shared_data: Path, tmp_path: Path) -> None:
    for name in ("dicom_real", "dicom_derived"):
        files = [path for path in (shared_data / name).rglob("*") if path.is_file()]
        summary = ingest(shared_data / name, tmp_path / name, configuration=IngestConfiguration(size=128))
        assert summary.files.seen == len(files)
        rejects = pl.read_parquet(tmp_path / name / "rejects.parquet")
        assert summary.files.accepted + len(rejects) == len(files)
        assert (rejects["detail"].str.len_chars() > 10).all()
