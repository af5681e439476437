"""Colour pixels -> grey: secondary captures are converted so that they can be looked at; `image_facts` flags them."""

import numpy as np
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut

from preprocessing.codestreams import Array
from preprocessing.errors import UnusableFile
from preprocessing.header_values import text

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue (ITU-R BT.601, the Y of PS3.3 C.7.6.3.1.2's YBR_FULL)."""


def is_colour(dataset: Dataset, samples: int) -> bool:
    """Tell whether pixels are colours, by number of samples or as indices into a palette."""
    return samples == 3 or text(dataset, "PhotometricInterpretation") == "PALETTE COLOR"


def to_grey(dataset: Dataset, decoded: Array, *, converted: bool) -> Array:
    """Return the luminance of one decoded frame, in the depth of the colours.

    Args:
        dataset: for the photometric interpretation and the palette.
        decoded: (rows, columns, 3), or (rows, columns) indices into the palette.
        converted: whether the decoder has already turned YBR to RGB.

    Raises:
        UnusableFile: the palette is absent or malformed.
    """
    if decoded.ndim == 2:
        decoded = _from_palette(dataset, decoded)
    if text(dataset, "PhotometricInterpretation") == "YBR_FULL" and not converted:
        return np.ascontiguousarray(decoded[..., 0])
    luminance: Array = np.rint(decoded[..., :3] @ LUMA).astype(decoded.dtype)
    return luminance


def _from_palette(dataset: Dataset, indices: Array) -> Array:
    try:
        return np.asarray(apply_color_lut(indices, dataset))
    except MemoryError:
        raise
    except Exception as error:
        raise UnusableFile("decode_failed", f"the palette cannot be applied ({type(error).__name__})") from None
