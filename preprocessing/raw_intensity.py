"""Raw detector values (FOR PROCESSING) -> attenuation, which is what a radiograph shows; used by `rendering`.

Raw values are counts of X-rays, or their logarithm, before the manufacturer made a picture of them.
"""

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from preprocessing.header_facts import sop_class
from preprocessing.header_values import integer, text
from preprocessing.pixel_data import declared_bits

FOR_PROCESSING = frozenset(f"1.2.840.10008.5.1.4.1.1.1.{device}.1" for device in (1, 2, 3))
"""SOP classes of DX, mammography and intra-oral images before they are processed for display (PS3.4 B.5)."""


def is_raw(dataset: Dataset) -> bool:
    """Tell whether an image is FOR PROCESSING, by its SOP class or PresentationIntentType (PS3.3 C.8.11.2)."""
    intent = text(dataset, "PresentationIntentType").upper()
    return sop_class(dataset) in FOR_PROCESSING or intent.startswith("FOR PROCESSING")


def attenuation(dataset: Dataset, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take raw values to attenuation: larger where fewer X-rays arrived (PS3.3 C.8.11.3.1.2).

    Values that are linear in intensity (PixelIntensityRelationship LIN) become their negative logarithm; those that are
    not (LOG, DISP, or not said) are taken as they are. PixelIntensityRelationshipSign says which end is which: 1 if
    lower values mean less intensity, -1 if higher ones do, in which case a linear intensity is what is missing to the
    largest value that BitsStored allows. Without a sign, PhotometricInterpretation says it: in MONOCHROME1 low values
    are shown white, and white is much attenuation.

    Args:
        dataset: header of the image, or of the frame.
        values: modality values of any shape; those of DX images are the stored ones.

    Returns:
        Attenuation in arbitrary units, finite and of the same shape. Intensities of zero or below count as the smallest
        positive one among them.
    """
    lower_is_less = _lower_is_less_intensity(dataset)
    if text(dataset, "PixelIntensityRelationship").upper() != "LIN":
        return -values if lower_is_less else values
    intensity = values if lower_is_less else _largest(dataset) - values
    positive = intensity[intensity > 0]
    if not positive.size:
        return np.zeros_like(values)
    return np.asarray(-np.log(np.maximum(intensity, positive.min())))


def _lower_is_less_intensity(dataset: Dataset) -> bool:
    sign = integer(dataset, "PixelIntensityRelationshipSign")
    if sign in (1, -1):
        return sign == 1
    return text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1"


def _largest(dataset: Dataset) -> int:
    """Return the largest value that a pixel can store."""
    signed = integer(dataset, "PixelRepresentation") == 1
    return (1 << max(declared_bits(dataset)[1] - signed, 0)) - 1
