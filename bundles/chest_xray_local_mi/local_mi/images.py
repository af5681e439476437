"""Grey images as arrays (rows, columns): `.npy`, PNG and JPEG of 8 or 16 bits, and NIfTI files of one slice.

One reader for all of them: MONAI's `LoadImage` tries its own readers where the one that was named cannot read a file,
and for a PNG that ends, in silence, at a `PILReader` which swaps the axes. Of a NIfTI file, the affine says which way
is up; the mark in the upper left corner of a picture is at [0, 0] whatever its file.
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

NIFTI_SUFFIXES = (".nii", ".nii.gz")
IMAGE_SUFFIXES = (".npy", ".png", ".jpg", ".jpeg", *NIFTI_SUFFIXES)
GREY_FORMS = ("array", "L", "I;16")
"""A NumPy array, and Pillow's names for grey of 8 and 16 bits; indices of a palette would else pass for grey values."""
OWN_SCALE = (0, 1)
"""The stored range of images that no datalist describes: [0, 1] of floats, and of integers all that their type has."""
TWELVE_BITS_MAXIMUM = 4095

StoredImage = NDArray[np.uint8 | np.uint16 | np.float32]


class GreyImageReader(ImageReader):
    """Reads `.npy`, PNG, JPEG and NIfTI files for `LoadImaged`; see `read_image` for their values.

    Args:
        stored_range: the values that stand for black and white (`datalist.stored_range`).
    """

    def __init__(self, stored_range: Sequence[float]) -> None:
        super().__init__()
        self.stored_range = tuple(stored_range)

    def verify_suffix(self, filename: Sequence[str | Path] | str | Path) -> bool:
        """Tell whether all names end as those of images that can be read."""
        return all(map(is_image, ensure_tuple(filename)))

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


def is_image(path: str | Path) -> bool:
    """Whether a name ends as that of an image that can be read."""
    return str(path).lower().endswith(IMAGE_SUFFIXES)


def read_image(path: Path, stored_range: Sequence[float]) -> StoredImage:
    """One image (rows, columns) as it is stored; in [0, 1] where `stored_range` is `OWN_SCALE`.

    Args:
        path: ends in one of `IMAGE_SUFFIXES`.
        stored_range: the values that stand for black and white. A NIfTI file may have any type that holds them; other
            files have uint8 or, where the range goes beyond 255, uint16.

    Raises:
        ConfigurationError: the file is damaged, is not one channel of grey, is a volume, or has other values than the
            range has.
    """
    try:
        array, form = _decoded(path)
    except ConfigurationError:
        raise
    except Exception as error:  # of a damaged file, NumPy, Pillow and nibabel raise whatever they stumble over
        raise ConfigurationError(f"image {path} is no whole {path.suffix} file; run ingest again") from error
    if array.ndim != 2 or form not in GREY_FORMS or array.size == 0 or array.dtype.kind not in "uif":
        raise ConfigurationError(
            f"image {path} is {array.dtype} with {array.ndim} axes ({form}), and a radiograph is one channel of grey "
            "(rows, columns); save it as grey of 8 or 16 bits, or make the datalist with ingest"
        )
    if tuple(stored_range) == OWN_SCALE:
        return _in_own_scale(array, path)
    return _in_range(array, stored_range, path)


def _in_own_scale(array: NDArray[Any], path: Path) -> NDArray[np.float32]:
    least, greatest = array.min(), array.max()
    if array.dtype.kind == "f" and least >= 0 and greatest <= 1:
        return array.astype(np.float32)
    # Twelve bits in sixteen, as detectors have them, would be all but black; what is black is not known of other types.
    if array.dtype == np.uint8 or (array.dtype == np.uint16 and greatest > TWELVE_BITS_MAXIMUM):
        return np.asarray(array / np.iinfo(array.dtype).max, np.float32)
    raise ConfigurationError(
        f"image {path} is {array.dtype} with values from {least} to {greatest}, and nothing says which stand for black "
        'and white; set `stored_range` to them, for instance "[0, 4095]", or write 8 bits, all of 16, or floats in '
        "[0, 1]"
    )


def _in_range(array: NDArray[Any], stored_range: Sequence[float], path: Path) -> StoredImage:
    low, high = stored_range
    wanted = np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16
    if is_nifti(path):
        if low <= array.min() and array.max() <= high:
            return array.astype(np.float32)
    elif array.dtype == wanted:
        return array
    raise ConfigurationError(
        f"image {path} is {array.dtype} with {array.ndim} axes and values from {array.min()} to {array.max()}, and "
        f"values from {low} to {high} are those of {np.dtype(wanted)} (rows, columns); make the datalist with ingest, "
        "or put the right `range` under its `preprocessing`"
    )


def is_nifti(path: str | Path) -> bool:
    """Whether a name ends as that of a NIfTI file."""
    return str(path).lower().endswith(NIFTI_SUFFIXES)


def _decoded(path: Path) -> tuple[NDArray[Any], str]:
    """The values of a file, and their form: `array`, or Pillow's mode."""
    if is_nifti(path):
        return _upright(path), "array"
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False), "array"
    with Image.open(path) as picture:
        return np.asarray(picture), picture.mode


def _upright(path: Path) -> NDArray[Any]:
    """The slice (rows, columns) of a NIfTI file as viewers show it; a volume as it is.

    Columns run to the patient's left and rows to posterior, or down where the plane is coronal; of a sagittal plane,
    columns run to posterior. A plane that is none of these lies as the nearest of them.
    """
    import nibabel  # the other forms need it not
    from nibabel.orientations import apply_orientation, io_orientation

    image = nibabel.load(path)
    voxels: NDArray[Any] = np.asanyarray(image.dataobj)
    voxels = voxels.reshape(*voxels.shape, 1) if voxels.ndim == 2 else voxels
    orientation = io_orientation(image.affine)
    if np.isnan(orientation).any():
        raise ConfigurationError(f"image {path} has an affine that does not say which way is up; write one that does")
    to_right_front_top = apply_orientation(voxels, orientation)
    planes = [axis for axis in (2, 1, 0) if to_right_front_top.shape[axis] == 1]
    if voxels.ndim != 3 or not planes:
        return voxels
    to_left_back_bottom = np.flip(to_right_front_top)
    return np.ascontiguousarray(np.squeeze(to_left_back_bottom, planes[0]).T)
