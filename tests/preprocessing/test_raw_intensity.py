import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_dicom import change, made, saved
from pydicom import Dataset

from preprocessing.dicom import read_dicom
from preprocessing.raw_intensity import attenuation, is_raw

VALUES = np.array([[0.0, 1.0, 7.0], [100.0, 4094.0, 4095.0]])
DX = "1.2.840.10008.5.1.4.1.1.1.1"


def header(relationship: str = "", sign: int | None = None, **elements: Any) -> Dataset:
    dataset = made(np.zeros((2, 3), np.uint16), BitsStored=12, HighBit=11, PixelIntensityRelationship=relationship)
    if sign is not None:
        dataset.PixelIntensityRelationshipSign = sign
    return change(dataset, **elements)


# The oracle: PS3.3 C.8.11.3.1.2 in Python's own floats, one value at a time.


def transcribed(value: float, relationship: str, sign: int, largest: float) -> float:
    if relationship != "LIN":
        return value if sign == -1 else -value
    intensity = value if sign == 1 else largest - value
    return -math.log(max(intensity, 1.0))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("relationship", ["LIN", "LOG", "DISP", ""])
def test_attenuation_is_the_standards_relationship_and_sign(relationship: str, sign: int) -> None:
    ours = attenuation(header(relationship, sign), VALUES)
    expected = [[transcribed(value, relationship, sign, 4095) for value in row] for row in VALUES.tolist()]
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.parametrize("relationship", ["LIN", "LOG", "DISP", ""])
@pytest.mark.parametrize("sign", [1, -1])
def test_bone_is_brighter_than_air_whatever_the_direction(relationship: str, sign: int) -> None:
    air, bone = (3000.0, 200.0) if sign == 1 else (200.0, 3000.0)
    seen = attenuation(header(relationship, sign), np.array([air, bone]))
    assert seen[1] > seen[0]


def test_counts_behind_twice_the_thickness_are_twice_the_attenuation() -> None:
    counts = 4000 * np.exp(-0.2 * np.array([0.0, 5.0, 10.0]))  # Lambert-Beer
    steps = np.diff(attenuation(header("LIN", 1), counts))
    np.testing.assert_allclose(steps, [1.0, 1.0])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [-5.0, -1.0, 0.0, 0.25, 9.0], [4095.0, 5000.0], [-32768.0, 65535.0]], ids=str
)
def test_intensities_of_zero_and_below_give_no_infinity(values: list[float], sign: int) -> None:
    seen = attenuation(header("LIN", sign), np.array(values))
    assert np.isfinite(seen).all()
    assert (np.diff(seen) * -sign >= 0).all()


def test_intensities_of_zero_count_as_the_smallest_that_there_is() -> None:
    np.testing.assert_allclose(attenuation(header("LIN", 1), np.array([-3.0, 0.25])), -np.log([0.25, 0.25]))


@pytest.mark.parametrize(("photometric", "sign"), [("MONOCHROME1", 1), ("MONOCHROME2", -1)])
@pytest.mark.parametrize("relationship", ["LIN", "LOG", ""])
def test_polarity_stands_for_a_sign_that_is_absent_or_impossible(
    photometric: str, sign: int, relationship: str
) -> None:
    expected = attenuation(header(relationship, sign), VALUES)
    for absent in (None, 0, 7):
        dataset = header(relationship, absent, PhotometricInterpretation=photometric)
        np.testing.assert_array_equal(attenuation(dataset, VALUES), expected)


def test_the_largest_value_of_signed_pixels_is_half_as_large() -> None:
    dataset = header("LIN", -1, PixelRepresentation=1)
    np.testing.assert_allclose(attenuation(dataset, np.array([-2048.0, 2046.0])), -np.log([4095.0, 1.0]))


@pytest.mark.parametrize(
    ("elements", "raw"),
    [
        ({}, False),
        ({"PresentationIntentType": "FOR PRESENTATION"}, False),
        ({"PresentationIntentType": "FOR PROCESSING"}, True),
        ({"SOPClassUID": f"{DX}.1"}, True),
        ({"SOPClassUID": f"{DX}.1", "PresentationIntentType": "FOR PRESENTATION"}, True),
        ({"PixelIntensityRelationship": "LIN"}, False),
    ],
)
def test_raw_is_what_class_or_intent_says(elements: dict[str, Any], raw: bool, tmp_path: Path) -> None:
    dataset = made(np.zeros((2, 3), np.uint16), **elements)
    assert is_raw(read_dicom(saved(tmp_path, dataset))) is raw


def test_the_class_may_stand_in_the_file_meta_alone() -> None:
    dataset = change(made(np.zeros((2, 3), np.uint16)), SOPClassUID=None)
    assert not is_raw(dataset)
    dataset.file_meta.MediaStorageSOPClassUID = f"{DX}.1"
    assert is_raw(dataset)
    assert not is_raw(Dataset())
