from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_dicom import change, made, saved

from preprocessing.dicom import image_facts, read_dicom
from preprocessing.errors import UnusableFile
from preprocessing.selection import FLAGS, SelectionPolicy, check_selected

RAMP = np.arange(24 * 40, dtype=np.uint16).reshape(24, 40)
CR = "1.2.840.10008.5.1.4.1.1.1"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DEFAULT = SelectionPolicy()


def outcome(folder: Path, policy: SelectionPolicy = DEFAULT, **elements: Any) -> tuple[str, ...] | str:
    """The flags of an image that is taken, the reason of one that is not."""
    dataset = read_dicom(saved(folder, change(made(RAMP), **elements)))
    try:
        flags = check_selected(dataset, image_facts(dataset), policy)
    except UnusableFile as error:
        return error.reason
    assert set(flags) <= set(FLAGS)
    return flags


def test_a_chest_radiograph_is_taken(tmp_path: Path) -> None:
    assert outcome(tmp_path) == ()
    assert outcome(tmp_path, Modality="CR", SOPClassUID=CR) == ()


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"Modality": "CT"}, "other_modality"),
        ({"Modality": ""}, "no_modality"),
        ({"BodyPartExamined": "HAND"}, "other_body_part"),
        ({"BodyPartExamined": ""}, ("body_part_blank",)),
        ({"BurnedInAnnotation": "YES"}, "burned_in_annotation"),
        ({"PixelData": None}, "no_pixel_data"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, "for_processing"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2.1"}, "for_processing"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.3.1"}, "for_processing"),
        (
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1", "PresentationIntentType": "FOR PRESENTATION"},
            "for_processing",
        ),
    ],
)
def test_what_is_taken_and_what_not(elements: dict[str, Any], expected: object, tmp_path: Path) -> None:
    assert outcome(tmp_path, **elements) == expected


RAW = {"PresentationIntentType": "FOR PROCESSING"}
BURNED = {"BurnedInAnnotation": "YES"}
SCREENSHOT = {"SOPClassUID": CAPTURE, "ImageType": ["DERIVED", "SECONDARY"]}
COLOUR = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}


@pytest.mark.parametrize(
    ("policy", "accepted", "flag"),
    [
        (SelectionPolicy(for_processing="convert"), RAW, "for_processing"),
        (SelectionPolicy(for_processing="convert"), {"SOPClassUID": CR + ".1.1"}, "for_processing"),
        (SelectionPolicy(burned_in="accept"), BURNED, "burned_in_annotation"),
        (SelectionPolicy(captures="accept"), SCREENSHOT, "secondary_capture"),
        (SelectionPolicy(captures="accept"), COLOUR, "colour"),
        (SelectionPolicy(captures="accept"), {"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
    ],
)
def test_what_a_policy_lets_in_is_flagged_and_nothing_else_is_let_in(
    policy: SelectionPolicy, accepted: dict[str, Any], flag: str, tmp_path: Path
) -> None:
    assert outcome(tmp_path, **accepted) == flag
    assert outcome(tmp_path, policy, **accepted) == (flag,)
    for other, reason in (RAW, "for_processing"), (BURNED, "burned_in_annotation"), (COLOUR, "colour"):
        if reason != flag and not (policy.captures == "accept" and reason == "colour"):
            assert outcome(tmp_path, policy, **accepted, **other) == reason
    for other, reason in ({"Modality": "CT"}, "other_modality"), ({"BodyPartExamined": "HAND"}, "other_body_part"):
        assert outcome(tmp_path, policy, **accepted, **other) == reason


def test_raw_images_that_are_taken_are_not_also_said_to_be_perhaps_raw(tmp_path: Path) -> None:
    for relationship in ("LIN", "LOG"):
        elements = RAW | {"PixelIntensityRelationship": relationship}
        assert outcome(tmp_path, SelectionPolicy(for_processing="convert"), **elements) == ("for_processing",)


@pytest.mark.parametrize("suffix", ["", ".1", ".2", ".3", ".4"])
def test_captures_are_left_out_unless_they_are_described_as_the_radiograph_itself(suffix: str, tmp_path: Path) -> None:
    capture = {"SOPClassUID": CAPTURE + suffix}
    assert outcome(tmp_path, **capture) == ("secondary_capture",)
    assert outcome(tmp_path, **capture, ImageType=["ORIGINAL", "PRIMARY"]) == ("secondary_capture",)
    for odd in ({"ViewPosition": ""}, {"BodyPartExamined": ""}, {"ImageType": ["DERIVED", "SECONDARY"]}):
        assert outcome(tmp_path, **(capture | odd)) == "secondary_capture"


def test_the_class_is_read_from_the_file_meta_where_the_data_set_names_none(tmp_path: Path) -> None:
    dataset = change(made(RAMP), SOPClassUID=None)
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1.1"
    assert image_facts(dataset).sop_class_uid == "1.2.840.10008.5.1.4.1.1.1.1.1"
    with pytest.raises(UnusableFile, match="FOR PROCESSING"):
        check_selected(dataset, image_facts(dataset))


@pytest.mark.parametrize(
    ("sop_class", "intent", "relationship", "expected"),
    [
        (CR, "", "LIN", ("pixel_intensity_lin",)),
        (CR, "", "LOG", ("pixel_intensity_log",)),
        (CR, "FOR PRESENTATION", "LOG", ()),
        (CR, "FOR PRESENTATION", "LIN", ("pixel_intensity_lin",)),
        (CR, "", "", ()),
        (CR + ".1", "", "LOG", ()),  # digital radiograph for presentation
        (CR + ".1", "", "LIN", ("pixel_intensity_lin",)),
    ],
)
def test_pixels_that_may_not_be_for_presentation_are_flagged(
    sop_class: str, intent: str, relationship: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    elements = {"PresentationIntentType": intent, "PixelIntensityRelationship": relationship}
    assert outcome(tmp_path, SOPClassUID=sop_class, **elements) == expected


def test_a_radiographs_header_that_ends_before_its_pixels_is_told_from_other_objects(tmp_path: Path) -> None:
    details = []
    for modality in ("DX", "SR"):
        dataset = change(made(RAMP), PixelData=None, Modality=modality)
        with pytest.raises(UnusableFile) as caught:
            check_selected(dataset, image_facts(dataset))
        details.append(caught.value.detail)
    assert "cut short" in details[0]
    assert "cut short" not in details[1]
