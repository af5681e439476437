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
from made_dicom import change, made, saved
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged, Orientationd, SaveImage, Spacingd
from pydicom import Dataset as DicomDataset

from preprocessing.errors import InputError, UnusableFile
from preprocessing.geometry import fit_square
from preprocessing.rasters import raster_picture
from preprocessing.readers import RadiographReader, plane_affine, read_raster, read_square

MARK = np.zeros((24, 40), np.uint8)
MARK[0, 0] = 255  # in the upper left corner
MARK[0, 1] = 128  # and its neighbour to the right, so that a transposed picture is told from a right one

GREYS = (np.arange(24 * 40) % 256).astype(np.uint8).reshape(24, 40)


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


# One mark, all forms


def write_mark(form: str, folder: Path) -> Path:
    if form == "npy":
        np.save(folder / "image.npy", MARK)
        return folder / "image.npy"
    if form == "png":
        return png(folder, MARK)
    if form == "jpeg":
        (folder / "image.jpg").write_bytes(imagecodecs.jpeg8_encode(MARK, level=100))
        return folder / "image.jpg"
    if form.startswith("nifti"):
        affine, array = plane_affine(0.2, 0.1), MARK
        if form == "nifti, columns first":  # as most converters write it
            affine, array = affine[:, [1, 0, 2, 3]], MARK.T
        nibabel.save(nibabel.Nifti1Image(array.astype(np.float32) / 255, affine), folder / "image.nii.gz")
        return folder / "image.nii.gz"
    if form == "dicom, monochrome1":
        return dicom(folder, stored=255 - MARK, PhotometricInterpretation="MONOCHROME1")
    return dicom(folder, "image" if form == "dicom, no suffix" else "image.dcm")


@pytest.mark.parametrize(
    "form",
    [
        "dicom",
        "dicom, no suffix",
        "dicom, monochrome1",
        "png",
        "jpeg",
        "npy",
        "nifti, rows first",
        "nifti, columns first",
    ],
)
def test_a_mark_in_the_upper_left_corner_ends_at_the_tensors_first_element(form: str, tmp_path: Path) -> None:
    steps = [
        LoadImaged("image", reader=RadiographReader()),
        EnsureChannelFirstd("image", channel_dim="no_channel"),
        Orientationd("image", axcodes="PL", labels=None),
    ]
    tensor = Compose(steps)({"image": str(write_mark(form, tmp_path))})["image"]
    assert tensor.shape == (1, 24, 40)
    assert float(tensor[0, 0, 0]) == tensor.max() > 0.9
    if form != "jpeg":  # which smears it
        assert float(tensor[0, 0, 1]) > 0.4
        assert float(tensor[0, 1, 0]) == 0


@pytest.mark.parametrize("orientation", [{}, {"PatientOrientation": ["L", "F"]}], ids=["none", "frontal"])
def test_nifti_that_monai_writes_lies_upright_in_a_viewer_and_keeps_spacing(
    orientation: dict[str, object], tmp_path: Path
) -> None:
    image = loaded(dicom(tmp_path, PixelSpacing=[0.2, 0.1], **orientation))
    SaveImage(tmp_path, output_postfix="", output_ext=".nii.gz", separate_folder=False, print_log=False)(image)
    written = nibabel.load(tmp_path / "image.nii.gz")
    assert written.header.get_zooms()[:2] == pytest.approx((0.2, 0.1))  # rows are 0.2 mm apart
    assert nibabel.aff2axcodes(written.affine)[:2] == ("P", "L")  # down is posterior, right is the patient's left
    # What a viewer shows of an axial slice, in radiological view: the patient's right at the left, anterior above.
    volume = nibabel.Nifti1Image(written.get_fdata()[..., None], written.affine)
    to_the_right_and_anterior = nibabel.as_closest_canonical(volume).get_fdata()[..., 0]
    screen = to_the_right_and_anterior[::-1, ::-1].T
    np.testing.assert_allclose(screen * 255, MARK, atol=1e-4)
    size = np.abs(written.affine[:3, :2]) @ [24, 40]
    np.testing.assert_allclose(size[:2], [4.0, 4.8])  # 40 columns of 0.1 mm across, 24 rows of 0.2 mm down


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


# Frames of enhanced objects, and the choice among several VOIs


def group(**groups: DicomDataset) -> DicomDataset:
    return change(DicomDataset(), **{f"{name}Sequence": [content] for name, content in groups.items()})


