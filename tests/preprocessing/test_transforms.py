from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_dicom import made, saved
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch, set_track_meta
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd

from preprocessing.configuration import IngestConfiguration
from preprocessing.conversion import ConversionSettings, convert
from preprocessing.geometry import Geometry, fit_square
from preprocessing.manifest import ManifestRow
from preprocessing.readers import RadiographReader, plane_affine, read_square
from preprocessing.sources import SourceImage
from preprocessing.transforms import FitSquare, FitSquared

SPECIMEN = (np.add.outer(np.arange(90) * 30, np.arange(60) * 20) % 4096).astype(np.uint16)
HALF_A_LEVEL = 0.5 + 0.01  # ingest passes through 16-bit integers, 257 of which are a level


def dicom(folder: Path, **elements: object) -> Path:
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    return saved(folder, made(elements.pop("stored", SPECIMEN), **(window | elements)))


def png(folder: Path) -> Path:
    assert cv2.imwrite(str(folder / "image.png"), SPECIMEN * 16)
    return folder / "image.png"


def loading(*more: object, preset: str = "voi") -> Compose:
    return Compose([LoadImaged("image", reader=RadiographReader(preset)), EnsureChannelFirstd("image"), *more])


def ingested(folder: Path, path: Path, preset: str) -> np.ndarray:
    """What ingest stores of the first frame, 48 pixels a side, in grey levels."""
    row = None
    if path.suffix == ".png":
        row = ManifestRow(
            number=2, image=path.name, path=path, study="s", patient="p", view="PA", text="", report="", split=""
        )
    asked = IngestConfiguration(preset=preset, size=48)
    settings = ConversionSettings(folder / "store", b"k" * 32, asked.preparation, asked.selection, "npy")
    outcome = convert(settings, SourceImage(str(path), path.name, row=row))
    assert not outcome.reason
    return np.load(folder / "store" / outcome.rows[0]["path"]).astype(float)


# The square is the one of the store


@pytest.mark.parametrize("preset", ["voi", "percentile", "mimic-jpg"])
@pytest.mark.parametrize(
    "elements",
    [
        {"PixelSpacing": [0.2, 0.1]},
        {"PixelAspectRatio": [1, 3], "PhotometricInterpretation": "MONOCHROME1"},
        {"stored": np.stack([SPECIMEN, SPECIMEN[::-1]]), "PixelPaddingValue": 0},
        {"stored": np.kron(SPECIMEN, np.ones((4, 7), np.uint16)), "ImagerPixelSpacing": [0.143, 0.144]},
    ],
    ids=["spacing", "aspect", "frames", "large"],
)
def test_a_square_is_what_ingest_stores(elements: dict[str, object], preset: str, tmp_path: Path) -> None:
    path = dicom(tmp_path, **elements)
    stored = ingested(tmp_path, path, preset)
    square = loading(FitSquared("image", 48), preset=preset)({"image": str(path)})["image"][0].numpy()
    assert (square.shape, square.dtype) == ((48, 48), np.float32)
    assert np.abs(square * 255 - stored).max() <= HALF_A_LEVEL
    np.testing.assert_array_equal(read_square(path, 48, preset), square)


def test_a_square_of_a_png_and_of_an_array_of_the_store(tmp_path: Path) -> None:
    path = png(tmp_path)
    stored = ingested(tmp_path, path, "voi")
    array = next((tmp_path / "store").rglob("*.npy"))
    for source, most in ((path, HALF_A_LEVEL), (array, 1e-4)):
        square = loading(FitSquared("image", 48))({"image": str(source)})["image"][0].numpy()
        assert np.abs(square * 255 - stored).max() <= most
        np.testing.assert_array_equal(read_square(source, 48), square)
    assert read_square(array, 32).shape == (32, 32)


# MONAI's manner


def test_channels_are_fitted_alike_and_pixels_without_an_affine_are_square() -> None:
    channels = np.random.default_rng(0).random((3, 20, 30)).astype(np.float32)
    expected = [fit_square(channel, 24)[0] for channel in channels]
    for picture in (channels, torch.from_numpy(channels), MetaTensor(channels)):
        np.testing.assert_array_equal(np.asarray(FitSquare(24)(picture)), expected)


