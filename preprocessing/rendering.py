"""Stored values -> picture in [0, 1], air dark and bone bright: the order of work of PS3.3 C.7.6.3, C.11.1, C.11.2.

The whole chain (modality LUT, VOI, polarity, padding) is evaluated once over every value that a pixel can store, in
float64, and pixels are then looked up in that one table: exact, and fast because no chain of images is made.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from preprocessing.geometry import Geometry, fit_square
from preprocessing.header_values import caught_warnings, integer, signed_word, text
from preprocessing.lookup import Values, modality_transform, voi_lookup, voi_window
from preprocessing.raw_intensity import attenuation, is_raw

__all__ = ["PRESETS", "Geometry", "GreyTable", "Picture", "fit_square", "grey_table", "render"]

PRESETS = ("voi", "percentile", "mimic-jpg")
"""Names of the ways to render, stored with data and weights alike.

`voi`: the header's VOI LUT or window, else `percentile`. `percentile`: the header's VOI is not looked at.
`mimic-jpg`: as MIMIC-CXR-JPG was made (Johnson et al. 2019, arXiv:1901.07042): min-max to 8 bits, inversion of
MONOCHROME1, histogram equalisation.
"""

PERCENTILES = (0.5, 99.5)
"""Of the modality values inside the unpadded, uncollimated area: what is black and what is white without a VOI."""


@dataclass(frozen=True)
class Picture:
    """A rendered frame.

    Args:
        pixels: (rows, columns) float32 in [0, 1], air dark and bone bright.
        voi: what chose the contrast: "lut", "window_linear", "window_linear_exact", "window_sigmoid", "percentile" or
            "equalised".
        flags: codes of `preprocessing.rendering.FLAGS`, sorted.
    """

    pixels: NDArray[np.float32]
    voi: str
    flags: tuple[str, ...]


FLAGS: dict[str, str] = {
    "modality_lut_malformed": "the modality LUT cannot be used; slope and intercept were taken",
    "rescale_malformed": "slope or intercept is blank, which counts for none; or it is no number or slope is zero, and "
    "stored values were taken as they are",
    "lut_malformed": "the VOI LUT cannot be used; the window or percentiles were taken",
    "lut_depth": "the VOI LUT's entries are deeper than its descriptor says; their true depth was taken",
    "window_malformed": "a window is empty, no number or too narrow; the next good one or percentiles were taken",
    "voi_function_unknown": "VOILUTFunction is none of the standard's; LINEAR was taken",
    "voi_first_of_several": "the first of several LUTs or windows was taken",
    "no_voi": "the header has no usable VOI; percentiles were taken",
    "padding": "padding was found and made background",
    "constant": "all pixels that are not padding store one value",
    "flat": "the VOI maps all pixels to one grey",
    "raw_converted": "raw detector values (FOR PROCESSING) were turned to attenuation: see `raw_intensity`",
}
"""Flags that `render` may set, and what each one means."""


@dataclass(frozen=True)
class GreyTable:
    """The whole chain as one table, and pixels as indices into it.

    Args:
        greys: (n,) in [0, 1], of all values that a pixel can store.
        counts: (n,) pixels that have each, padding among them.
        index: (rows, columns) integers below n.
        voi, flags: see `Picture`.
    """

    greys: NDArray[np.float64]
    counts: NDArray[np.float64]
    index: NDArray[np.integer[Any]]
    voi: str
    flags: tuple[str, ...]

    def pixels(self) -> NDArray[np.float32]:
        """Return the picture (rows, columns) in [0, 1]."""
        return _look_up(self.greys.astype(np.float32), self.index)


def render(dataset: Dataset, stored: NDArray[np.integer[Any]], preset: str) -> Picture:
    """Render one frame in the order of work of the standard.

    Args:
        dataset: header of the image.
        stored: (rows, columns) stored values, as one frame of `stored_values`.
        preset: one of `PRESETS`.

    Returns:
        The picture; padding is 0.

    Raises:
        ValueError: the preset is not one of `PRESETS`.
    """
    table = grey_table(dataset, stored, preset)
    return Picture(table.pixels(), table.voi, table.flags)


def grey_table(dataset: Dataset, stored: NDArray[np.integer[Any]], preset: str) -> GreyTable:
    """Do all the work of `render` but for the last step, which looks every pixel up."""
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")
    domain, index = _domain(stored)
    counts = _counts(index, len(domain))
    with caught_warnings():
        padding = padding_mask(dataset, domain)
        unpadded = np.where(padding, 0, counts)
        flags = {"padding"} if counts[padding].any() else set()
        if preset == "mimic-jpg":
            greys, voi, found = _as_mimic_jpg(dataset, domain, unpadded)
        else:
            exposed = _exposed_counts(dataset, index, padding, unpadded)
            greys, voi, found = _by_header(dataset, domain, exposed, use_voi=preset == "voi")
    greys[padding] = 0
    flags |= found | _greys_flags(greys[unpadded > 0])
    return GreyTable(greys, counts, index, voi, tuple(sorted(flags)))


def _by_header(
    dataset: Dataset, domain: NDArray[np.integer[Any]], counts: Values, *, use_voi: bool
) -> tuple[Values, str, set[str]]:
    """Return the greys of all values, what chose the contrast, and flags."""
    values, flags = _modality_values(dataset, domain)
    if is_raw(dataset):  # no VOI and no polarity either: both are of pictures
        return stretched(attenuation(dataset, values), counts), "percentile", flags | {"raw_converted"}
    negative = bool(_modality_values(dataset, _limits(domain.dtype))[0].min() < 0)
    greys, voi, voi_flags = _contrast(dataset, values, counts, use_header=use_voi, negative=negative)
    if _is_inverted(dataset):  # last and once: PresentationLUTShape INVERSE says the same thing again
        greys = 1 - greys
    return greys, voi, flags | voi_flags


def _as_mimic_jpg(dataset: Dataset, domain: NDArray[np.integer[Any]], counts: Values) -> tuple[Values, str, set[str]]:
    if is_raw(dataset):
        values = attenuation(dataset, domain.astype(np.float64))
        return equalised(values, counts, inverted=False), "equalised", {"raw_converted"}
    return equalised(domain, counts, inverted=_is_inverted(dataset)), "equalised", set()


def _is_inverted(dataset: Dataset) -> bool:
    return text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1"


def padding_mask(dataset: Dataset, domain: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Tell which stored values stand for padding: PixelPaddingValue to PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2)."""
    signed, bits = domain.dtype.kind == "i", domain.dtype.itemsize * 8
    ends = [integer(dataset, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return np.zeros(domain.shape, np.bool_)
    # Words of 16 bits with the sign of the pixels, whatever their own: but no narrower, as headers outlive a conversion
    # to 8 bits, in which a padding of 4095 must not become one of 255.
    limits = [signed_word(end, signed=signed, bits=max(16, bits)) for end in ends if end is not None]
    domain = domain.astype(np.int64)
    return (domain >= min(limits)) & (domain <= max(limits))


def exposed_area(dataset: Dataset, rows: int, columns: int) -> tuple[slice, slice]:
    """Return the area inside a rectangular shutter or collimator (PS3.3 C.7.6.11, C.8.7.3), all if there is none."""
    area = (slice(0, rows), slice(0, columns))
    for device in ("Collimator", "Shutter"):
        if "RECTANGULAR" not in text(dataset, f"{device}Shape").upper():
            continue
        edges = ("UpperHorizontalEdge", "LowerHorizontalEdge", "LeftVerticalEdge", "RightVerticalEdge")
        top, bottom, left, right = (integer(dataset, device + edge) or 0 for edge in edges)
        if 1 <= top < bottom <= rows and 1 <= left < right <= columns:
            area = (slice(top - 1, bottom), slice(left - 1, right))
    return area


def stretched(values: Values, counts: Values) -> Values:
    """Map values so that the lower of `PERCENTILES` is 0 and the upper 1; all 0 where there is one value alone.

    Args:
        values: (n,) modality values.
        counts: (n,) pixels that have each value and belong to the statistic.
    """
    occupied = np.flatnonzero(counts)
    order = occupied[np.argsort(values[occupied], kind="stable")]
    if not order.size:
        return np.zeros_like(values)
    ranks = np.cumsum(counts[order])
    low, high = (values[order[np.searchsorted(ranks, ranks[-1] * share / 100)]] for share in PERCENTILES)
    if low == high:  # nearly all pixels are one value: the extremes are what is left to go by
        low, high = values[order[0]], values[order[-1]]
    return np.clip((values - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(values)


def equalised(values: NDArray[Any], counts: Values, *, inverted: bool) -> Values:
    """Map values as MIMIC-CXR-JPG does: to 8 bits from the least to the greatest, inverted, equalised.

    Truncated to integers as there; the equalisation is OpenCV's `equalizeHist`, computed from the histogram.
    """
    present = values[counts > 0].astype(np.float64)
    least, greatest = (present.min(), present.max()) if present.size else (0.0, 0.0)
    spread = greatest - least or 1.0
    levels = np.clip((values - least) / spread * 255, 0, 255).astype(np.intp)
    if inverted:
        levels = 255 - levels
    histogram = np.bincount(levels, counts, 256)
    lowest = int(np.argmax(histogram > 0))
    above = histogram.sum() - histogram[lowest]
    if above == 0:
        return np.asarray(levels / 255)
    sums = np.cumsum(histogram) - histogram[: lowest + 1].sum()
    return np.asarray(np.clip(np.rint(sums * (255 / above)), 0, 255)[levels] / 255)


def _modality_values(dataset: Dataset, stored: NDArray[np.integer[Any]]) -> tuple[Values, set[str]]:
    return modality_transform(dataset, stored.astype(np.float64), signed=stored.dtype.kind == "i")


def _limits(dtype: np.dtype[Any]) -> NDArray[np.integer[Any]]:
    return np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)


def _contrast(
    dataset: Dataset, values: Values, counts: Values, *, use_header: bool, negative: bool
) -> tuple[Values, str, set[str]]:
    """Return the greys of all values before polarity, what chose them, and flags. A LUT goes before a window.

    `negative`: whether modality values below zero can be, occur or not: that decides how a LUT was written.
    """
    flags: set[str] = set()
    if use_header:
        table, flags = voi_lookup(dataset, negative_input=negative)
        if table:
            return table(values) / ((1 << table.bits) - 1), "lut", flags
        window, window_flags = voi_window(dataset)
        flags |= window_flags
        if window:
            return window(values), f"window_{window.function.lower()}", flags
        flags.add("no_voi")
    return stretched(values, counts), "percentile", flags


def _domain(stored: NDArray[np.integer[Any]]) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    """Return all values that pixels can store, and pixels as indices into them (the bits of 8 and 16-bit words)."""
    bits = stored.dtype.itemsize * 8
    if bits > 16:
        domain, index = np.unique(stored, return_inverse=True)
        return domain, index.reshape(stored.shape)
    unsigned = np.dtype(f"u{stored.dtype.itemsize}")
    return np.arange(1 << bits, dtype=unsigned).view(stored.dtype), np.ascontiguousarray(stored).view(unsigned)


def _counts(index: NDArray[np.integer[Any]], size: int) -> Values:
    if index.dtype.itemsize > 2:
        return np.bincount(index.ravel(), minlength=size).astype(np.float64)
    if index.dtype == np.uint8:  # as pairs, which is three times as fast
        flat = np.ascontiguousarray(index).ravel()
        even = flat.size // 2 * 2
        pairs = _counts(flat[None, :even].view(np.uint16), 1 << 16).reshape(256, 256)
        return np.asarray(pairs.sum(0) + pairs.sum(1) + np.bincount(flat[even:], minlength=256))
    histogram = cv2.calcHist([np.ascontiguousarray(index)], [0], None, [size], [0, size])
    return np.asarray(histogram, np.float64).ravel()


def _exposed_counts(
    dataset: Dataset, index: NDArray[np.integer[Any]], padding: NDArray[np.bool_], counts: Values
) -> Values:
    rows, columns = index.shape
    area = exposed_area(dataset, rows, columns)
    if area == (slice(0, rows), slice(0, columns)):
        return counts
    exposed = _counts(index[area], len(counts))
    exposed[padding] = 0
    return exposed if exposed.any() else counts


def _greys_flags(greys: Values) -> set[str]:
    """Flags of the greys (n,) of all stored values that pixels have."""
    if greys.size <= 1:
        return {"constant"}
    return {"flat"} if np.ptp(greys) == 0 else set()


def _look_up(table: NDArray[np.float32], index: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Return table[index]; OpenCV's look-up, from release 5 for 16 bits too, is several times as fast as NumPy's."""
    if index.dtype == np.uint8 or (index.dtype == np.uint16 and int(cv2.__version__.split(".")[0]) >= 5):
        return np.asarray(cv2.LUT(index, table[None]), np.float32)
    pixels: NDArray[np.float32] = table[index]
    return pixels
