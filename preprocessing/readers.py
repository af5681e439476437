"""MONAI's door to this package: `LoadImaged(keys, reader=RadiographReader())` gives rendered radiographs.

Arrays are (rows, columns), and so is the tensor behind its channel: a mark in the upper left corner of a DICOM, PNG,
JPEG or `.npy` file ends at `tensor[0, 0, 0]`. NIfTI files, which `LoadImaged` leaves to MONAI's `NibabelReader`, may
store either order: after `EnsureChannelFirstd`, `Orientationd(keys, axcodes="PL")` puts their first axis down
(posterior) and the second to the right of the picture (the patient's left), in the world that `plane_affine`
describes; it leaves the other forms as they are. `transforms.FitSquared` makes of any of them what ingest stores.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from numpy.typing import NDArray
from pydicom import Dataset

from preprocessing.dicom import file_bytes, image_facts, read_dicom, stored_values
from preprocessing.errors import UnusableFile
from preprocessing.functional_groups import frame_header
from preprocessing.geometry import fit_square
from preprocessing.lookup import chosen_voi
from preprocessing.rasters import RASTER_SUFFIXES, raster_picture, read_raster
from preprocessing.rendering import PRESETS, Picture, render

__all__ = ["RadiographReader", "plane_affine", "read_raster", "read_square"]

PathLike = str | Path
DICOM_SUFFIXES = frozenset({"", ".dcm", ".dicom", ".dic", ".ima"})
ARRAY_SUFFIX = ".npy"
NIFTI_SUFFIXES = (".nii", ".nii.gz")


class RadiographReader(ImageReader):
    """Reads radiographs as float32 in [0, 1], air dark and bone bright: DICOM, PNG, JPEG, and `.npy` of the store.

    What MONAI's own readers leave out is done here: VOI, polarity, padding and the order of axes. Metadata hold what
    transforms need and nothing that identifies a patient; only `filename_or_obj` is added by MONAI itself.

    Args:
        preset: one of `preprocessing.rendering.PRESETS`; for DICOM alone, the other forms are rendered already.
        voi: which of a header's VOI LUTs and windows, by index or explanation (`preprocessing.lookup.chosen_voi`); by
            default the first that is well formed, as ingest takes it. Needs the preset "voi".

    Raises:
        ValueError: the preset is not one of `PRESETS`, or not "voi" where a VOI is chosen.
    """

    def __init__(self, preset: str = "voi", voi: int | str | None = None) -> None:
        super().__init__()
        _check_preset(preset)
        if voi is not None and preset != "voi":
            raise ValueError(f"voi {voi!r} has no meaning with preset {preset!r}, which looks at no VOI: leave it out")
        self.preset, self.voi = preset, voi

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Tell whether all names look like DICOM (also without suffix, or with a UID for a name), PNG, JPEG or .npy."""
        return all(_is_known(Path(name).suffix.lower()) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> list[Path]:
        """Return the paths; `get_data` opens them.

        `LoadImage` answers an error of `read` by trying its next reader, which would return a DICOM file with
        other axes and polarity; an error of `get_data` is raised. NIfTI is left to the next reader.

        Raises:
            ValueError: a name of a NIfTI file.
        """
        paths = [Path(name) for name in ensure_tuple(data)]
        if any(path.name.lower().endswith(NIFTI_SUFFIXES) for path in paths):
            raise ValueError("NIfTI is read by MONAI's NibabelReader")
        return paths

    def get_data(self, img: Sequence[Path]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Read, decode and render.

        Args:
            img: what `read` returned. Several files become channels, as with MONAI's readers.

        Returns:
            The array (rows, columns); (rows, columns, frames) of a multi-frame file; or (files, rows, columns). And
            its metadata.

        Raises:
            UnusableFile: a file that is no picture.
            InputError: a DICOM file that does not have the VOI that was asked for.
            ValueError: files of several sizes.
        """
        pictures = [self._picture(path) for path in img]
        array, metadata = pictures[0]
        if len(pictures) > 1:
            array = np.stack([picture for picture, _ in pictures])
            metadata[MetaKeys.ORIGINAL_CHANNEL_DIM] = 0
        return array, metadata

    def _picture(self, path: Path) -> tuple[NDArray[np.float32], dict[str, Any]]:
        suffix = path.suffix.lower()
        if suffix == ARRAY_SUFFIX:
            pixels = _read_array(path)
            return pixels, _metadata(pixels.shape, (1.0, 1.0), 1.0)
        if suffix in RASTER_SUFFIXES:
            picture = raster_picture(file_bytes(path))
            flags = {"voi": picture.voi, "flags": " ".join(picture.flags)}
            return picture.pixels, _metadata(picture.pixels.shape, (1.0, 1.0), 1.0) | flags
        return self._radiograph(path)

    def _radiograph(self, path: Path) -> tuple[NDArray[np.float32], dict[str, Any]]:
        dataset = read_dicom(path)
        facts = image_facts(dataset)
        rendered = [
            self._rendered(frame_header(dataset, frame), stored) for frame, stored in enumerate(stored_values(dataset))
        ]
        pictures = [picture for picture, _ in rendered]
        spacing = facts.pixel_spacing or (facts.pixel_aspect, 1.0)
        metadata = _metadata(pictures[0].pixels.shape, spacing, facts.pixel_aspect) | {
            "preset": self.preset,
            "voi": " ".join(sorted({picture.voi for picture in pictures})),
            "voi_index": rendered[0][1],
            "view": facts.view_position,
            "modality": facts.modality,
            "photometric_interpretation": facts.photometric_interpretation,
            "flags": " ".join(sorted({*facts.flags, *(flag for picture in pictures for flag in picture.flags)})),
        }
        if len(pictures) == 1:
            return pictures[0].pixels, metadata
        metadata[MetaKeys.ORIGINAL_CHANNEL_DIM] = -1
        return np.stack([picture.pixels for picture in pictures], axis=-1), metadata

    def _rendered(self, header: Dataset, stored: NDArray[np.integer[Any]]) -> tuple[Picture, int]:
        """Render one frame; returns also which VOI was chosen, -1 where the choice was left to `render`."""
        index = -1
        if self.voi is not None:
            header, index = chosen_voi(header, self.voi)
        return render(header, stored, self.preset), index


def read_square(path: Path, size: int, preset: str = "voi") -> NDArray[np.float32]:
    """Read one image as ingest prepares it for the store, before it is rounded to bytes.

    Args:
        path: DICOM, of which the first frame is read; PNG or JPEG; or `.npy` of a store.
        size: side of the square in pixels.
        preset: one of `preprocessing.rendering.PRESETS`; for DICOM alone, the other forms are rendered already.

    Returns:
        (size, size) in [0, 1], air dark and bone bright, square pixels, centred on black.

    Raises:
        UnusableFile: a file that is no picture. What ingest leaves out by policy (another modality, say) is read.
        ValueError: the preset is not one of `PRESETS`.
    """
    _check_preset(preset)
    suffix = path.suffix.lower()
    if suffix == ARRAY_SUFFIX:
        return fit_square(_read_array(path), size)[0]
    if suffix in RASTER_SUFFIXES:
        return fit_square(read_raster(path), size)[0]
    dataset = read_dicom(path)
    pixels = render(frame_header(dataset, 0), stored_values(dataset)[0], preset).pixels
    return fit_square(pixels, size, image_facts(dataset).pixel_aspect)[0]


def plane_affine(row_mm: float, column_mm: float) -> NDArray[np.float64]:
    """Return the affine (4, 4) from (row, column) to RAS+ millimetres of a picture that has no place in the patient.

    Columns run to the patient's left and rows to posterior, as in an axial slice: viewers then show the picture
    upright, and MONAI's transforms of two spatial dimensions, which see the first two world axes, keep the spacing.
    """
    affine = np.diag([0.0, 0.0, 1.0, 1.0])
    affine[0, 1], affine[1, 0] = -column_mm, -row_mm
    return affine


def _check_preset(preset: str) -> None:
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")


def _metadata(shape: tuple[int, ...], spacing: tuple[float, float], pixel_aspect: float) -> dict[str, Any]:
    affine = plane_affine(*spacing)
    return {
        MetaKeys.AFFINE: affine,
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPATIAL_SHAPE: np.asarray(shape[:2]),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),  # MONAI's word for "no channel"
        "pixel_aspect": pixel_aspect,  # height of a pixel over its width
    }


def _is_known(suffix: str) -> bool:
    return suffix in DICOM_SUFFIXES | RASTER_SUFFIXES | {ARRAY_SUFFIX} or suffix[1:].isdigit()


def _read_array(path: Path) -> NDArray[np.float32]:
    """Read one picture of the store: unsigned integers are divided by full scale, floats taken as they are."""
    if not file_bytes(path).startswith(b"\x93NUMPY"):
        raise UnusableFile("not_an_image", "the file is no NumPy array")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise UnusableFile("truncated", "the array cannot be loaded") from None
    if array.ndim != 2 or array.dtype.kind not in "uf":
        raise UnusableFile("not_an_image", f"an array of {array.ndim} dimensions and type {array.dtype}")
    scale = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
    return np.asarray(array / np.float32(scale), np.float32)