def test_a_turned_picture_keeps_the_shape_of_its_pixels() -> None:
    picture = MetaTensor(torch.ones(1, 20, 30), affine=plane_affine(0.2, 0.1))
    upright = FitSquare(40)(picture)
    turned = FitSquare(40)(Orientationd("image", axcodes="LP", labels=None)({"image": picture})["image"])
    np.testing.assert_array_equal(turned[0].numpy(), upright[0].numpy().T)
    assert upright.meta["geometry"]["scale_rows"] == 2 * upright.meta["geometry"]["scale_columns"]


@pytest.mark.parametrize("shape", [(20, 30), (1, 20, 30, 4)])
def test_a_picture_without_its_channel_or_with_a_third_axis_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="add the channel"):
        FitSquare(24)(torch.zeros(shape))


def test_points_of_the_square_and_the_affine_lead_back_to_the_picture(tmp_path: Path) -> None:
    image = loading()({"image": str(dicom(tmp_path, PixelSpacing=[0.2, 0.1]))})["image"]
    square = FitSquare(48)(image)
    geometry = Geometry(**square.meta["geometry"])
    points = np.array([[0.0, 0.0], [47.0, 12.5], [20.25, 31.0]])
    homogeneous = np.column_stack([points, np.zeros(3), np.ones(3)])
    original = np.column_stack([geometry.to_original(points), np.zeros(3), np.ones(3)])
    world = homogeneous @ square.affine.numpy().T
    np.testing.assert_allclose(world, original @ image.affine.numpy().T, atol=1e-12)
    assert float(square.pixdim[0]) == pytest.approx(
        float(square.pixdim[1]), rel=0.02
    )  # the short side is a whole number of pixels


def test_maps_of_a_batch_are_taken_back_to_their_pictures(tmp_path: Path) -> None:
    files = [{"image": str(path)} for path in (dicom(tmp_path, PixelSpacing=[0.2, 0.1]), png(tmp_path))]
    steps = loading(FitSquared("image", 48))
    for file in files:
        batch = next(iter(DataLoader(Dataset([file] * 2, steps), batch_size=2)))
        batch["map"] = batch["image"].clone() / 2
        inverse = Invertd("map", steps, orig_keys="image", nearest_interp=False)
        whole = loading()(file)["image"]
        for item in decollate_batch(batch):
            back = inverse(item)["map"]
            assert back.shape == whole.shape
            np.testing.assert_allclose(back.affine, whole.affine, atol=1e-12)
            assert "geometry" not in back.meta


def test_a_smooth_picture_survives_the_way_there_and_back() -> None:
    smooth = np.add.outer(np.linspace(0, 0.5, 40), np.linspace(0, 0.5, 60)).astype(np.float32)
    for side in (30, 48, 128):
        fitter = FitSquare(side)
        back = fitter.inverse(fitter(MetaTensor(smooth[None])))
        assert back.applied_operations == []
        inner = np.s_[4:-4, 4:-4]
        np.testing.assert_allclose(back[0].numpy()[inner], smooth[inner], atol=5e-3)


def test_nothing_is_tracked_where_monai_tracks_nothing() -> None:
    picture = MetaTensor(torch.ones(1, 20, 30), affine=plane_affine(0.2, 0.1))
    tracked = FitSquare(24)(picture)
    set_track_meta(False)
    try:
        square = FitSquare(24)(picture)
    finally:
        set_track_meta(True)
    assert not isinstance(square, MetaTensor)
    np.testing.assert_array_equal(square.numpy(), tracked.numpy())


def test_a_missing_key_is_allowed_where_asked() -> None:
    assert FitSquared(["image", "other"], 24, allow_missing_keys=True)({"image": torch.ones(1, 9, 9)}).keys() == {
        "image"
    }
    with pytest.raises(KeyError):
        FitSquared("other", 24)({"image": torch.ones(1, 9, 9)})
