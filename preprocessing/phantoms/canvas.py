"""Drawing in millimetres of patient on a detector's pixels: the ground floor of the phantom generator (see `phantoms`).

Patient coordinates of a frontal view: x grows to the patient's left (right in the picture, as a film is hung), y grows
to the feet, and the origin is the carina. Of a lateral view: x grows to the patient's back.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Layer = NDArray[np.float32]
Points = NDArray[np.float64]
Box = tuple[int, int, int, int]
Table = tuple[Points, Points]
Curve = Points | Sequence[tuple[float, float]]

_SHIFT = 4  # OpenCV's fixed-point drawing: sixteenths of a pixel


def random_stream(seed: int, name: str, index: int) -> np.random.Generator:
    """Random numbers of one purpose of one study, independent of every other purpose and study."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), index])


@dataclass(frozen=True)
class Frame:
    """The detector over the patient.

    Args:
        rows, columns: of the picture, in pixels.
        pixels_per_mm: of the patient's anatomy, which is drawn for a body of standard size.
        origin: (x, y) of the patient's origin, in pixels from the centre of the upper left pixel.
        rotation: of the patient in the picture's plane, radians.
    """

    rows: int
    columns: int
    pixels_per_mm: float
    origin: tuple[float, float]
    rotation: float

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.rows, self.columns

    @cached_property
    def grid(self) -> tuple[Layer, Layer]:
        """Patient coordinates x and y of every pixel, mm, each (rows, columns)."""
        cos, sin = np.cos(self.rotation) / self.pixels_per_mm, np.sin(self.rotation) / self.pixels_per_mm
        column = (np.arange(self.columns, dtype=np.float32) - np.float32(self.origin[0]))[None]
        row = (np.arange(self.rows, dtype=np.float32) - np.float32(self.origin[1]))[:, None]
        return np.float32(cos) * column + np.float32(sin) * row, np.float32(cos) * row - np.float32(sin) * column

    def pixels(self, points: ArrayLike) -> Points:
        """Patient points (..., 2) as x, y in mm -> picture points (..., 2) as column, row."""
        cos, sin = np.cos(self.rotation) * self.pixels_per_mm, np.sin(self.rotation) * self.pixels_per_mm
        turned = np.asarray(points, float) @ np.array([[cos, sin], [-sin, cos]])
        return np.asarray(turned + np.array(self.origin), np.float64)

    def blur(self, layer: Layer, mm: float) -> Layer:
        """Gaussian blur with a standard deviation in mm; wide ones are made on a coarser picture, for speed."""
        sigma = mm * self.pixels_per_mm
        if sigma < 0.15:
            return layer
        step = int(sigma // 4)
        if step < 2:
            return np.asarray(cv2.GaussianBlur(layer, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))
        coarse = cv2.resize(layer, (-(-self.columns // step), -(-self.rows // step)), interpolation=cv2.INTER_AREA)
        coarse = cv2.GaussianBlur(coarse, (0, 0), sigma / step, borderType=cv2.BORDER_REPLICATE)
        return np.asarray(cv2.resize(coarse, (self.columns, self.rows), interpolation=cv2.INTER_LINEAR))

    def fill(self, *polygons: Curve) -> Layer:
        """Anti-aliased union of closed polygons (N, 2) in mm: (rows, columns) from 0 to 1."""
        return self.fill_levels([(polygon, 1.0) for polygon in polygons])

    def fill_levels(self, polygons: Sequence[tuple[Curve, float]]) -> Layer:
        """Polygons (N, 2) in mm painted one over the other, each with its level from 0 to 1: (rows, columns)."""
        canvas = np.zeros(self.shape, np.uint8)
        outlines = self._fixed([polygon for polygon, _ in polygons])
        for outline, (_, level) in zip(outlines, polygons, strict=True):
            cv2.fillPoly(canvas, [outline], round(255 * level), cv2.LINE_AA, _SHIFT)
        return canvas.astype(np.float32) * np.float32(1 / 255)

    def strokes(self, groups: Sequence[tuple[Sequence[Curve] | Points, float, float]]) -> Layer:
        """Open curves, painted group by group: (rows, columns) from 0 to 1.

        Each group is (curves (N, 2), width in mm, level from 0 to 1). A curve thinner than a pixel is drawn one pixel
        wide and fainter in proportion, so that what it absorbs does not depend on the size of the picture.
        """
        canvas = np.zeros(self.shape, np.uint8)
        for curves, width_mm, level in groups:
            width = width_mm * self.pixels_per_mm
            ink = round(255 * level * min(1.0, width))
            cv2.polylines(canvas, self._fixed(curves), False, ink, max(1, round(width)), cv2.LINE_AA, _SHIFT)
        return canvas.astype(np.float32) * np.float32(1 / 255)

    def texture(self, random: np.random.Generator, mm: float) -> Layer:
        """Smooth noise with unit variance and a grain of about `mm`: (rows, columns); the same at every size."""
        x, y = self.grid
        period = 520.0  # wider than any field
        count = round(period / mm)
        values = random.standard_normal((count, count), dtype=np.float32)
        values = cv2.GaussianBlur(values, (0, 0), 0.8, borderType=cv2.BORDER_REFLECT)
        values /= values.std()
        scale = np.float32(count / period)
        return np.asarray(
            cv2.remap(values, (x + 260) * scale, (y + 250) * scale, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        )

    def box(self, mask: NDArray[np.bool_]) -> Box | None:
        """Tightest (row0, col0, row1, col1), end exclusive, around a mask; None around an empty one."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return None
        return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1

    def box_of_points(self, points: ArrayLike, margin_mm: float) -> Box | None:
        """Box around points in mm and a margin, cut to the picture; None when nothing of it is in the picture."""
        corners, margin = self.pixels(points).reshape(-1, 2), margin_mm * self.pixels_per_mm
        column0, row0 = np.maximum(np.floor(corners.min(axis=0) - margin), 0).astype(int)
        column1, row1 = np.ceil(corners.max(axis=0) + margin).astype(int) + 1
        column1, row1 = min(int(column1), self.columns), min(int(row1), self.rows)
        return (int(row0), int(column0), row1, column1) if row1 > row0 and column1 > column0 else None

    def _fixed(self, curves: Sequence[Curve] | Points) -> list[NDArray[np.int32]]:
        """Curves in mm -> OpenCV's fixed-point coordinates, all at once, since one by one is slow."""
        if isinstance(curves, np.ndarray):
            return list(np.rint(self.pixels(curves) * (1 << _SHIFT)).astype(np.int32))
        lengths = [len(curve) for curve in curves]
        points = np.rint(self.pixels(np.concatenate(list(curves))) * (1 << _SHIFT)).astype(np.int32)
        ends = np.cumsum(lengths)
        return [points[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def spline(points: ArrayLike, samples: int = 8, *, closed: bool) -> Points:
    """Catmull-Rom curve through points (N, 2); a point given twice in a row makes a corner."""
    knots = np.asarray(points, float)
    padded = (
        np.concatenate([knots[-1:], knots, knots[:2]]) if closed else np.concatenate([knots[:1], knots, knots[-1:]])
    )
    p0, p1, p2, p3 = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = (np.arange(samples) / samples)[None, :, None]
    curve = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, knots[-1:]])


def ribbon(centre: Points, width: ArrayLike) -> Points:
    """Closed outline (..., 2N, 2) of bands along curves (..., N, 2); one width for all points or (N,) for each."""
    tangent = np.empty_like(centre)  # as numpy.gradient has it, but that is slow
    tangent[..., 1:-1, :] = centre[..., 2:, :] - centre[..., :-2, :]
    tangent[..., 0, :] = centre[..., 1, :] - centre[..., 0, :]
    tangent[..., -1, :] = centre[..., -1, :] - centre[..., -2, :]
    tangent /= np.maximum(np.hypot(tangent[..., :1], tangent[..., 1:]), 1e-9)
    half = np.broadcast_to(np.asarray(width, float), centre.shape[-2])[:, None] / 2
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1) * half
    return np.concatenate([centre + normal, (centre - normal)[..., ::-1, :]], axis=-2)


def ellipsoid(frame: Frame, centre: tuple[float, float], axes: tuple[float, float], turn: float) -> Layer:
    """Thickness profile of an ellipsoid, 0 outside to 1 in the middle: (rows, columns).

    Args:
        frame: the detector.
        centre: (x, y) in mm.
        axes: half axes in mm, before the turn along x and y.
        turn: radians, from x towards y.
    """
    column, row = frame.pixels(centre)
    reach = max(axes) * frame.pixels_per_mm + 1
    rows = slice(max(0, int(row - reach)), max(0, int(row + reach) + 2))
    columns = slice(max(0, int(column - reach)), max(0, int(column + reach) + 2))
    x, y = (axis[rows, columns] for axis in frame.grid)
    x, y = x - np.float32(centre[0]), y - np.float32(centre[1])
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along, across = (cos * x + sin * y) / np.float32(axes[0]), (cos * y - sin * x) / np.float32(axes[1])
    profile = np.zeros(frame.shape, np.float32)
    profile[rows, columns] = np.sqrt(np.maximum(1 - along * along - across * across, 0))
    return profile


def smooth_step(values: Layer, low: float, high: float) -> Layer:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def piecewise(values: Layer, at: ArrayLike, to: ArrayLike) -> Layer:
    """Piecewise linear function of every pixel's value: `at` (N,) rising, `to` (N,)."""
    return np.asarray(np.interp(values, np.asarray(at, float), np.asarray(to, float)), np.float32)
