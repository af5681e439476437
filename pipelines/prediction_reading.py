"""One file to what the network sees of it, and what results have to say of it: what a worker of `predict` does.

Never raises for a bad file. Without PyTorch, so that workers start fast and stay small.
"""

import io
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from pydicom import Dataset

from preprocessing.conversion import check_size, tune_process, why_left_out
from preprocessing.dicom import ImageFacts, image_facts, parse_dicom
from preprocessing.errors import UnusableFile
from preprocessing.preparation import Preparation, PreparedImage, prepare_frames, prepare_picture
from preprocessing.rasters import RASTER_SUFFIXES, exchanged, raster_picture
from preprocessing.rendering import Picture
from preprocessing.selection import SelectionPolicy, check_selected
from preprocessing.sources import SourceImage, source_bytes

ARRAY_SUFFIX = ".npy"  # of a store's images


@dataclass(frozen=True)
class ReadingSettings:
    """What every worker needs.

    Args:
        preparation: that of the images that the classifier was trained on.
        selection: which images are taken.
        views: the view positions that the classifier was trained on; None: all.
    """

    preparation: Preparation
    selection: SelectionPolicy
    views: tuple[str, ...] | None


@dataclass(frozen=True)
class ReadFile:
    """Outcome of one file.

    Args:
        reason: why it is left out, with `detail` for people; blank for a file that is taken.
        study_uid, sop_uid: of a DICOM file; `study_uid` also what a table says.
        view: position, `UNKNOWN` where nothing says it.
        flags: what is odd about the file (`header_facts.FLAGS`, `selection.FLAGS`).
        spacing: (row, column) distance of pixel centres in mm; 1 where unknown.
        frames: what the network sees; none of a file that is left out.
    """

    reason: str = ""
    detail: str = ""
    study_uid: str = ""
    sop_uid: str = ""
    view: str = "UNKNOWN"
    flags: tuple[str, ...] = ()
    spacing: tuple[float, float] = (1.0, 1.0)
    frames: tuple[PreparedImage, ...] = ()


def read_file(settings: ReadingSettings, source: SourceImage) -> ReadFile:
    """Read and prepare one file; or return the reason why not."""
    tune_process()
    known: dict[str, Any] = {}
    try:
        data = source_bytes(source)
        suffix = PurePath(source.member or source.path).suffix.lower()
        if suffix in RASTER_SUFFIXES or (source.row is not None and suffix == ARRAY_SUFFIX):
            return _read_picture(settings, source, suffix, data)
        dataset = parse_dicom(data)
        facts = image_facts(dataset)
        known = {"study_uid": facts.study_instance_uid, "sop_uid": facts.sop_instance_uid, "view": facts.view_position}
        return _read_dicom(settings, source, dataset, facts, known)
    except Exception as error:
        reason, detail = why_left_out(error)
        return ReadFile(reason, detail, **known)


def _read_picture(settings: ReadingSettings, source: SourceImage, suffix: str, data: bytes) -> ReadFile:
    row = source.row
    view = row.view if row else "UNKNOWN"
    _check_view(view, settings.views)
    picture = _stored_picture(data) if suffix == ARRAY_SUFFIX else raster_picture(data)
    picture = exchanged(picture) if row is not None and row.inverted else picture
    prepared = prepare_picture(picture, settings.preparation)
    return ReadFile(study_uid=row.study if row else "", view=view, flags=picture.flags, frames=(prepared,))


def _stored_picture(data: bytes) -> Picture:
    """An array of a store."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError):
        raise UnusableFile("truncated", "the array cannot be loaded") from None
    if array.ndim != 2 or array.dtype.kind != "u" or not array.size:
        raise UnusableFile("not_an_image", f"an array of {array.ndim} dimensions and type {array.dtype}")
    return Picture((array / np.float32(np.iinfo(array.dtype).max)).astype(np.float32), "store", ())


def _read_dicom(
    settings: ReadingSettings, source: SourceImage, dataset: Dataset, facts: ImageFacts, known: dict[str, Any]
) -> ReadFile:
    row = source.row
    if row is not None and row.view != "UNKNOWN":
        known["view"] = row.view
    selected = check_selected(dataset, facts, settings.selection, is_listed=row is not None)
    _check_view(known["view"], settings.views)
    check_size(facts, settings.preparation)
    return ReadFile(
        flags=tuple(sorted({*facts.flags, *selected})),
        spacing=facts.pixel_spacing or (facts.pixel_aspect, 1.0),
        frames=tuple(prepare_frames(dataset, facts, settings.preparation)),
        **known,
    )


def _check_view(view: str, taken: tuple[str, ...] | None) -> None:
    if taken is not None and view not in taken:
        raise UnusableFile("other_view", f"the view is {view}; the classifier was trained on {', '.join(taken)}")
