"""The pointing game needs the stored picture in [0, 1] and the true box in the stored picture's pixels."""

import json
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

from pipelines.grounding_score import PlacedSentence, placed_sentences, stored_picture

FORMS = [(image_format, bit_depth) for image_format in ("npy", "png") for bit_depth in (8, 16)]


@pytest.mark.parametrize(("image_format", "bit_depth"), FORMS)
def test_a_stored_picture_is_the_same_whatever_its_file(image_format: str, bit_depth: int, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).random((8, 8))
    stored = np.round(picture * (2**bit_depth - 1)).astype(np.uint8 if bit_depth == 8 else np.uint16)
    name = f"a.{image_format}"
    np.save(tmp_path / name, stored) if image_format == "npy" else cv2.imwrite(str(tmp_path / name), stored)
    found = stored_picture(tmp_path, PlacedSentence("a", name, "Edema.", "Edema", (0, 0, 1, 1)))
    assert found.dtype == np.float32
    assert np.abs(found - picture).max() <= 0.5 / (2**bit_depth - 1) + 1e-6


def placed_box(folder: Path, box: list[int], rows: int, columns: int, **geometry: float) -> tuple[float, ...]:
    """Where `placed_sentences` puts a box of the only image of a store with the given geometry."""
    for name in ("truth", "store", "private"):
        (folder / name).mkdir()
    truth = {"image": "1.2.3", "sentence": "A mass.", "finding": "Mass", "status": "positive", "box": box}
    (folder / "truth" / "sentences.jsonl").write_text(json.dumps(truth) + "\n")
    identity = {"pseudonym": ["i"], "kind": ["image"], "original": ["1.2.3"]}
    pl.DataFrame(identity).write_parquet(folder / "private" / "identity.parquet")
    pl.DataFrame({"study": ["s"], "split": ["test"]}).write_parquet(folder / "store" / "studies.parquet")
    row = {"image": "i", "study": "s", "path": "i.png", "rows": rows, "columns": columns, "size": 32} | geometry
    pl.DataFrame([row]).write_parquet(folder / "store" / "images.parquet")
    (placed,) = placed_sentences(folder, folder / "store", folder / "private", "test")
    return placed.box


def test_a_box_keeps_its_edges_at_a_fractional_offset(tmp_path: Path) -> None:
    """Oracle: OpenCV scales and moves the very pixels that the slice names, and their mass and centre stay theirs.

    40 x 24 pixels at half size lie between 4.25 empty rows above and 10.75 empty columns to the left.
    """
    box = [8, 4, 24, 12]
    original = np.zeros((40, 24), np.float32)
    original[box[0] : box[2], box[1] : box[3]] = 1
    fractional = {"scale_rows": 0.5, "scale_columns": 0.5, "offset_rows": 4.25, "offset_columns": 10.75}
    row0, column0, row1, column1 = placed_box(tmp_path, box, 40, 24, **fractional)
    half = cv2.resize(original, (12, 20), interpolation=cv2.INTER_AREA)
    move = np.array([[1, 0, 10.75], [0, 1, 4.25]])
    stored = cv2.warpAffine(half, move, (32, 32), flags=cv2.INTER_LINEAR)
    assert (row1 - row0) * (column1 - column0) == pytest.approx(stored.sum())
    rows, columns = np.indices(stored.shape)
    assert (row0 + row1) / 2 == pytest.approx((rows * stored).sum() / stored.sum())
    assert (column0 + column1) / 2 == pytest.approx((columns * stored).sum() / stored.sum())


def test_a_box_of_a_picture_stored_as_it_is_bounds_the_pixels_of_its_slice(tmp_path: Path) -> None:
    unscaled = {"scale_rows": 1.0, "scale_columns": 1.0, "offset_rows": 0.0, "offset_columns": 0.0}
    assert placed_box(tmp_path, [2, 3, 5, 9], 32, 32, **unscaled) == (1.5, 2.5, 4.5, 8.5)
