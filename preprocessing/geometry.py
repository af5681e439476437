"""Picture -> square array of the network's size, and the way back for points; the last step of `rendering`."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


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
        offset_rows: empty rows above the picture in the square.
        offset_columns: empty columns left of the picture in the square.
    """

    rows: int
    columns: int
    size: int
    scale_rows: float
    scale_columns: float
    offset_rows: int
    offset_columns: int

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
        return np.array([self.offset_rows, self.offset_columns], np.float64)


def fit_square(
    pixels: NDArray[np.float32], size: int, pixel_aspect: float = 1.0
) -> tuple[NDArray[np.float32], Geometry]:
    """Scale a picture so that its long side is `size` and centre it on a black square.

    Area interpolation where it shrinks, which averages every pixel; linear where it grows.

    Args:
        pixels: (rows, columns) in [0, 1].
        size: side of the square in pixels.
        pixel_aspect: height of a pixel over its width; the result has square pixels.

    Returns:
        The square (size, size) float32 in [0, 1], and its geometry.
    """
    rows, columns = pixels.shape
    scale = size / max(rows * pixel_aspect, columns)
    height = min(size, max(1, round(rows * pixel_aspect * scale)))
    width = min(size, max(1, round(columns * scale)))
    top, left = (size - height) // 2, (size - width) // 2
    square = np.zeros((size, size), np.float32)
    square[top : top + height, left : left + width] = _resized(pixels, height, width)
    return square, Geometry(rows, columns, size, height / rows, width / columns, top, left)


def _resized(pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    rows, columns = pixels.shape
    if (height < rows) == (width < columns):
        return _scaled(pixels, height, width, shrinks=height < rows)
    # Thin pixels: one side shrinks and the other grows, and OpenCV's area mode would then fall back to linear.
    shrunk = _scaled(pixels, min(height, rows), min(width, columns), shrinks=True)
    return _scaled(shrunk, height, width, shrinks=False)


def _scaled(pixels: NDArray[np.float32], height: int, width: int, *, shrinks: bool) -> NDArray[np.float32]:
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scaled: NDArray[np.float32] = cv2.resize(pixels, (width, height), interpolation=interpolation)
    return scaled
