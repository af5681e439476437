"""Pictures -> one sheet to look at: the end of ingest and of the phantom generator, since people would rather look."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.files import write_atomically
from preprocessing.geometry import fit_square

CAPTION_HEIGHT = 16
"""Pixels under each picture."""

FONT = cv2.FONT_HERSHEY_SIMPLEX
FONT_SCALE = 0.38


def contact_sheet(
    pictures: Sequence[NDArray[np.floating[Any]]], captions: Sequence[str], columns: int, tile: int
) -> NDArray[np.uint8]:
    """Lay pictures out in rows, each fitted to a square with its caption below.

    Args:
        pictures: arrays (rows, columns) in [0, 1], of any sizes.
        captions: one a picture; cut where they are wider than the tile; what is not ASCII becomes "?".
        columns: pictures side by side.
        tile: side of a picture's square in pixels.

    Returns:
        The sheet (lines * (tile + CAPTION_HEIGHT), columns * tile), at least one line high.

    Raises:
        ValueError: not as many captions as pictures.
    """
    lines = max(1, -(-len(pictures) // columns))
    height = tile + CAPTION_HEIGHT
    sheet = np.zeros((lines * height, columns * tile), np.uint8)
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        top, left = place // columns * height, place % columns * tile
        square, _ = fit_square(np.asarray(picture, np.float32), tile)
        sheet[top : top + tile, left : left + tile] = np.rint(np.clip(square, 0, 1) * 255)
        sheet[top + tile : top + height, left : left + tile] = _caption(caption, tile)
    return sheet


def write_png(path: Path, array: NDArray[np.unsignedinteger[Any]]) -> None:
    """Write an 8 or 16-bit array as PNG: never half a file."""
    _, encoded = cv2.imencode(".png", array)
    write_atomically(path, encoded.tobytes())


def _caption(caption: str, width: int) -> NDArray[np.uint8]:
    text = caption.encode("ascii", "replace").decode()
    while text and cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0][0] > width - 4:
        text = text[:-1]
    strip = np.zeros((CAPTION_HEIGHT, width), np.uint8)
    cv2.putText(strip, text, (2, CAPTION_HEIGHT - 5), FONT, FONT_SCALE, 255, 1, cv2.LINE_AA)
    return strip
