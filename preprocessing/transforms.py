"""MONAI transforms that give a picture the shape it has in a store: `FitSquare` and its dictionary form `FitSquared`.

After `readers.RadiographReader` and `EnsureChannelFirstd`, for inference on single files: the network then sees what
it was trained on. `Invertd` takes maps of the network back to the picture's own pixels, `Geometry` takes points.
"""

from collections.abc import Hashable, Mapping
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.meta_obj import get_track_meta
from monai.data.utils import to_affine_nd
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, TransformBackends, convert_to_numpy, convert_to_tensor
from numpy.typing import NDArray

from preprocessing.geometry import Geometry, fit_square

__all__ = ["FitSquare", "FitSquareD", "FitSquareDict", "FitSquared"]

GEOMETRY = "geometry"


class FitSquare(InvertibleTransform):
    """Scales a picture so that its long side is `size` and centres it on a black square, with square pixels.

    The height of a pixel over its width is read from the affine, 1 where there is none. `geometry` in the result's
    metadata holds the fields of `preprocessing.geometry.Geometry`, whose `to_original` takes points of the square back
    to the picture.

    Args:
        size: side of the square in pixels.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 -- MONAI's way to say it

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """Fit a picture (channels, rows, columns) of floats into (channels, size, size).

        Raises:
            ValueError: the picture has no such shape.
        """
        aspect = _pixel_aspect(img)
        img = convert_to_tensor(img, track_meta=get_track_meta())
        if img.ndim != 3:
            raise ValueError(f"a picture (channels, rows, columns) is needed, not {tuple(img.shape)}: add the channel")
        fitted_channels = [fit_square(channel, self.size, aspect) for channel in _channels(img)]
        squares, geometries = zip(*fitted_channels, strict=True)
        geometry = geometries[0]
        traced = self.track_transform_meta(
            img,
            sp_size=(self.size, self.size),
            affine=_to_original(geometry),
            extra_info={GEOMETRY: asdict(geometry)},
            orig_size=(geometry.rows, geometry.columns),
            transform_info=self.get_transform_info(),
        )
        fitted = _like(img, squares)
        if isinstance(fitted, MetaTensor):
            fitted.copy_meta_from(traced)
            fitted.meta[GEOMETRY] = asdict(geometry)
        return fitted  # type: ignore[no-any-return]

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """Cut the picture out of the square (channels, size, size) and scale it to its own rows and columns."""
        transform = self.pop_transform(data)
        geometry = _geometry(transform[TraceKeys.EXTRA_INFO][GEOMETRY])
        original = _like(data, [_cut_out(channel, geometry) for channel in _channels(data)])
        if isinstance(original, MetaTensor):
            original.copy_meta_from(data)
            to_square = np.linalg.inv(_to_original(geometry))
            affine: torch.Tensor = data.affine  # type: ignore[attr-defined]
            original.affine = affine @ to_affine_nd(len(affine) - 1, torch.from_numpy(to_square))
            original.meta.pop(GEOMETRY, None)
        return original  # type: ignore[no-any-return]


class FitSquared(MapTransform, InvertibleTransform):
    """Dictionary form of `FitSquare`.

    Args:
        keys: of the pictures.
        size: side of the square in pixels.
        allow_missing_keys: whether a key may be absent.
    """

    backend = FitSquare.backend

    def __init__(self, keys: KeysCollection, size: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.fitter = FitSquare(size)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Fit the picture of every key; see `FitSquare`."""
        fitted = dict(data)
        for key in self.key_iterator(fitted):
            fitted[key] = self.fitter(fitted[key])
        return fitted

    def inverse(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Take the square of every key back; see `FitSquare.inverse`."""
        originals = dict(data)
        for key in self.key_iterator(originals):
            originals[key] = self.fitter.inverse(originals[key])
        return originals


FitSquareD = FitSquareDict = FitSquared


def _channels(img: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(convert_to_numpy(img), np.float32)


def _like(img: torch.Tensor, channels: Any) -> Any:
    """Channels as a tensor on the picture's device, with metadata if they are tracked."""
    return convert_to_tensor(np.stack(channels), device=img.device, track_meta=get_track_meta())


def _pixel_aspect(img: torch.Tensor) -> float:
    """Height of a pixel over its width: the length of the first axis's step in the world over that of the second's."""
    if not isinstance(img, MetaTensor):
        return 1.0
    row, column = np.linalg.norm(img.affine.numpy()[:-1, :2], axis=0)
    return float(row / column) if row > 0 and column > 0 else 1.0


def _to_original(geometry: Geometry) -> NDArray[np.float64]:
    """Matrix (3, 3) that takes (row, column, 1) of the square to the picture, as `Geometry.to_original` does."""
    origin, steps = geometry.to_original(np.zeros((1, 2)))[0], geometry.to_original(np.ones((1, 2)))[0]
    return np.array([[steps[0] - origin[0], 0, origin[0]], [0, steps[1] - origin[1], origin[1]], [0, 0, 1]])


def _geometry(fields: Mapping[str, Any]) -> Geometry:
    """Return the geometry of traced fields, which a batch makes tensors."""
    return Geometry(**{name: number.item() if hasattr(number, "item") else number for name, number in fields.items()})


def _cut_out(square: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    height, width = round(geometry.scale_rows * geometry.rows), round(geometry.scale_columns * geometry.columns)
    top, left = round(geometry.offset_rows), round(geometry.offset_columns)  # whole, as nothing was cut off
    picture = square[top : top + height, left : left + width]
    interpolation = cv2.INTER_AREA if height > geometry.rows else cv2.INTER_LINEAR
    scaled: NDArray[np.float32] = cv2.resize(picture, (geometry.columns, geometry.rows), interpolation=interpolation)
    return scaled
