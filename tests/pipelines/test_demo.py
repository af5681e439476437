"""The demo walks the whole way with real parts; its small form here shows that every result is there and coherent."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipelines.bundle import pretrained_network
from pipelines.demo import DemoResult, run_demo
from pipelines.grounding_score import placed_sentences
from preprocessing.errors import InputError


def test_every_result_is_where_the_summary_says(demo: DemoResult) -> None:
    for line in demo.text().splitlines():
        if line.startswith(("Encoder:", "Metrics:", "Pictures:")):
            for path in line.split(":", 1)[1].split(","):
                assert Path(path.strip()).is_file(), line


def test_figures_are_shares_and_match_the_written_ones(demo: DemoResult) -> None:
    written = json.loads((demo.folder / "demo.json").read_text())
    assert written["auroc_local"] == demo.auroc_local
    assert 0 < demo.pointing.chance < 0.5, "boxes cover a small part of an image"
    for share in (*demo.retrieval_at_10, demo.auroc_local, demo.auroc_random, demo.pointing.hits):
        assert 0 <= share <= 1


def test_the_exported_encoder_is_the_pretrained_one(demo: DemoResult) -> None:
    exported = load_file(demo.folder / "encoder" / "model.safetensors")
    trained = pretrained_network(demo.folder / "pretrain").image_encoder.state_dict()
    assert exported.keys() == trained.keys()
    assert all(torch.equal(exported[key], trained[key]) for key in exported)
    assert demo.export_difference <= 1e-5


def test_predictions_name_every_test_image_once(demo: DemoResult) -> None:
    items = json.loads((demo.folder / "store" / "datalist.json").read_text())["test"]
    frontal = [Path(item["image"]).name for item in items if item["view"] != "LATERAL"]
    with (demo.folder / "classifier_local" / "predictions_test.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == frontal


def test_true_places_lie_where_the_finding_lies_in_the_stored_image(demo: DemoResult) -> None:
    """A box of the truth, taken to the store's pixels, is inside the picture part of the square."""
    placed = placed_sentences(
        demo.folder / "phantoms", demo.folder / "store", demo.folder / "store.private", "training"
    )
    assert len(placed) > 5
    for sentence in placed:
        row0, column0, row1, column1 = sentence.box
        assert -1 <= row0 < row1 <= 128
        assert -1 <= column0 < column1 <= 128
        picture = np.load(demo.folder / "store" / sentence.path)
        inside = picture[max(0, int(row0)) : int(row1) + 1, max(0, int(column0)) : int(column1) + 1]
        assert inside.max() > 0, "not in the black border of the square"


def test_the_grounding_picture_is_a_picture(demo: DemoResult) -> None:
    picture = cv2.imread(str(demo.folder / "grounding.png"))
    assert picture is not None
    assert picture.std() > 10


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(InputError, match="not the demo's"):
        run_demo(tmp_path, studies=60, workers=1, step=lambda step: pytest.fail("it ran"))
    assert (tmp_path / "thesis.txt").read_text() == "irreplaceable"
