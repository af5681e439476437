"""Picture -> square array of the network's size, and the way back for points; the last step of `rendering`."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import sparse

Pixels = NDArray[np.float32]
Area = tuple[slice, slice]

INTERPOLATIONS = ("area", "bilinear", "bicubic", "lanczos")
"""Ways to scale. `area` is the mean of all that falls into a pixel, and linear where a picture grows; the others are
Pillow's, which widens its filters where a picture shrinks, so that none of them leaves a pixel out."""


@dataclass(frozen=True)
class Geometry:
    """How an original picture lies in its square array.

    Points are (row, column) with integers at pixel centres, so that a picture's upper left corner is (-0.5, -0.5).

    Args:
        rows: height of the original in pixels.
        columns: width of the original in pixels.
        size: side of the square in pixels.
        scale_rows: pixels of the square to one row of the original.
        scale_columns: pixels of the square to one column of the original.
        offset_rows: rows of the square above the original; negative where its first rows were cut off.
        offset_columns: columns of the square left of the original; negative where its first columns were cut off.
    """

    rows: int
    columns: int
    size: int
    scale_rows: float
    scale_columns: float
    offset_rows: float
    offset_columns: float

    def to_stored(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Take points (N, 2) of the original to the square."""
        return (np.asarray(points, np.float64) + 0.5) * self._scale + self._offset - 0.5

    def to_original(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Take points (N, 2) of the square to the original."""
        return (np.asarray(points, np.float64) + 0.5 - self._offset) / self._scale - 0.5

    @property
    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scale_rows, self.scale_columns])

    @property
    def _offset(self) -> NDArray[np.float64]:
        return np.array([self.offset_rows, self.offset_columns])


def fit_square(
    pixels: Pixels, size: int, pixel_aspect: float = 1.0, *, interpolation: str = "area", area: Area | None = None
) -> tuple[Pixels, Geometry]:
    """Scale a picture so that its long side is `size` and centre it on a black square.

    Args:
        pixels: (rows, columns) in [0, 1].
        size: side of the square in pixels.
        pixel_aspect: height of a pixel over its width; the result has square pixels.
        interpolation: one of `INTERPOLATIONS`.
        area: rows and columns to cut out first; all where `None`.

    Returns:
        The square (size, size) in [0, 1], and how all of the picture lies in it.
    """
    rows, columns = pixels.shape
    first_row, first_column = (area[0].start, area[1].start) if area else (0, 0)
    part = pixels[area] if area else pixels
    scale = size / max(part.shape[0] * pixel_aspect, part.shape[1])
    height = min(size, max(1, round(part.shape[0] * pixel_aspect * scale)))
    width = min(size, max(1, round(part.shape[1] * scale)))
    top, left = (size - height) // 2, (size - width) // 2
    square = np.zeros((size, size), np.float32)
    square[top : top + height, left : left + width] = _resized(part, height, width, interpolation)
    scale_rows, scale_columns = height / part.shape[0], width / part.shape[1]
    offset_rows, offset_columns = top - first_row * scale_rows, left - first_column * scale_columns
    return square, Geometry(rows, columns, size, scale_rows, scale_columns, offset_rows, offset_columns)


def _resized(pixels: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    if interpolation != "area":
        resampling = Image.Resampling[interpolation.upper()]
        resized = np.asarray(Image.fromarray(pixels).resize((width, height), resampling))
        return np.asarray(np.clip(resized, 0, 1))  # filters with negative weights overshoot at edges
    rows, columns = (_weights(*sides) for sides in zip(pixels.shape, (height, width), strict=True))
    # As products with sparse matrices: exact, and several times as fast as OpenCV's area mode, which for sides that do
    # not divide works pixel by pixel. Rows first, since whole rows are added then.
    return np.ascontiguousarray((columns @ np.ascontiguousarray((rows @ pixels).T)).T)


@lru_cache(maxsize=64)
def _weights(before: int, after: int) -> sparse.csr_array:
    """Return the share (after, before) that each old pixel along an axis has in each new one; rows add up to 1.

    The part of the new pixel that it covers where the axis shrinks, linear between its neighbours where it grows.
    """
    if after > before:
        places = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
        first = np.minimum(places.astype(np.intp), before - 2) if before > 1 else np.zeros(after, np.intp)
        old = np.column_stack([first, np.minimum(first + 1, before - 1)]).ravel()
        shares = np.column_stack([1 - (places - first), places - first]).ravel()
        new = np.repeat(np.arange(after), 2)
    else:
        # Whole numbers, in units of 1 / after of an old pixel: no rounding decides what is covered.
        starts, ends = np.arange(after) * before, (np.arange(after) + 1) * before
        counts = -(-ends // after) - starts // after
        new = np.repeat(np.arange(after), counts)
        old = np.arange(len(new)) - np.repeat(np.cumsum(counts) - counts, counts) + starts[new] // after
        shares = (np.minimum(ends[new], (old + 1) * after) - np.maximum(starts[new], old * after)) / before
    return sparse.csr_array((shares.astype(np.float32), (new, old)), shape=(after, before))
