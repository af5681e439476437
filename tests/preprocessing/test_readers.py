import json
import struct
import zlib
from pathlib import Path

import cv2
import imagecodecs
import nibabel
import numpy as np
import pytest
import torch
from made_dicom import made, saved
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged, Orientationd, Spacingd

from preprocessing.conversion import ConversionSettings, SourceImage, convert
from preprocessing.errors import UnusableFile
from preprocessing.geometry import fit_square
from preprocessing.manifest import ManifestRow
from preprocessing.rasters import raster_picture
from preprocessing.readers import RadiographReader, plane_affine, read_raster, read_square

MARK = np.zeros((24, 40), np.uint8)
MARK[0, 0] = 255  # in the upper left corner
MARK[0, 1] = 128  # and its neighbour to the right, so that a transposed picture is told from a right one


def dicom(folder: Path, name: str = "image.dcm", **elements: object) -> Path:
    window = {"WindowCenter": 128, "WindowWidth": 256}
    return saved(folder, made(elements.pop("stored", MARK), **(window | elements)), name)


def png(folder: Path, array: np.ndarray, name: str = "image.png") -> Path:
    path = folder / name
    assert cv2.imwrite(str(path), array)
    return path


def loaded(path: Path, reader: RadiographReader | None = None) -> MetaTensor:
    steps = [LoadImaged("image", reader=reader or RadiographReader()), EnsureChannelFirstd("image")]
    return Compose(steps)({"image": str(path)})["image"]


def check_mark(tensor: torch.Tensor) -> None:
    assert tensor.shape == (1, 24, 40)
    assert float(tensor[0, 0, 0]) == tensor.max() > 0.9
    assert float(tensor[0, 0, 1]) > 0.4
    assert float(tensor[0, 1, 0]) == 0


# One mark, all forms


@pytest.mark.parametrize("form", ["dicom", "dicom without suffix", "dicom monochrome1", "png", "jpg", "npy"])
def test_a_mark_in_the_upper_left_corner_ends_at_the_tensors_first_element(form: str, tmp_path: Path) -> None:
    if form == "jpg":
        path = tmp_path / "image.jpg"
        path.write_bytes(imagecodecs.jpeg8_encode(MARK, level=100))
        assert loaded(path)[0, 0, 0] == loaded(path).max()
        return
    if form == "npy":
        path = tmp_path / "image.npy"
        np.save(path, MARK)
    elif form == "png":
        path = png(tmp_path, MARK)
    elif form == "dicom monochrome1":
        path = dicom(tmp_path, stored=255 - MARK, PhotometricInterpretation="MONOCHROME1")
    else:
        path = dicom(tmp_path, "image.dcm" if form == "dicom" else "image")
    check_mark(loaded(path))


@pytest.mark.parametrize("stored_as", ["rows first", "columns first"])
def test_a_mark_in_a_nifti_ends_there_too_by_its_affine(stored_as: str, tmp_path: Path) -> None:
    affine, array = plane_affine(0.2, 0.1), MARK
    if stored_as == "columns first":  # as most converters write it
        affine, array = affine[:, [1, 0, 2, 3]], MARK.T
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32) / 255, affine), tmp_path / "image.nii.gz")
    steps = [
        LoadImaged("image", reader="NibabelReader"),
        EnsureChannelFirstd("image", channel_dim="no_channel"),
        Orientationd("image", axcodes="PL", labels=None),
    ]
    check_mark(Compose(steps)({"image": str(tmp_path / "image.nii.gz")})["image"])


def test_nifti_written_from_the_reader_lies_upright_and_keeps_spacing(tmp_path: Path) -> None:
    image = loaded(dicom(tmp_path, PixelSpacing=[0.2, 0.1]))
    nibabel.save(nibabel.Nifti1Image(image[0].numpy(), image.affine.numpy()), tmp_path / "image.nii")
    written = nibabel.load(tmp_path / "image.nii")
    assert written.header.get_zooms()[:2] == pytest.approx((0.2, 0.1))
    assert nibabel.aff2axcodes(written.affine)[:2] == ("P", "L")  # down is posterior, right is the patient's left


