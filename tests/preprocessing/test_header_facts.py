from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_dicom import as_bytes, change, made, saved

from preprocessing.dicom import ImageFacts, image_facts, read_dicom, stored_values

RAMP = np.arange(24 * 40, dtype=np.uint16).reshape(24, 40)


def facts_of(folder: Path, **elements: Any) -> ImageFacts:
    return image_facts(read_dicom(saved(folder, change(made(RAMP), **elements))))


@pytest.mark.parametrize(
    ("written", "date"),
    [
        ("20200102", "20200102"),
        ("2020.01.02", "20200102"),  # as ACR-NEMA wrote it
        ("20200229", "20200229"),
        ("20190229", ""),
        ("20201301", ""),
        ("2020", ""),
        ("", ""),
    ],
)
def test_study_dates_are_days_of_the_calendar_or_flagged(written: str, date: str, tmp_path: Path) -> None:
    whole = as_bytes(made(RAMP, StudyDate="11111111", StudyTime="0")).replace(
        b"11111111", written.encode()[:8].ljust(8)
    )
    if len(written) == 10:
        whole = as_bytes(made(RAMP, StudyDate="11111111")).replace(
            b"\x08\0\x20\0DA\x08\x0011111111", b"\x08\0\x20\0DA\x0a\x00" + written.encode()
        )
    facts = image_facts(read_dicom(saved(tmp_path, whole)))
    assert facts.study_date == date
    assert ("study_date" in facts.flags) == (written != "" and date == "")


@pytest.mark.parametrize(
    ("elements", "side"),
    [
        ({}, ""),
        ({"ImageLaterality": "U", "Laterality": "L"}, "U"),
        ({"FrameLaterality": "B"}, "B"),
        ({"Laterality": "R"}, "R"),
        ({"ImageLaterality": "", "Laterality": "L"}, "L"),
        ({"Laterality": "X"}, ""),
    ],
)
def test_laterality(elements: dict[str, Any], side: str, tmp_path: Path) -> None:
    assert facts_of(tmp_path, **elements).laterality == side


def test_shutters_that_are_not_rectangular_are_told_from_those_that_are(tmp_path: Path) -> None:
    assert facts_of(tmp_path, CollimatorShape="RECTANGULAR").flags == ("shutter",)
    assert facts_of(tmp_path, ShutterShape="CIRCULAR").flags == ("shutter_not_rectangular",)
    both = facts_of(tmp_path, ShutterShape=["POLYGONAL", "RECTANGULAR"])
    assert both.flags == ("shutter", "shutter_not_rectangular")


def test_an_overlay_in_the_pixels_is_flagged_and_one_with_data_of_its_own_is_not(tmp_path: Path) -> None:
    dataset = made(RAMP | np.uint16(0x8000), BitsStored=12, HighBit=11)
    dataset.add_new((0x6002, 0x0100), "US", 16)
    dataset.add_new((0x6002, 0x0102), "US", 15)
    read = read_dicom(saved(tmp_path, dataset))
    assert image_facts(read).flags == ("overlay_bits",)
    np.testing.assert_array_equal(stored_values(read)[0], RAMP)
    dataset.add_new((0x6002, 0x3000), "OW", bytes(RAMP.size // 8))
    assert image_facts(read_dicom(saved(tmp_path, dataset))).flags == ()


def test_pixel_data_of_odd_length_are_flagged(tmp_path: Path) -> None:
    odd = np.arange(35, dtype=np.uint8).reshape(5, 7)
    padded = as_bytes(made(odd))
    assert image_facts(read_dicom(saved(tmp_path, padded))).flags == ()
    start = padded.index(bytes(range(35)))
    unpadded = padded[: start - 4] + b"\x23\0\0\0" + bytes(range(35))
    read = read_dicom(saved(tmp_path, unpadded))
    assert image_facts(read).flags == ("odd_length",)
    np.testing.assert_array_equal(stored_values(read)[0], odd)
