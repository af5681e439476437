"""Image -> array as the store holds it: `rendering`, `geometry` and rounding in one go, with what is recorded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from preprocessing.functional_groups import frame_header
from preprocessing.geometry import INTERPOLATIONS, Area, Geometry, fit_square
from preprocessing.header_facts import ImageFacts
from preprocessing.pixel_data import stored_frames
from preprocessing.rendering import GreyTable, Picture, exposed_area, grey_table

__all__ = ["FLAGS", "INTERPOLATIONS", "Preparation", "PreparedImage", "prepare_frames", "prepare_picture"]

FLAGS: dict[str, str] = {
    "cropped": "what lies outside the declared shutter or collimator was cut off",
    "reduced_resolution": "the codestream was decoded at a lower resolution, before the contrast and not after it",
}
"""Flags that `prepare_frames` may set, and what each one means."""


@dataclass(frozen=True)
class Preparation:
    """How an image becomes an array; see `configuration.IngestConfiguration` for what each one is."""

    preset: str
    size: int
    bit_depth: int
    interpolation: str
    crop: bool
    reduced_resolution: bool


@dataclass(frozen=True)
class PreparedImage:
    """One frame as the store holds it.

    Args:
        array: (size, size) uint8 or uint16 of the full range, air dark and bone bright.
        geometry: how the original lies in it.
        voi: see `rendering.Picture`.
        decoder: see `pixel_data.StoredFrame`; of a PNG or JPEG "opencv imdecode".
        flags: codes of `rendering.FLAGS` and of `FLAGS`, sorted.
        mean, deviation: of the picture in [0, 1] before it was scaled.
        clipped: share of its pixels that are 0 or 1.
    """

    array: NDArray[np.unsignedinteger[Any]]
    geometry: Geometry
    voi: str
    decoder: str
    flags: tuple[str, ...]
    mean: float
    deviation: float
    clipped: float


def prepare_frames(dataset: Dataset, facts: ImageFacts, preparation: Preparation) -> Iterator[PreparedImage]:
    """Decode, render, scale and round each frame of a DICOM image.

    Args:
        dataset: as `read_dicom` returns it.
        facts: of the same image.
        preparation: what to do.

    Raises:
        UnusableFile: the pixels cannot be decoded.
    """
    halvings = _halvings(dataset, facts, preparation)
    for index, stored in enumerate(stored_frames(dataset, halvings)):
        header = frame_header(dataset, index)
        table = grey_table(header, stored.values, preparation.preset)
        area = _exposed_part(header, facts) if preparation.crop else None
        flags = {*table.flags, *(["cropped"] if area else []), *(["reduced_resolution"] if stored.halvings else [])}
        square, geometry = _fitted(table.pixels(), facts, preparation, stored.halvings, area)
        yield PreparedImage(
            _rounded(square, preparation.bit_depth),
            geometry,
            table.voi,
            stored.decoder,
            tuple(sorted(flags)),
            *_statistics(table),
        )


def prepare_picture(picture: Picture, preparation: Preparation) -> PreparedImage:
    """Scale and round a picture that is rendered already, as PNG and JPEG files are."""
    pixels = picture.pixels
    square, geometry = fit_square(pixels, preparation.size, interpolation=preparation.interpolation)
    return PreparedImage(
        _rounded(square, preparation.bit_depth),
        geometry,
        picture.voi,
        "opencv imdecode",
        picture.flags,
        float(pixels.mean(dtype=np.float64)),
        float(pixels.std(dtype=np.float64)),
        float(np.mean((pixels <= 0) | (pixels >= 1))),
    )


def _halvings(dataset: Dataset, facts: ImageFacts, preparation: Preparation) -> int:
    """Return how often the resolution may be halved so that the stored array has to shrink the rest of the way.

    Never where single values have a meaning of their own (padding), or places have (shutters).
    """
    if not preparation.reduced_resolution or "shutter" in facts.flags or "PixelPaddingValue" in dataset:
        return 0
    longest = max(facts.rows * facts.pixel_aspect, facts.columns)
    return max(0, int(np.floor(np.log2(max(longest, 1) / preparation.size))))


def _exposed_part(header: Dataset, facts: ImageFacts) -> Area | None:
    rows, columns = facts.rows, facts.columns
    area = exposed_area(header, rows, columns)
    return None if area == (slice(0, rows), slice(0, columns)) else area


def _fitted(
    pixels: NDArray[np.float32], facts: ImageFacts, preparation: Preparation, halvings: int, area: Area | None
) -> tuple[NDArray[np.float32], Geometry]:
    whole = (facts.rows, facts.columns)
    if halvings:
        pixels = _centred(pixels, whole, halvings)
    square, fitted = fit_square(
        pixels, preparation.size, facts.pixel_aspect, interpolation=preparation.interpolation, area=area
    )
    return square, replace(
        fitted,
        rows=whole[0],
        columns=whole[1],
        scale_rows=fitted.scale_rows * pixels.shape[0] / whole[0],
        scale_columns=fitted.scale_columns * pixels.shape[1] / whole[1],
    )


def _centred(pixels: NDArray[np.float32], whole: tuple[int, int], halvings: int) -> NDArray[np.float32]:
    """Move a picture of lower resolution to where means of its pixels would lie.

    Wavelets keep what lies at every second place: value [i, j] belongs at [i, j] * step of the whole picture, and the
    mean of step by step pixels at ([i, j] + 0.5) * step - 0.5.
    """
    step = 1 << halvings
    rows, columns = max(1, round(whole[0] / step)), max(1, round(whole[1] / step))
    scales = np.array([whole[1] / columns, whole[0] / rows]) / step
    places = np.column_stack([np.diag(scales), scales / 2 - 0.5 / step])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(pixels, places, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)


def _rounded(square: NDArray[np.float32], bit_depth: int) -> NDArray[np.unsignedinteger[Any]]:
    most, dtype = (65535, np.uint16) if bit_depth == 16 else (255, np.uint8)
    rounded: NDArray[np.unsignedinteger[Any]] = np.rint(square * np.float32(most)).astype(dtype)
    return rounded


def _statistics(table: GreyTable) -> tuple[float, float, float]:
    """Return mean, standard deviation and share of zeros and ones of a picture, from the counts of its values."""
    greys, counts = table.greys, table.counts
    pixels = counts.sum()
    # Not as products of vectors, for which NumPy's BLAS starts threads that stand in the way of other workers.
    mean = float(np.sum(counts * greys) / pixels)
    deviation = float(np.sqrt(np.sum(counts * (greys - mean) ** 2) / pixels))
    return mean, deviation, float(counts[(greys <= 0) | (greys >= 1)].sum() / pixels)