def test_spacing_reaches_monai(tmp_path: Path) -> None:
    image = loaded(dicom(tmp_path, ImagerPixelSpacing=[0.2, 0.1]))
    assert image.pixdim[:2].tolist() == pytest.approx([0.2, 0.1])
    square = Spacingd("image", pixdim=(0.2, 0.2))({"image": image})["image"]
    assert abs(square.shape[1] - 24) <= 1
    assert abs(square.shape[2] - 20) <= 1
    check = loaded(dicom(tmp_path, PixelAspectRatio=[2, 1])).pixdim[:2].tolist()
    assert check == pytest.approx([2, 1])


# The reader


def test_metadata_name_no_patient_and_pass_through_a_data_loader(tmp_path: Path) -> None:
    path = dicom(tmp_path, StudyDate="20200102", AccessionNumber="ACC77", InstitutionName="Saint Nowhere")
    image = loaded(path)
    written = json.dumps({key: str(value) for key, value in image.meta.items() if key != "filename_or_obj"})
    assert not any(word in written for word in ("Doe", "Jane", "0815", "ACC77", "2020", "Nowhere", "2.25"))
    assert (image.meta["view"], image.meta["voi"], image.meta["preset"]) == ("PA", "window_linear", "voi")
    steps = Compose([LoadImaged("image", reader=RadiographReader()), EnsureChannelFirstd("image")])
    batch = next(iter(DataLoader(Dataset([{"image": path}] * 3, steps), batch_size=3)))
    assert batch["image"].shape == (3, 1, 24, 40)


def test_the_reader_works_by_class_in_a_configuration(tmp_path: Path) -> None:
    image = LoadImage(reader="preprocessing.readers.RadiographReader", preset="percentile")(str(dicom(tmp_path)))
    assert image.meta["voi"] == "percentile"


def test_a_bad_file_raises_and_is_not_left_to_monais_other_readers(tmp_path: Path) -> None:
    path = dicom(tmp_path, stored=MARK.astype(np.float64).astype(np.uint8), BitsAllocated=None)
    with pytest.raises(UnusableFile):
        LoadImage(reader=RadiographReader())(str(path))


def test_frames_and_files_become_channels(tmp_path: Path) -> None:
    frames = np.stack([MARK, MARK * 0, MARK[::-1]])
    movie = loaded(dicom(tmp_path, stored=frames))
    assert movie.shape == (3, 24, 40)
    assert movie[0, 0, 0] == movie[2, -1, 0] > 0.9
    assert "multi_frame" in movie.meta["flags"]
    pair = Compose([LoadImaged("image", reader=RadiographReader()), EnsureChannelFirstd("image")])(
        {"image": [str(png(tmp_path, MARK, "a.png")), str(png(tmp_path, MARK[::-1], "b.png"))]}
    )["image"]
    assert pair.shape == (2, 24, 40)
    assert pair[1, -1, 0] == 1


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("a.dcm", True),
        ("A.DCM", True),
        ("a", True),
        ("1.2.840.113", True),
        ("a.png", True),
        ("a.JPG", True),
        ("a.npy", True),
        ("a.nii.gz", False),
        ("a.txt", False),
    ],
)
def test_suffixes(name: str, known: bool) -> None:
    assert RadiographReader().verify_suffix(name) is known
    assert RadiographReader().verify_suffix([name, "b.dcm"]) is known


