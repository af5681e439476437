"""Rotation and translation of a batch: against SciPy's resampling, and drawn evenly within their limits."""

import numpy as np
import pytest
import torch
from local_mi.augmentation import RandomAffine, affine_matrix, augmented, prepare_images
from local_mi.errors import ConfigurationError
from scipy import ndimage
from torch import Tensor


def smooth_picture(size: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).random((size, size))
    return ndimage.gaussian_filter(noise, 2).astype(np.float32)


def by_scipy(picture: np.ndarray, degrees: float, right: float, down: float) -> np.ndarray:
    """Turned clockwise about the centre, then shifted by pixels; SciPy asks where each pixel (row, column) was."""
    angle, centre = np.radians(degrees), (len(picture) - 1) / 2
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # (down, right) of a clock
    back = turn.T
    offset = centre - back @ (np.array([down, right]) + centre)
    return ndimage.affine_transform(picture, back, offset, order=1, mode="constant")


def applied(pictures: list[np.ndarray], matrices: list[np.ndarray]) -> Tensor:
    image = torch.from_numpy(np.stack(pictures))[:, None]
    return augmented(image, {"affine": torch.from_numpy(np.stack(matrices)).float()})[:, 0]


@pytest.mark.parametrize(
    ("degrees", "right", "down"), [(0, 0, 0), (0, 5, 0), (0, 0, -3), (90, 0, 0), (20, 0, 0), (-13, 4, 2)]
)
def test_each_image_of_a_batch_is_moved_as_scipy_does_it(degrees: float, right: float, down: float) -> None:
    size = 48
    pictures = [smooth_picture(size, seed) for seed in range(2)]
    matrix = affine_matrix(np.radians(degrees), np.array([right, down]) * 2 / size)
    still = affine_matrix(0.0, np.zeros(2))
    moved = applied(pictures, [matrix, still]).numpy()
    expected = by_scipy(pictures[0], degrees, right, down)
    inner = slice(14, 34)  # at the border, the two mix with black differently
    np.testing.assert_allclose(moved[0][inner, inner], expected[inner, inner], atol=2e-4)
    np.testing.assert_allclose(moved[1], pictures[1], atol=1e-6)


def test_a_mark_in_the_upper_left_moves_right_and_down() -> None:
    picture = np.zeros((16, 16), np.float32)
    picture[2, 3] = 1
    moved = applied([picture], [affine_matrix(0.0, np.array([4, 6]) * 2 / 16)])[0]
    assert moved.argmax().item() == (2 + 6) * 16 + (3 + 4)


def test_what_comes_from_outside_is_black() -> None:
    moved = applied([np.ones((8, 8), np.float32)], [affine_matrix(0.0, np.array([2, 0]) * 2 / 8)])[0]
    assert (moved[:, :2] == 0).all()
    assert (moved[:, 2:] == 1).all()


def test_matrices_are_drawn_evenly_within_the_limits_and_again_from_the_same_seed() -> None:
    transform = RandomAffine(20, 0.1)

    def drawn(seed: int) -> np.ndarray:
        transform.set_random_state(seed=seed)
        return np.stack([transform({"image": 0})["affine"].numpy() for _ in range(4000)])

    matrices = drawn(3)
    degrees = np.degrees(np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0]))
    turn = matrices[:, :, :2]
    shift = -np.einsum("bji,bj->bi", turn, matrices[:, :, 2]) / 2  # as a share of the side
    for values, limit in ((degrees, 20), (shift[:, 0], 0.1), (shift[:, 1], 0.1)):
        assert np.abs(values).max() <= limit * (1 + 1e-5)
        assert np.abs(values).max() > 0.99 * limit
        assert abs(values.mean()) < 4 * limit / np.sqrt(3 * 4000)
        assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.04)
    np.testing.assert_array_equal(drawn(3), matrices)
    assert (drawn(4) != matrices).any()


def test_a_batch_without_matrices_is_left_alone() -> None:
    image, label = torch.rand(2, 1, 8, 8), torch.zeros(2, 3)
    found = prepare_images({"image": image, "label": label}, "cpu", False)
    assert found[0] is image
    assert found[1] is label


@pytest.mark.parametrize(("rotation", "translation"), [(-1, 0.1), (20, -0.1), (20, 10), (float("nan"), 0.1)])
def test_impossible_limits_are_refused(rotation: float, translation: float) -> None:
    with pytest.raises(ConfigurationError, match="rotation_degrees is"):
        RandomAffine(rotation, translation)
