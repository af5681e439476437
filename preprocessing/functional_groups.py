"""Header of one frame of an enhanced multi-frame object, as if it were an image of its own (PS3.3 C.7.6.16).

Enhanced objects keep what differs between frames in functional groups, where nothing that reads a plain header would
look. `readers` and `preparation` render each frame with the header that `frame_header` makes.
"""

from pydicom import Dataset

from preprocessing.header_values import items

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"

GROUPS = (
    "PixelMeasuresSequence",
    "FrameAnatomySequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "FramePixelDataPropertiesSequence",
    "FrameDisplayShutterSequence",
    "CollimatorShapeSequence",
    "PatientOrientationInFrameSequence",
)
"""Functional groups that hold something this package reads: pixel spacing, body part and laterality, rescale, VOI,
relation to the X-ray intensity, shutter, collimator, orientation."""


def frame_header(dataset: Dataset, frame: int) -> Dataset:
    """Return the header of one frame, with the elements of its functional groups at top level.

    A group of the frame itself goes before the one that all frames share, and both before what stands at top level.

    Args:
        dataset: header of the image.
        frame: from 0. A frame that has no item of its own has what is shared.

    Returns:
        The data set itself if it has no functional groups; else a shallow copy, which leaves the original as it is.
    """
    if SHARED not in dataset and PER_FRAME not in dataset:
        return dataset
    header = shallow_copy(dataset)
    holders = [*items(dataset, SHARED)[:1], *items(dataset, PER_FRAME)[frame : frame + 1]]
    for group in GROUPS:
        found = [item for holder in holders for item in items(holder, group)[:1]]
        if found:
            header.update(dict(found[-1].items()))
    return header


def shallow_copy(dataset: Dataset) -> Dataset:
    """Return a data set with the same elements, whose elements can be replaced without changing the original.

    `copy.copy` shares the dictionary of elements with the original (pydicom 3.0).
    """
    header = Dataset(dict(dataset.items()))
    implicit, little_endian = dataset.original_encoding
    header.set_original_encoding(implicit, little_endian, dataset.original_character_set)
    for of_file in ("file_meta", "preamble"):
        if hasattr(dataset, of_file):
            setattr(header, of_file, getattr(dataset, of_file))
    return header