def test_an_unknown_preset_is_an_error() -> None:
    with pytest.raises(ValueError, match="voi, percentile, mimic-jpg"):
        RadiographReader(preset="nice")


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.full((3, 4), 51, np.uint8), 0.2),
        (np.full((3, 4), 13107, np.uint16), 0.2),
        (np.full((3, 4), 0.2, np.float32), 0.2),
    ],
)
def test_arrays_of_the_store_are_scaled_by_their_type(array: np.ndarray, value: float, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", array)
    image = LoadImage(reader=RadiographReader())(str(tmp_path / "image.npy"))
    assert image.dtype == torch.float32
    assert image.flatten()[0] == pytest.approx(value)


def test_files_that_are_no_array_of_one_picture(tmp_path: Path) -> None:
    path = tmp_path / "image.npy"
    np.save(path, np.zeros((2, 3, 4), np.uint8))
    whole = path.read_bytes()
    for content in (b"", b"text", whole, whole[:100], b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(UnusableFile):
            RadiographReader().get_data([path])


# The square of the store


def ingested(folder: Path, path: Path, preset: str) -> np.ndarray:
    """What ingest stores of the first frame, in [0, 1]."""
    row = None
    if path.suffix == ".png":
        row = ManifestRow(
            number=2, image=path.name, path=path, study="s", patient="p", view="PA", text="", report="", split=""
        )
    settings = ConversionSettings(folder / "store", b"k" * 32, preset, 48)
    outcome = convert(settings, SourceImage(path, path.name, row))
    assert not outcome.reason
    return np.load(folder / "store" / outcome.rows[0]["path"]) / 255


SPECIMEN = (np.add.outer(np.arange(90) * 30, np.arange(60) * 20) % 4096).astype(np.uint16)


@pytest.mark.parametrize("preset", ["voi", "percentile", "mimic-jpg"])
@pytest.mark.parametrize(
    "elements",
    [
        {"PixelSpacing": [0.2, 0.1]},
        {"PixelAspectRatio": [1, 3], "PhotometricInterpretation": "MONOCHROME1"},
        {"stored": np.stack([SPECIMEN, SPECIMEN[::-1]]), "PixelPaddingValue": 0},
    ],
    ids=["spacing", "aspect", "frames"],
)
def test_a_square_is_what_ingest_stores(elements: dict[str, object], preset: str, tmp_path: Path) -> None:
    path = dicom(tmp_path, **({"stored": SPECIMEN, "WindowCenter": 2048, "WindowWidth": 4096} | elements))
    square = read_square(path, 48, preset)
    assert (square.shape, square.dtype) == ((48, 48), np.float32)
    np.testing.assert_allclose(square, ingested(tmp_path, path, preset), atol=1 / 255)


def test_a_square_of_a_png_and_of_an_array_of_the_store(tmp_path: Path) -> None:
    path = png(tmp_path, SPECIMEN * 16)
    stored = ingested(tmp_path, path, "voi")
    np.testing.assert_allclose(read_square(path, 48), stored, atol=1 / 255)
    array = next((tmp_path / "store").rglob("*.npy"))
    np.testing.assert_allclose(read_square(array, 48), stored, atol=1e-6)
    assert read_square(array, 32).shape == (32, 32)


def test_squares_that_cannot_be(tmp_path: Path) -> None:
    for name in ("absent.dcm", "absent.png", "absent.npy"):
        with pytest.raises(UnusableFile):
            read_square(tmp_path / name, 48)
    with pytest.raises(ValueError, match="voi, percentile, mimic-jpg"):
        read_square(dicom(tmp_path), 48, "nice")


def test_the_reader_tells_enough_to_make_the_square(tmp_path: Path) -> None:
    path = dicom(tmp_path, stored=SPECIMEN, PixelAspectRatio=[2, 1])
    image = loaded(path)
    square = fit_square(image[0].numpy(), 48, image.meta["pixel_aspect"])[0]
    np.testing.assert_array_equal(square, read_square(path, 48))
    assert loaded(png(tmp_path, MARK)).meta["pixel_aspect"] == 1


# PNG and JPEG


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pngs_of_any_depth_and_channels(dtype: type, channels: int, tmp_path: Path) -> None:
    full = np.iinfo(dtype).max
    grey = np.random.default_rng(0).integers(0, full, (20, 30), dtype=dtype)
    array = grey if channels == 1 else np.stack([grey] * 3 + [np.full_like(grey, full // 2)] * (channels - 3), axis=-1)
    picture = raster_picture(png(tmp_path, array))
    assert picture.pixels.dtype == np.float32
    np.testing.assert_allclose(picture.pixels, grey / full, atol=1e-6)
    assert picture.flags == (("alpha",) if channels == 4 else ())


def test_colour_becomes_luminance_and_is_flagged(tmp_path: Path) -> None:
    blue, green, red = np.random.default_rng(0).integers(0, 256, (3, 20, 30))
    picture = raster_picture(png(tmp_path, np.stack([blue, green, red], axis=-1).astype(np.uint8)))
    np.testing.assert_allclose(picture.pixels, (0.299 * red + 0.587 * green + 0.114 * blue) / 255, atol=1e-5)
    assert picture.flags == ("colour",)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    palette = image.fromarray(indices, mode="L").convert("P")
    palette.putpalette([255 - i // 3 for i in range(768)])
    palette.save(tmp_path / "image.png")
    np.testing.assert_allclose(read_raster(tmp_path / "image.png"), (255 - indices) / 255, atol=1e-6)


def test_twelve_bit_values_in_a_sixteen_bit_png_are_flagged(tmp_path: Path) -> None:
    assert raster_picture(png(tmp_path, np.full((4, 4), 4095, np.uint16))).flags == ("narrow_range",)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iCCP", b"Doe Jane\0\0" + zlib.compress(b"no profile" * 30)),
        png_chunk(b"tEXt", b"Doe Jane"),
        png_chunk(b"sRGB", b"\x09"),
        png_chunk(b"tIME", b"Doe"),
        png_chunk(b"PLTE", b"Doe"),
        png_chunk(b"tEXt", b"Doe Jane")[:-1] + b"?",
    ],
    ids=["profile", "text", "srgb", "time", "palette", "checksum"],
)
def test_what_a_png_says_beside_its_pixels_reaches_no_stderr(
    chunk: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = png(tmp_path, MARK)
    whole = path.read_bytes()
    path.write_bytes(whole[:33] + chunk + whole[33:])
    np.testing.assert_array_equal(read_raster(path) * 255, MARK)
    assert capfd.readouterr() == ("", "")


def test_transparent_colours_of_a_png_are_dropped_and_flagged(tmp_path: Path) -> None:
    path = png(tmp_path, MARK)
    whole = path.read_bytes()
    path.write_bytes(whole[:33] + png_chunk(b"tRNS", b"\0\xff") + whole[33:])
    picture = raster_picture(path)
    np.testing.assert_array_equal(picture.pixels * 255, MARK)
    assert picture.flags == ("alpha",)


def test_rasters_that_cannot_be_used(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = png(tmp_path, MARK).read_bytes()
    jpeg = imagecodecs.jpeg8_encode(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    bomb = whole[:16] + b"\x00\x01\x00\x00" * 2 + whole[24:]
    corrupt = whole[:41] + bytes(20) + whole[61:]
    path = tmp_path / "image.png"
    for content, reason in (
        (b"", "empty_file"),
        (b"GIF89a" + bytes(100), "not_an_image"),
        (whole[: len(whole) // 2], "truncated"),
        (whole[:-12], "truncated"),
        (whole[:36], "truncated"),
        (jpeg[: len(jpeg) // 2], "truncated"),
        (bomb, "too_large"),
        (whole[:8] + png_chunk(b"tEXt", bytes(7) + b"\1\0\0\0\1") + bomb[8:], "decode_failed"),
        (corrupt, "decode_failed"),
    ):
        path.write_bytes(content)
        with pytest.raises(UnusableFile) as caught:
            read_raster(path)
        assert caught.value.reason == reason
    assert capfd.readouterr() == ("", "")


def test_real_pngs_and_jpegs_are_read(shared_data: Path) -> None:
    paths = sorted((shared_data / "images").iterdir())
    for path in [*paths[::60], *(path for path in paths if path.suffix == ".jpg")][:30]:
        pixels = read_raster(path)
        assert pixels.ndim == 2
        assert 0 <= pixels.min() < pixels.max() <= 1
