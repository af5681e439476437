"""Hits and overlap are what a slow count says, against chance, in the stored picture and where the truth lies in it."""

import json
from collections.abc import Sequence
from itertools import combinations, permutations
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_run import SENTENCES, write_run
from torch import Tensor

from pipelines.ground import GroundingModel
from pipelines.grounding_score import (
    PlacedSentence,
    measure,
    overlap,
    placed_sentences,
    pointing,
    pointing_score,
    score_run,
    stored_picture,
)
from preprocessing.errors import InputError

FORMS = [(image_format, bit_depth) for image_format in ("npy", "png") for bit_depth in (8, 16)]
Edges = tuple[float, float, float, float]


def placed(box: Edges, picture: Edges, path: str = "a.npy", sentence: str = "Edema.") -> PlacedSentence:
    return PlacedSentence("a", path, sentence, "Edema", box, picture)


# The measures


@st.composite
def maps_and_boxes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A small map with ties and a box in it."""
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    numbers = st.integers(0, 3)
    values = draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns))
    row0, column0 = draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))
    inside = np.zeros((rows, columns), bool)
    inside[row0 : draw(st.integers(row0 + 1, rows)), column0 : draw(st.integers(column0 + 1, columns))] = True
    return np.reshape(values, (rows, columns)).astype(np.float32), inside


@settings(max_examples=80, deadline=None)
@given(maps_and_boxes())
def test_overlap_is_the_mean_over_all_best_areas_of_the_boxs_size(case: tuple[np.ndarray, np.ndarray]) -> None:
    """Oracle: every set of as many pixels as the box has; of those with the highest sum, the mean share covered."""
    values, inside = case
    pixels = int(inside.sum())
    areas = list(combinations(range(values.size), pixels))
    best = max(values.flat[list(area)].sum() for area in areas)
    covered = [inside.flat[list(area)].sum() / pixels for area in areas if values.flat[list(area)].sum() == best]
    assert overlap(values, inside) == pytest.approx(np.mean(covered))


@settings(max_examples=80, deadline=None)
@given(maps_and_boxes())
def test_a_hit_is_the_share_of_highest_pixels_inside(case: tuple[np.ndarray, np.ndarray]) -> None:
    values, inside = case
    highest = [place for place in np.ndindex(values.shape) if all(values[place] >= other for other in values.flat)]
    assert pointing(values, inside) == pytest.approx(sum(bool(inside[place]) for place in highest) / len(highest))


def test_chance_is_what_all_orders_of_pixels_give_on_average() -> None:
    inside = np.array([[True, True, False], [False, False, False]])
    orders = [np.reshape(order, (2, 3)) for order in permutations(range(6))]
    share = inside.mean()
    assert np.mean([pointing(order, inside) for order in orders]) == pytest.approx(share)
    assert np.mean([overlap(order, inside) for order in orders]) == pytest.approx(share)


def test_chance_is_what_random_maps_give() -> None:
    random, example = np.random.default_rng(0), placed((2.5, 7.5, 6.5, 12.5), (-0.5, 3.5, 15.5, 13.5))
    measured = np.array([measure(random.normal(size=(16, 16)), example, 16) for _ in range(4000)])
    hits, covered, chance = measured.T
    assert np.unique(chance) == pytest.approx(4 * 5 / (16 * 10))
    for values in (hits, covered):
        assert abs(values.mean() - chance[0]) < 4 * values.std() / np.sqrt(len(values))


def test_a_map_without_differences_gets_chance() -> None:
    hit, covered, chance = measure(np.full((3, 5), 0.1), placed((2.5, 7.5, 6.5, 12.5), (-0.5, 3.5, 15.5, 13.5)), 16)
    assert hit == pytest.approx(chance)
    assert covered == pytest.approx(chance)


def test_the_box_itself_gets_one_and_its_contrary_none() -> None:
    box = np.zeros((16, 16), np.float32)
    box[3:7, 8:13] = 1
    example = placed((2.5, 7.5, 6.5, 12.5), (-0.5, 3.5, 15.5, 13.5))
    assert measure(box, example, 16)[:2] == (1, 1)
    assert measure(-box, example, 16)[:2] == (0, 0)


def test_the_black_border_of_the_square_takes_no_part() -> None:
    scores = np.zeros((8, 8), np.float32)
    scores[:, 7] = 9  # the highest of all, in the border
    scores[2, 3] = 1
    example = placed((15.5, 23.5, 23.5, 31.5), (-0.5, 7.5, 63.5, 39.5))
    assert measure(scores, example, 64) == (1, pytest.approx(1, abs=0.4), 64 / (64 * 32))


def test_coarse_maps_are_measured_pixel_by_pixel() -> None:
    """Oracle: OpenCV's linear enlargement, a sort of all pixels, and counting."""
    scores = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)
    enlarged = cv2.resize(scores, (32, 32), interpolation=cv2.INTER_LINEAR)[:, 4:28]
    order = sorted(np.ndindex(enlarged.shape), key=lambda place: -enlarged[place])
    box = {(row, column) for row in range(6, 15) for column in range(10, 20)}
    example = placed((5.5, 13.5, 14.5, 23.5), (-0.5, 3.5, 31.5, 27.5))
    hit, covered, chance = measure(scores, example, 32)
    assert hit == (order[0] in box)
    assert covered == pytest.approx(len(box & set(order[: len(box)])) / len(box))
    assert chance == pytest.approx(len(box) / (32 * 24))


