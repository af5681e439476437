import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.contact_sheet import CAPTION_HEIGHT, contact_sheet, write_png


def test_each_picture_is_in_its_place_with_its_caption_below() -> None:
    greys = [0.2, 0.4, 0.6, 0.8, 1.0]
    sheet = contact_sheet([np.full((50, 50), grey) for grey in greys], ["a"] * 4 + [""], columns=3, tile=40)
    height = 40 + CAPTION_HEIGHT
    assert sheet.shape == (2 * height, 3 * 40)
    assert sheet.dtype == np.uint8
    for place, grey in enumerate(greys):
        top, left = place // 3 * height, place % 3 * 40
        assert (sheet[top : top + 40, left : left + 40] == round(grey * 255)).all()
        assert (sheet[top + 40 : top + height, left : left + 40].max() > 0) == (place < 4)
    assert (sheet[height:, 80:] == 0).all()


def test_pictures_keep_their_proportions() -> None:
    sheet = contact_sheet([np.ones((100, 50))], [""], columns=1, tile=40)
    assert (sheet[:40, 10:30] == 255).all()
    assert (sheet[:40, :10] == 0).all()
    assert (sheet[:40, 30:] == 0).all()


def test_long_and_foreign_captions_stay_inside_their_tile() -> None:
    sheet = contact_sheet([np.zeros((9, 9))] * 2, ["pneumothorax gauche très étendu" * 3, ""], columns=2, tile=64)
    assert sheet[64:, :64].max() > 0
    assert (sheet[64:, 62:] == 0).all()  # cut between letters, with a margin
    assert (sheet[:, 64:] == 0).all()


def test_values_outside_the_range_do_not_wrap() -> None:
    sheet = contact_sheet([np.full((8, 8), 1.5), np.full((8, 8), -0.5)], ["", ""], columns=2, tile=8)
    assert (sheet[:8, :8] == 255).all()
    assert (sheet[:8, 8:] == 0).all()


def test_no_pictures_give_one_empty_line_and_a_missing_caption_is_an_error() -> None:
    assert contact_sheet([], [], columns=4, tile=10).shape == (10 + CAPTION_HEIGHT, 40)
    with pytest.raises(ValueError, match="shorter"):
        contact_sheet([np.zeros((2, 2))], [], columns=1, tile=8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_comes_back_and_is_the_same_bytes_each_time(dtype: type, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (30, 20), dtype=dtype)
    write_png(tmp_path / "a.png", array)
    write_png(tmp_path / "b.png", array)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"), -1), array)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_png(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    before = (tmp_path / "a.png").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_png(tmp_path / "a.png", np.ones((4, 4), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before
