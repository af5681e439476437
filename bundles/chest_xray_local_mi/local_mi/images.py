"""Grey images of a datalist, `.npy`, PNG or JPEG of 8 or 16 bits, as arrays (rows, columns).

One reader for all of them: MONAI's `LoadImage` tries its own readers where the one that was named cannot read a file,
and for a PNG that ends, in silence, at a `PILReader` which swaps the axes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys, ensure_tuple
from numpy.typing import NDArray
from PIL import Image

from local_mi.errors import ConfigurationError

IMAGE_SUFFIXES = frozenset({".npy", ".png", ".jpg", ".jpeg"})
GREY_FORMS = ("array", "L", "I;16")
"""A NumPy array, and Pillow's names for grey of 8 and 16 bits; indices of a palette would else pass for grey values."""

StoredImage = NDArray[np.uint8 | np.uint16]


class GreyImageReader(ImageReader):
    """Reads `.npy`, PNG and JPEG files for `LoadImaged`, values as they are stored.

    Args:
        stored_range: the values that stand for black and white (`datalist.stored_range`).
    """

    def __init__(self, stored_range: Sequence[float]) -> None:
        super().__init__()
        self.stored_range = tuple(stored_range)

    def verify_suffix(self, filename: Sequence[str | Path] | str | Path) -> bool:
        """Tell whether all names end as those of images that can be read."""
        return all(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in ensure_tuple(filename))

    def read(self, data: Sequence[str | Path] | str | Path, **kwargs: Any) -> list[Path]:
        """The paths; `get_data` opens them, since `LoadImage` answers an error of `read` by trying other readers."""
        return [Path(name) for name in ensure_tuple(data)]

    def get_data(self, img: Sequence[Path]) -> tuple[StoredImage, dict[str, Any]]:
        """The array (rows, columns) and its metadata.

        Raises:
            ConfigurationError: see `read_image`.
        """
        (path,) = img
        array = read_image(path, self.stored_range)
        return array, {MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape), MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan")}


def read_image(path: Path, stored_range: Sequence[float]) -> StoredImage:
    """One image as it is stored: (rows, columns), uint8 or, where the range goes beyond 255, uint16.

    Args:
        path: ends in one of `IMAGE_SUFFIXES`.
        stored_range: the values that stand for black and white.

    Raises:
        ConfigurationError: the file is damaged, is not one channel of grey, or has another type than the range has.
    """
    wanted = np.uint8 if stored_range[1] <= np.iinfo(np.uint8).max else np.uint16
    try:
        array, form = _decoded(path)
    except Exception as error:  # of a damaged file, NumPy and Pillow raise whatever they stumble over
        raise ConfigurationError(f"image {path} is no whole {path.suffix} file; run ingest again") from error
    if array.dtype != wanted or array.ndim != 2 or form not in GREY_FORMS or array.size == 0:
        raise ConfigurationError(
            f"image {path} is {array.dtype} with {array.ndim} axes ({form}), and values from {stored_range[0]} to "
            f"{stored_range[1]} are those of {np.dtype(wanted)} (rows, columns); make the datalist with ingest, or put "
            "the right `range` under its `preprocessing`"
        )
    return array


def _decoded(path: Path) -> tuple[NDArray[Any], str]:
    """The values of a file, and their form: `array`, or Pillow's mode."""
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False), "array"
    with Image.open(path) as picture:
        return np.asarray(picture), picture.mode
