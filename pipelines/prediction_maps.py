"""Heat maps of the findings of a prediction: pictures for people, NIfTI files for viewers.

Names follow from the image and the finding, so that a run that is done again replaces what it wrote.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipelines.classifier import Classifier, Prediction
from pipelines.notice import NOTICE
from pipelines.prediction_reading import ReadFile
from pipelines.score_maps import Grounding, Radiograph, blended, interpolated, nifti, scaled, score_range
from preprocessing.files import write_atomically
from preprocessing.geometry import Geometry
from preprocessing.preparation import PreparedImage
from preprocessing.readers import plane_affine

NOTHING = ": no place in the image raised it"
LIKELY = 0.5
"""Probability from which a finding without a threshold is drawn."""

NO_FINDING = "No Finding"
"""The label that is nowhere in an image."""

SHOWN = 768  # pixels of the long side of a picture
LINE = 22  # pixels of a line of the caption


@dataclass(frozen=True)
class Evidence:
    """Where one finding of one frame comes from.

    Args:
        label: index of the label.
        scores: (h, w) over the square that the network saw (`Classifier.evidence`).
        picture: of `evidence_picture`.
    """

    label: int
    scores: NDArray[np.float32]
    picture: NDArray[np.uint8]


def evidence_of(classifier: Classifier, prepared: PreparedImage, prediction: Prediction) -> tuple[Evidence, ...]:
    """Where the findings of a prediction come from, drawn."""
    found = []
    for label in labels_to_show(classifier, prediction):
        scores = classifier.evidence(prepared.array, label)
        words = caption(classifier, prediction, label) + ("" if scores.any() else NOTHING)
        picture = evidence_picture(prepared, scores, words)
        found.append(Evidence(label, scores, picture))
    return tuple(found)


def labels_to_show(classifier: Classifier, prediction: Prediction) -> list[int]:
    """Findings that are called present, or of those without a threshold, are likelier than not."""
    values = zip(classifier.label_names, prediction.is_present, prediction.probabilities, strict=True)
    return [
        label
        for label, (name, present, p) in enumerate(values)
        if name != NO_FINDING and (p >= LIKELY if present is None else present)
    ]


def result_name(read: ReadFile, origin: str) -> str:
    """Name of a file's results: a hash, since UIDs and paths identify patients."""
    return hashlib.sha256(f"{read.sop_uid} {origin}".encode("utf-8", "surrogateescape")).hexdigest()[:24]


def finding_name(classifier: Classifier, label: int) -> str:
    """A label as part of a file name."""
    return f"{label:02d}_{re.sub('[^a-z0-9]+', '_', classifier.label_names[label].lower()).strip('_')[:48]}"


def write_maps(
    folder: Path,
    classifier: Classifier,
    read: ReadFile,
    frame: int,
    evidence: Sequence[Evidence],
) -> None:
    """Write a PNG and a NIfTI of each finding of one frame (counted from 1).

    Raises:
        OSError: they cannot be written.
    """
    for one in evidence:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{frame}_{finding_name(classifier, one.label)}"
        prepared = read.frames[frame - 1]
        png = cv2.imencode(".png", np.ascontiguousarray(one.picture[..., ::-1]))[1].tobytes()
        write_atomically(folder / f"{name}.png", png)
        radiograph = Radiograph(cut_out(prepared), _values(prepared), prepared.geometry, plane_affine(*read.spacing))
        write_atomically(folder / f"{name}.nii.gz", nifti(Grounding(radiograph, one.scores), NOTICE))


def caption(classifier: Classifier, prediction: Prediction, label: int) -> str:
    """Finding, probability and decision in a line."""
    present = prediction.is_present[label]
    decision = "" if present is None else " (present)" if present else " (absent)"
    return f"{classifier.label_names[label]}: {prediction.probabilities[label]:.2f}{decision}"


def evidence_picture(prepared: PreparedImage, scores: NDArray[np.float32], caption: str) -> NDArray[np.uint8]:
    """The radiograph with scores over it, the clearer the higher, above a caption and the notice.

    Args:
        prepared: the image as the network saw it.
        scores: (h, w) over its square.
        caption: a line.

    Returns:
        (rows, columns, 3) RGB.
    """
    picture = cut_out(prepared)
    rows, columns = _place(prepared.geometry)
    down, across = ((np.arange(place.start, place.stop) + 0.5) / prepared.geometry.size for place in (rows, columns))
    zoom = SHOWN / max(picture.shape)
    shape = tuple(max(1, round(side * zoom)) for side in picture.shape)
    low, high = score_range(scores)
    heights = (scaled(interpolated(scores, down, across), shape) - low) / (high - low)
    drawn = blended(0.9 * scaled(picture, shape), np.clip(heights, 0, 1))
    return np.concatenate([np.rint(drawn * 255).astype(np.uint8), _written([caption, NOTICE], shape[1])])


def cut_out(prepared: PreparedImage) -> NDArray[np.float32]:
    """The radiograph out of its square: (rows, columns) in [0, 1]."""
    return _values(prepared)[_place(prepared.geometry)]


def _values(prepared: PreparedImage) -> NDArray[np.float32]:
    array = prepared.array
    return (array / np.float32(np.iinfo(array.dtype).max)).astype(np.float32)


def _place(geometry: Geometry) -> tuple[slice, slice]:
    """Where in the square the original lies, as far as it does."""
    corners = np.array([[-0.5, -0.5], [geometry.rows - 0.5, geometry.columns - 0.5]])
    first, last = np.clip(np.rint(geometry.to_stored(corners) + 0.5), 0, geometry.size).astype(int)
    return slice(first[0], max(last[0], first[0] + 1)), slice(first[1], max(last[1], first[1] + 1))


def _written(lines: Sequence[str], columns: int) -> NDArray[np.uint8]:
    """White lines on black, cut where they are too long: (rows, columns, 3)."""
    band = Image.new("RGB", (columns, LINE * len(lines) + 8))
    font = ImageFont.load_default(15)
    for number, line in enumerate(lines):
        ImageDraw.Draw(band).text((6, 4 + LINE * number), line, fill="white", font=font)
    return np.asarray(band, np.uint8)