def test_a_box_smaller_than_a_pixel_is_one_pixel() -> None:
    scores = np.zeros((8, 8))
    scores[3, 5] = 1
    assert measure(scores, placed((2.2, 4.2, 2.4, 4.4), (-0.5, -0.5, 7.5, 7.5)), 8) == (1, 1, 1 / 64)
    at_the_edge = placed((7.6, 7.6, 7.9, 7.9), (-0.5, -0.5, 7.5, 7.5))
    assert measure(scores, at_the_edge, 8)[2] == 1 / 64


# Over a store


def test_maps_are_measured_in_batches_each_with_its_own_picture_and_sentence(tmp_path: Path) -> None:
    """A sentence says which cell of its picture is bright, and which one the map marks: that, or the opposite one."""
    random, sentences, expected = np.random.default_rng(0), [], []
    for k in range(40):
        row, column = random.integers(0, 4, 2)
        picture = np.zeros((16, 16), np.uint8)
        picture[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 255
        np.save(tmp_path / f"{k}.npy", picture)
        is_true = bool(k % 3)
        box = (4 * row - 0.5, 4 * column - 0.5, 4 * row + 3.5, 4 * column + 3.5)
        words = f"{row} {column} {row} {column}" if is_true else f"{row} {column} {3 - row} {3 - column}"
        sentences.append(placed(box, (-0.5, -0.5, 15.5, 15.5), f"{k}.npy", words))
        expected.append(is_true)

    def maps(images: Tensor, words: Sequence[str]) -> np.ndarray:
        assert images.shape == (len(words), 1, 32, 32), "of the network's size"
        cells = [[int(number) for number in text.split()] for text in words]
        bright = images.unfold(2, 8, 8).unfold(3, 8, 8).mean(dim=(4, 5))[:, 0]  # (B, 4, 4)
        found = np.zeros((len(words), 4, 4), np.float32)
        for k, (row, column, marked_row, marked_column) in enumerate(cells):
            assert bright[k].argmax() == 4 * row + column
            found[k, marked_row, marked_column] = 1
        return found

    score = pointing_score(GroundingModel(maps, 32, "voi"), tmp_path, sentences)
    assert score.sentences == 40
    assert score.hits == pytest.approx(np.mean(expected))
    assert score.chance == pytest.approx(1 / 16)
    assert score.chance < score.overlap <= score.hits


def test_no_sentence_with_a_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more studies"):
        pointing_score(GroundingModel(lambda images, words: np.zeros((1, 1, 1)), 32, "voi"), tmp_path, [])


@pytest.mark.parametrize("objective", ["local", "global"])
def test_a_run_is_measured_by_its_regions_or_by_grad_cam(objective: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", objective=objective)
    unscaled = {"scale_rows": 1.0, "scale_columns": 1.0, "offset_rows": 0.0, "offset_columns": 4.0}
    write_truth(tmp_path, [2, 3, 12, 9], 32, 24, SENTENCES[0], **unscaled)
    picture = np.random.default_rng(0).integers(0, 255, (32, 32)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "store" / "i.png"), picture)
    score = score_run(run, tmp_path, tmp_path / "store", tmp_path / "private", "test")
    assert score.sentences == 1
    assert 0 <= score.overlap <= 1
    assert score.hits in (0, 1)
    assert score.chance == pytest.approx(10 * 6 / (32 * 24))


@pytest.mark.parametrize(("image_format", "bit_depth"), FORMS)
def test_a_stored_picture_is_the_same_whatever_its_file(image_format: str, bit_depth: int, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).random((8, 8))
    stored = np.round(picture * (2**bit_depth - 1)).astype(np.uint8 if bit_depth == 8 else np.uint16)
    name = f"a.{image_format}"
    np.save(tmp_path / name, stored) if image_format == "npy" else cv2.imwrite(str(tmp_path / name), stored)
    found = stored_picture(tmp_path, placed((0, 0, 1, 1), (-0.5, -0.5, 7.5, 7.5), name))
    assert found.dtype == np.float32
    assert np.abs(found - picture).max() <= 0.5 / (2**bit_depth - 1) + 1e-6


# The truth


def write_truth(folder: Path, box: list[int], rows: int, columns: int, sentence: str, **geometry: float) -> None:
    """The tables of phantoms and of their store, with one image whose geometry is given."""
    for name in ("truth", "store", "private"):
        (folder / name).mkdir()
    truth = {"image": "1.2.3", "sentence": sentence, "finding": "Mass", "status": "positive", "box": box}
    (folder / "truth" / "sentences.jsonl").write_text(json.dumps(truth) + "\n")
    identity = {"pseudonym": ["i"], "kind": ["image"], "original": ["1.2.3"]}
    pl.DataFrame(identity).write_parquet(folder / "private" / "identity.parquet")
    pl.DataFrame({"study": ["s"], "split": ["test"]}).write_parquet(folder / "store" / "studies.parquet")
    row = {"image": "i", "study": "s", "path": "i.png", "rows": rows, "columns": columns, "size": 32} | geometry
    pl.DataFrame([row]).write_parquet(folder / "store" / "images.parquet")


def placed_one(folder: Path, box: list[int], rows: int, columns: int, **geometry: float) -> PlacedSentence:
    """Where `placed_sentences` puts a box of the only image of a store with the given geometry."""
    write_truth(folder, box, rows, columns, "A mass.", **geometry)
    (sentence,) = placed_sentences(folder, folder / "store", folder / "private", "test")
    return sentence


def test_a_box_keeps_its_edges_at_a_fractional_offset(tmp_path: Path) -> None:
    """Oracle: OpenCV scales and moves the very pixels that the slice names, and their mass and centre stay theirs.

    40 x 24 pixels at half size lie between 4.25 empty rows above and 10.75 empty columns to the left.
    """
    box = [8, 4, 24, 12]
    original = np.zeros((40, 24), np.float32)
    original[box[0] : box[2], box[1] : box[3]] = 1
    fractional = {"scale_rows": 0.5, "scale_columns": 0.5, "offset_rows": 4.25, "offset_columns": 10.75}
    sentence = placed_one(tmp_path, box, 40, 24, **fractional)
    row0, column0, row1, column1 = sentence.box
    half = cv2.resize(original, (12, 20), interpolation=cv2.INTER_AREA)
    move = np.array([[1, 0, 10.75], [0, 1, 4.25]])
    stored = cv2.warpAffine(half, move, (32, 32), flags=cv2.INTER_LINEAR)
    assert (row1 - row0) * (column1 - column0) == pytest.approx(stored.sum())
    rows, columns = np.indices(stored.shape)
    assert (row0 + row1) / 2 == pytest.approx((rows * stored).sum() / stored.sum())
    assert (column0 + column1) / 2 == pytest.approx((columns * stored).sum() / stored.sum())
    assert sentence.picture == pytest.approx((3.75, 10.25, 23.75, 22.25))


def test_a_box_of_a_picture_stored_as_it_is_bounds_the_pixels_of_its_slice(tmp_path: Path) -> None:
    unscaled = {"scale_rows": 1.0, "scale_columns": 1.0, "offset_rows": 0.0, "offset_columns": 0.0}
    sentence = placed_one(tmp_path, [2, 3, 5, 9], 32, 32, **unscaled)
    assert sentence.box == (1.5, 2.5, 4.5, 8.5)
    assert sentence.picture == (-0.5, -0.5, 31.5, 31.5)