def test_every_frame_is_rendered_by_its_own_functional_groups(tmp_path: Path) -> None:
    windows = [(60.0, 100.0), (130.0, 20.0), (200.0, 7.0)]
    groups = [group(FrameVOILUT=change(DicomDataset(), WindowCenter=c, WindowWidth=w)) for c, w in windows]
    elements = {
        "stored": np.stack([GREYS] * 3),
        "VOILUTFunction": "LINEAR_EXACT",
        "SharedFunctionalGroupsSequence": [group(PixelMeasures=change(DicomDataset(), PixelSpacing=[0.3, 0.2]))],
        "PerFrameFunctionalGroupsSequence": groups,
    }
    path = dicom(tmp_path, **elements)
    image = loaded(path)
    expected = [np.clip((GREYS.astype(float) - centre) / width + 0.5, 0, 1) for centre, width in windows]
    np.testing.assert_allclose(image.numpy(), expected, atol=1e-6)
    assert image.pixdim[:2].tolist() == pytest.approx([0.3, 0.2])
    square = fit_square(expected[0].astype(np.float32), 48, 1.5)[0]
    np.testing.assert_allclose(read_square(path, 48), square, atol=1e-6)


def lut(explanation: str, entries: np.ndarray) -> DicomDataset:
    item = change(DicomDataset(), LUTExplanation=explanation)
    item.add_new("LUTDescriptor", "US", [256, 0, 8])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return item


RISE = np.arange(256)
SEVERAL = {
    "VOILUTSequence": [lut("NORMAL", RISE), lut("Harder", RISE // 2)],
    "WindowCenter": [100, 50],
    "WindowWidth": [201, 11],
    "WindowCenterWidthExplanation": ["LUNG", "BONE"],
}


@pytest.mark.parametrize(
    ("voi", "index", "name", "expected"),
    [
        (None, -1, "lut", GREYS / 255),
        (0, 0, "lut", GREYS / 255),
        (1, 1, "lut", GREYS // 2 / 255),
        ("HARDER", 1, "lut", GREYS // 2 / 255),
        (2, 2, "window_linear", np.clip((GREYS - 99.5) / 200 + 0.5, 0, 1)),
        ("bone", 3, "window_linear", np.clip((GREYS - 49.5) / 10 + 0.5, 0, 1)),
    ],
    ids=str,
)
def test_one_of_several_vois_is_chosen_by_index_or_explanation_and_recorded(
    voi: int | str | None, index: int, name: str, expected: np.ndarray, tmp_path: Path
) -> None:
    image = loaded(dicom(tmp_path, stored=GREYS, **SEVERAL), RadiographReader(voi=voi))
    np.testing.assert_allclose(image[0].numpy(), expected, atol=1e-6)
    assert (image.meta["voi"], image.meta["voi_index"]) == (name, index)
    assert ("voi_first_of_several" in image.meta["flags"]) == (voi is None)


@pytest.mark.parametrize("voi", [4, -1, "soft tissue", ""])
def test_a_voi_that_the_image_does_not_have_is_an_error_that_quotes_no_header(voi: int | str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 4 VOI LUTs and windows") as caught:
        RadiographReader(voi=voi).get_data([dicom(tmp_path, stored=GREYS, **SEVERAL)])
    assert "LUNG" not in str(caught.value)


def test_a_choice_among_vois_needs_a_preset_that_looks_at_them() -> None:
    with pytest.raises(ValueError, match="leave it out"):
        RadiographReader(preset="percentile", voi=1)


def test_squares_that_cannot_be(tmp_path: Path) -> None:
    for name in ("absent.dcm", "absent.png", "absent.npy"):
        with pytest.raises(UnusableFile):
            read_square(tmp_path / name, 48)
    with pytest.raises(ValueError, match="voi, percentile, mimic-jpg"):
        read_square(dicom(tmp_path), 48, "nice")


# PNG and JPEG


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pngs_of_any_depth_and_channels(dtype: type, channels: int, tmp_path: Path) -> None:
    full = np.iinfo(dtype).max
    grey = np.random.default_rng(0).integers(0, full, (20, 30), dtype=dtype)
    array = grey if channels == 1 else np.stack([grey] * 3 + [np.full_like(grey, full // 2)] * (channels - 3), axis=-1)
    picture = raster_picture(png(tmp_path, array).read_bytes())
    assert picture.pixels.dtype == np.float32
    np.testing.assert_allclose(picture.pixels, grey / full, atol=1e-6)
    assert picture.flags == (("alpha",) if channels == 4 else ())


def test_colour_becomes_luminance_and_is_flagged(tmp_path: Path) -> None:
    blue, green, red = np.random.default_rng(0).integers(0, 256, (3, 20, 30))
    picture = raster_picture(png(tmp_path, np.stack([blue, green, red], axis=-1).astype(np.uint8)).read_bytes())
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
    assert raster_picture(png(tmp_path, np.full((4, 4), 4095, np.uint16)).read_bytes()).flags == ("narrow_range",)


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
    picture = raster_picture(path.read_bytes())
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
