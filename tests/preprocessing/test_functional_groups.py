from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_dicom import change, made, saved
from pydicom import Dataset

from preprocessing.dicom import image_facts, read_dicom, stored_values
from preprocessing.functional_groups import frame_header
from preprocessing.header_values import numbers, text
from preprocessing.rendering import exposed_area, render

FRAMES = np.stack([np.arange(24 * 40, dtype=np.uint16).reshape(24, 40)] * 3)


def item(**elements: Any) -> Dataset:
    return change(Dataset(), **elements)


def group(**groups: Dataset) -> Dataset:
    """An item of a functional groups sequence: each group is a sequence of one item."""
    return change(Dataset(), **{f"{name}Sequence": [content] for name, content in groups.items()})


def window(centre: float, width: float) -> Dataset:
    return item(WindowCenter=centre, WindowWidth=width)


def rescale(slope: float, intercept: float) -> Dataset:
    return item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")


def enhanced(folder: Path, shared: Dataset | None, per_frame: list[Dataset], **elements: Any) -> Dataset:
    dataset = made(FRAMES, **elements)
    if shared is not None:
        dataset.SharedFunctionalGroupsSequence = [shared]
    if per_frame:
        dataset.PerFrameFunctionalGroupsSequence = per_frame
    return read_dicom(saved(folder, dataset))


def test_a_plain_header_is_its_own(tmp_path: Path) -> None:
    dataset = read_dicom(saved(tmp_path, made(FRAMES)))
    assert frame_header(dataset, 1) is dataset


def test_every_frame_is_rendered_with_its_own_window_and_rescale(tmp_path: Path) -> None:
    windows, rescales = [(300.0, 200.0), (500.0, 900.0), (1100.0, 50.0)], [(1.0, 0.0), (2.0, -40.0), (0.5, 900.0)]
    groups = [
        group(FrameVOILUT=window(*voi), PixelValueTransformation=rescale(*linear))
        for voi, linear in zip(windows, rescales, strict=True)
    ]
    dataset = enhanced(tmp_path, None, groups, VOILUTFunction="LINEAR_EXACT")
    for frame, ((centre, width), (slope, intercept)) in enumerate(zip(windows, rescales, strict=True)):
        picture = render(frame_header(dataset, frame), stored_values(dataset)[frame], "voi")
        expected = np.clip((FRAMES[frame] * slope + intercept - centre) / width + 0.5, 0, 1)
        np.testing.assert_allclose(picture.pixels, expected, atol=1e-6)


def test_a_frames_own_group_goes_before_the_shared_one_and_that_before_the_top_level(tmp_path: Path) -> None:
    shared = group(FrameVOILUT=window(2, 20), PixelMeasures=item(PixelSpacing=[0.2, 0.2]))
    own = group(FrameVOILUT=window(3, 30))
    dataset = enhanced(tmp_path, shared, [own, Dataset()], WindowCenter=1, WindowWidth=10, PixelSpacing=[0.1, 0.1])
    centres = [numbers(frame_header(dataset, frame), "WindowCenter") for frame in range(3)]
    assert centres == [(3.0,), (2.0,), (2.0,)]  # the third frame has no item of its own
    assert {image_facts(frame_header(dataset, frame)).pixel_spacing for frame in range(3)} == {(0.2, 0.2)}
    assert numbers(dataset, "WindowCenter") == (1.0,)
    assert numbers(dataset, "PixelSpacing") == (0.1, 0.1)


def test_everything_that_is_read_of_a_header_is_read_of_a_frames_groups(tmp_path: Path) -> None:
    region = item(CodeValue="51185008", CodingSchemeDesignator="SCT", CodeMeaning="Thorax")
    edges = {"UpperHorizontalEdge": 3, "LowerHorizontalEdge": 20, "LeftVerticalEdge": 5, "RightVerticalEdge": 30}
    shutter = {"ShutterShape": "RECTANGULAR"} | {f"Shutter{edge}": value for edge, value in edges.items()}
    groups = group(
        FrameAnatomy=item(FrameLaterality="U", AnatomicRegionSequence=[region]),
        FrameDisplayShutter=item(**shutter),
        FramePixelDataProperties=item(PixelIntensityRelationship="LOG", PixelIntensityRelationshipSign=-1),
        PatientOrientationInFrame=item(PatientOrientation=["P", "F"]),
    )
    header = frame_header(enhanced(tmp_path, groups, [], BodyPartExamined="", ViewPosition=""), 0)
    facts = image_facts(header)
    assert facts.body_part == "THORAX"
    assert (facts.view_position, facts.view_source) == ("LATERAL", "PatientOrientation")
    assert facts.pixel_intensity_relationship == "LOG"
    assert numbers(header, "PixelIntensityRelationshipSign") == (-1.0,)
    assert text(header, "FrameLaterality") == "U"
    assert exposed_area(header, 24, 40) == (slice(2, 20), slice(4, 30))
    assert "shutter" in facts.flags


def test_the_rest_of_the_header_stays_what_it_was(tmp_path: Path) -> None:
    shared = group(FrameVOILUT=window(2, 20))
    dataset = enhanced(tmp_path, shared, [], PatientName="Müller", SpecificCharacterSet="ISO_IR 100")
    header = frame_header(dataset, 0)
    assert image_facts(header) == image_facts(dataset)
    assert text(header, "PatientName") == "Müller"
    np.testing.assert_array_equal(stored_values(header), FRAMES)


@pytest.mark.parametrize("broken", ["", None, [Dataset()]])
def test_groups_that_are_empty_or_no_sequence_change_nothing(broken: Any, tmp_path: Path) -> None:
    dataset = enhanced(tmp_path, Dataset(), [], WindowCenter=1, WindowWidth=10)
    if broken is None:
        dataset.add_new("PerFrameFunctionalGroupsSequence", "LO", "no sequence")
    else:
        dataset.SharedFunctionalGroupsSequence = [change(Dataset(), FrameVOILUTSequence=broken)]
    assert numbers(frame_header(dataset, 0), "WindowCenter") == (1.0,)
