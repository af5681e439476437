"""What was trained on 8-bit arrays works on the same images ingested as 16-bit PNG."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.bundle import evaluate, inference
from pipelines.demo import DemoResult
from pipelines.grounding_score import placed_sentences, stored_picture
from preprocessing.configuration import IngestConfiguration
from preprocessing.ingest import ingest


@pytest.fixture(scope="module")
def store(demo: DemoResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's phantoms, ingested a second time under the same key."""
    phantoms, folder = demo.folder / "phantoms", tmp_path_factory.mktemp("forms")
    ingest(
        phantoms / "dicom",
        folder / "store",
        reports=phantoms / "reports",
        labels=phantoms / "labels.csv",
        key=demo.folder / "store.private" / "key",
        configuration=IngestConfiguration(size=128, image_format="png", bit_depth=16),
    )
    return folder / "store"


def predictions(path: Path) -> dict[tuple[str, str], list[float]]:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return {(study, Path(image).stem): [float(value) for value in values] for study, image, *values in rows}


def test_a_run_gives_the_same_predictions_and_metrics(demo: DemoResult, store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(demo.folder / "classifier_local", run)
    before = predictions(run / "predictions_test.csv")
    after = predictions(inference(store, run, {}))
    assert after.keys() == before.keys()
    assert max(np.abs(np.subtract(after[key], before[key])).max() for key in before) < 0.02
    metrics = evaluate(store, run, "train", {})
    assert metrics["mean_auroc"] == pytest.approx(demo.auroc_local, abs=0.05)


def test_pictures_and_true_places_are_the_same(demo: DemoResult, store: Path) -> None:
    def placed(folder: Path) -> dict[tuple[str, str], tuple[tuple[float, ...], np.ndarray]]:
        sentences = placed_sentences(demo.folder / "phantoms", folder, folder.with_name("store.private"), "test")
        return {(s.image, s.sentence): (s.box, stored_picture(folder, s)) for s in sentences}

    before, after = placed(demo.folder / "store"), placed(store)
    assert after.keys() == before.keys()
    assert len(before) > 0
    for key, (box, picture) in before.items():
        assert after[key][0] == pytest.approx(box)
        assert np.abs(after[key][1] - picture).max() <= 1 / 255
