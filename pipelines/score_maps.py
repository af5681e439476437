"""Scores over a radiograph, as a picture for people and as a NIfTI that lies over the image in a viewer.

Shared by `ground`, whose scores are of sentences, and by the maps of predictions, whose scores are of labels.
"""

import gzip
import io
import textwrap
from dataclasses import dataclass
from typing import Any

import cv2
import matplotlib
import nibabel
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from preprocessing.geometry import Geometry

Box = tuple[float, float, float, float]

CAPTION = 240  # characters
SHOWN = 640  # pixels of the long side in the picture that is drawn
COLOURS = matplotlib.colormaps["autumn_r"]  # yellow to red: stands out from black, grey and white
OPACITY = 0.65  # of the highest score


@dataclass(frozen=True)
class Radiograph:
    """A picture and what the network sees of it.

    Args:
        picture: (rows, columns) in [0, 1].
        square: (size, size), the picture as the network takes it.
        geometry: how the picture lies in the square.
        affine: (4, 4) from (row, column) to millimetres (`preprocessing.readers.plane_affine`).
    """

    picture: NDArray[np.float32]
    square: NDArray[np.float32]
    geometry: Geometry
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Grounding:
    """Scores over a radiograph.

    Args:
        radiograph: what was looked at.
        scores: (h, w) over the square's regions: the critic's scores, or Grad-CAM's weights.
    """

    radiograph: Radiograph
    scores: NDArray[np.float32]

    def pixel_scores(self) -> NDArray[np.float32]:
        """Scores at the pixels of the picture itself, (rows, columns)."""
        geometry = self.radiograph.geometry
        rows = geometry.to_stored(np.column_stack([np.arange(geometry.rows), np.zeros(geometry.rows)]))[:, 0]
        columns = geometry.to_stored(np.column_stack([np.zeros(geometry.columns), np.arange(geometry.columns)]))[:, 1]
        return interpolated(self.scores, (rows + 0.5) / geometry.size, (columns + 0.5) / geometry.size)


def interpolated(
    scores: NDArray[np.floating[Any]], down: NDArray[np.float64], across: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Bilinear between the centres of regions, and level beyond the outermost.

    Args:
        scores: (h, w) over a square.
        down: (rows,) places as shares of the square's side, from its upper edge.
        across: (columns,) places from its left edge.

    Returns:
        (rows, columns).
    """
    lines = _between(np.asarray(scores, np.float32), down)  # (rows, w)
    return _between(lines.T, across).T


def _between(values: NDArray[np.float32], places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values (n, m) at equal distances -> (places, m), linear between the nearest two; equal ones stay exactly so."""
    last = len(values) - 1
    at = np.clip(places * len(values) - 0.5, 0, last)
    first = np.minimum(at.astype(np.intp), max(last - 1, 0))
    below, above = values[first], values[np.minimum(first + 1, last)]
    return np.asarray(below + (at - first)[:, None].astype(np.float32) * (above - below), np.float32)


def overlay(grounding: Grounding, sentence: str, boxes: list[Box]) -> bytes:
    """A PNG: the radiograph, and the radiograph with the scores over it, the clearer the higher.

    Args:
        grounding: what to draw.
        sentence: the caption.
        boxes: known true places as edges (row0, column0, row1, column1) in the picture's pixels, drawn as outlines.
    """
    rows, columns = grounding.radiograph.picture.shape
    row_mm, column_mm = np.linalg.norm(grounding.radiograph.affine[:3, :2], axis=0)
    shape = _shown_shape(rows * row_mm, columns * column_mm)
    picture, scores = (scaled(array, shape) for array in (grounding.radiograph.picture, grounding.pixel_scores()))
    scale = Normalize(*score_range(scores))
    height = 5.2 * shape[0] / shape[1] + 0.7  # inches; a panel is 5.2 wide
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(12, height), layout="constrained")
        plain, marked = figure.subplots(1, 2)
        for axes, shown in ((plain, picture), (marked, blended(0.9 * picture, np.asarray(scale(scores))))):
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
            axes.set_aspect(row_mm / column_mm)
            axes.set_axis_off()
        for row0, column0, row1, column1 in boxes:
            outline = Rectangle((column0, row0), column1 - column0, row1 - row0, fill=False, edgecolor="cyan", lw=1.2)
            marked.add_patch(outline)
        figure.colorbar(ScalarMappable(scale, _colours_over_grey()), ax=marked, label="score", shrink=0.8)
        figure.suptitle(textwrap.shorten(sentence, CAPTION, placeholder=" ..."), wrap=True, parse_math=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _shown_shape(tall: float, wide: float) -> tuple[int, int]:
    """Rows and columns on the screen of a picture of some millimetres; very long ones are cut short."""
    scale = SHOWN / max(tall, wide)
    return max(SHOWN // 4, round(tall * scale)), max(SHOWN // 4, round(wide * scale))


def scaled(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Area means where there are fewer rows (and columns) than before, else bilinear."""
    rows, columns = shape
    interpolation = cv2.INTER_AREA if rows < array.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(array, (columns, rows), interpolation=interpolation), np.float32)


def blended(picture: NDArray[np.floating[Any]], height: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Colours over a picture, (rows, columns, 3).

    Args:
        picture: (rows, columns) in [0, 1].
        height: (rows, columns), 0 for the lowest score, which leaves the picture bare, to 1 for the highest.
    """
    share = OPACITY * height[..., None] ** 2
    return np.asarray((1 - share) * picture[..., None] + share * COLOURS(height)[..., :3])


def _colours_over_grey() -> ListedColormap:
    """The colours as they are seen."""
    return ListedColormap(blended(np.full((256, 1), 0.45), np.linspace(0, 1, 256)[:, None])[:, 0])


def score_range(scores: NDArray[np.float32]) -> tuple[float, float]:
    """Lowest and highest score, a little apart where all are the same: nothing is highlighted then."""
    low, high = float(scores.min()), float(scores.max())
    return low, max(high, low + 1e-6)


def nifti(grounding: Grounding, description: str = "") -> bytes:
    """A gzipped NIfTI-1 of the scores (rows, columns), float32, in the place and with the spacing of the picture.

    Its header holds no text but the description, of at most 79 characters.
    """
    affine, scores = grounding.radiograph.affine, grounding.pixel_scores()
    image = nibabel.Nifti1Image(scores, affine)
    image.set_qform(affine, code="aligned")  # some viewers read this one, some the other
    image.set_sform(affine, code="aligned")
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description
    image.header["cal_min"], image.header["cal_max"] = score_range(scores)
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)  # no name and no time in it
