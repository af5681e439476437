"""Random rotation and translation: drawn for each item, carried out on the device for a batch at once.

MONAI's `RandAffined` resamples each image in a loader's worker, which takes longer than all else that is done to an
image; a GPU would wait for it.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.networks.layers import AffineTransform
from monai.transforms import Randomizable, Transform
from torch import Tensor

from local_mi.errors import ConfigurationError

AFFINE = "affine"  # key of an item and of a batch


class RandomAffine(Randomizable, Transform):
    """Draws `affine` (2, 3) for an item, uniform within limits; `augmented` applies it.

    Args:
        rotation_degrees: the largest rotation about the centre, either way.
        translation: the largest shift along each axis, either way, as a share of the image's side.

    Raises:
        ConfigurationError: a limit below 0, or a shift of more than the side.
    """

    def __init__(self, rotation_degrees: float, translation: float) -> None:
        if not (rotation_degrees >= 0 and 0 <= translation <= 1):
            raise ConfigurationError(
                f"rotation_degrees is {rotation_degrees} and translation {translation}; set the first to 0 or more and "
                "the second to a share of the side, from 0 to 1"
            )
        self.rotation_degrees = rotation_degrees
        self.translation = translation

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its matrix."""
        angle = np.radians(self.R.uniform(-self.rotation_degrees, self.rotation_degrees))
        shift = 2 * self.R.uniform(-self.translation, self.translation, size=2)  # a side is 2 long
        return {**data, AFFINE: torch.from_numpy(affine_matrix(angle, shift)).float()}


def affine_matrix(angle: float, shift: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Where each place (x, y) of the augmented image lies in the original, (2, 3), in [-1, 1] from edge to edge.

    Args:
        angle: in radians, from the x to the y axis; y points down, so that a positive one turns clockwise.
        shift: (2,) of the picture along x and y, a side being 2 long.
    """
    cosine, sine = np.cos(angle), np.sin(angle)
    inverse = np.array([[cosine, sine], [-sine, cosine]])  # the picture is turned, then shifted
    return np.column_stack([inverse, -inverse @ shift])


def augmented(image: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Images (B, C, H, W) under the batch's `affine` (B, 2, 3), black where nothing was; as they are without one.

    Args:
        image: on the device, square.
        batch: the rest of the batch, on any device.
    """
    if AFFINE not in batch:
        return image
    resample = AffineTransform(normalized=True, align_corners=False, reverse_indexing=False, padding_mode="zeros")
    moved: Tensor = resample(image, batch[AFFINE].to(image.device, non_blocking=True))
    return moved


def prepare_images(
    batch: Mapping[str, Any], device: str | torch.device | None, non_blocking: bool, **_: Any
) -> tuple[Tensor, Tensor]:
    """`prepare_batch` of MONAI's engines for a classifier: augmented images and labels."""
    image = batch["image"].to(device, non_blocking=non_blocking)
    return augmented(image, batch), batch["label"].to(device, non_blocking=non_blocking)
