"""The map of a sentence lies where the image lies, says what the network says, and is written whole or not at all."""

import gzip
import resource
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.network import LocalMINetwork
from local_mi.paper_resnet import PaperResNet
from local_mi.tokens import text_batch
from made_run import SENTENCES, write_run
from monai.networks.nets import DenseNet, resnet18
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from pipelines.cli import main
from pipelines.ground import (
    GroundingModel,
    draw_grounding,
    grad_cam_maps,
    ground,
    ground_file,
    load_grounding_model,
    read_radiograph,
    region_maps,
    sentence_maps,
)
from pipelines.score_maps import Grounding, Radiograph, nifti, overlay
from preprocessing.geometry import fit_square
from preprocessing.readers import RadiographReader, plane_affine

SENTENCE = "There is a left pleural effusion."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run")


def write_dicom(path: Path, stored: np.ndarray, **elements: Any) -> Path:
    """A radiograph of 8 bits, (rows, columns) or (frames, rows, columns)."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    header.PatientName, header.PatientID = "Doe^Jane", "0815"
    header.Modality, header.PhotometricInterpretation, header.SamplesPerPixel = "DX", "MONOCHROME2", 1
    header.Rows, header.Columns = stored.shape[-2:]
    if stored.ndim == 3:
        header.NumberOfFrames = len(stored)
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
    header.PixelData = stored.astype(np.uint8).tobytes()
    for keyword, value in elements.items():
        setattr(header, keyword, value)
    dcmwrite(path, header, enforce_file_format=True)
    return path


def brightness(images: Tensor, sentences: object) -> np.ndarray:
    """A map that anybody can check: the mean of each of 8 x 8 regions."""
    return F.avg_pool2d(images, images.shape[2] // 8)[:, 0].numpy()


BRIGHTNESS = GroundingModel(brightness, 64, "voi")


# Geometry. The square is one region of the 64 x 64 pixels that the network sees, and known in original pixels:
# 240 x 100 pixels of 0.2 x 0.3 mm fill rows 0 to 64 and columns 12 to 52 of the square, so that region (2, 4) is
# rows 60 to 90 and columns 50 to 70; 100 x 240 pixels of 0.3 x 0.2 mm are the same turned.
PLACES = {
    "padded left and right": ((240, 100), (0.2, 0.3), (slice(60, 90), slice(50, 70))),
    "padded above and below": ((100, 240), (0.3, 0.2), (slice(50, 70), slice(60, 90))),
    "upper edge": ((240, 100), (0.2, 0.3), (slice(0, 30), slice(50, 70))),
}


@pytest.mark.parametrize("spacing_of", ["PixelSpacing", "ImagerPixelSpacing"])
@pytest.mark.parametrize("place", PLACES)
def test_the_highest_voxel_lies_at_the_bright_squares_place_in_the_world(
    place: str, spacing_of: str, tmp_path: Path
) -> None:
    shape, (row_mm, column_mm), square = PLACES[place]
    stored = np.full(shape, 10)
    stored[square] = 250
    path = write_dicom(tmp_path / "i.dcm", stored, **{spacing_of: [row_mm, column_mm]})
    grounding = ground(BRIGHTNESS, read_radiograph(path, 64, "voi"), SENTENCE)
    (tmp_path / "map.nii.gz").write_bytes(nifti(grounding))
    image = nibabel.load(tmp_path / "map.nii.gz")
    assert image.shape == shape
    assert image.get_data_dtype() == np.float32
    assert image.header.get_zooms()[:2] == pytest.approx((row_mm, column_mm))
    values = image.get_fdata()
    peaks = np.argwhere(values == values.max())  # several where the scores are level beyond the last region
    world = [nibabel.affines.apply_affine(image.affine, [row, column, 0]) for row, column in peaks]
    of_reader = RadiographReader().get_data([path])[1]["affine"]
    rows, columns = (np.arange(part.start, part.stop).mean() for part in square)
    expected = of_reader @ [rows, columns, 0, 1]
    np.testing.assert_allclose(expected[:2], [-columns * column_mm, -rows * row_mm])  # left and down are negative
    nearest = np.abs(np.array(world) - expected[:3]).min(axis=0)
    assert (nearest <= [column_mm, row_mm, 0]).all(), "at most a pixel from the square's centre"
    assert all(stored[row, column] == 250 for row, column in peaks)


def test_map_and_image_are_one_place_for_monai(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 255, (50, 30))
    image = write_dicom(tmp_path / "i.dcm", stored, PixelSpacing=[0.2, 0.1])
    grounding = ground(BRIGHTNESS, read_radiograph(image, 64, "voi"), SENTENCE)
    (tmp_path / "map.nii.gz").write_bytes(nifti(grounding))
    keys = ["image", "map"]
    load = Compose(
        [
            LoadImaged(keys, reader=RadiographReader()),
            EnsureChannelFirstd(keys, channel_dim="no_channel"),
            Orientationd(keys, axcodes="PL", labels=None),
        ]
    )
    both = load({"image": str(image), "map": str(tmp_path / "map.nii.gz")})
    assert both["map"].shape == both["image"].shape == (1, 50, 30)
    assert torch.allclose(both["map"].affine, both["image"].affine)
    np.testing.assert_allclose(both["map"][0], grounding.pixel_scores(), atol=1e-6)


def test_a_viewer_shows_the_map_upright(tmp_path: Path) -> None:
    """An axial slice in radiological view has the patient's right at the left and anterior above."""
    stored = np.zeros((64, 64))
    stored[8:16, 40:48] = 255  # above the middle, right of it
    grounding = ground(BRIGHTNESS, read_radiograph(write_dicom(tmp_path / "i.dcm", stored), 64, "voi"), SENTENCE)
    (tmp_path / "map.nii.gz").write_bytes(nifti(grounding))
    image = nibabel.load(tmp_path / "map.nii.gz")
    volume = nibabel.Nifti1Image(image.get_fdata()[..., None], image.affine)
    screen = nibabel.as_closest_canonical(volume).get_fdata()[::-1, ::-1, 0].T
    row, column = np.unravel_index(screen.argmax(), screen.shape)
    assert 8 <= row < 16
    assert 40 <= column < 48


def test_the_header_says_where_and_nothing_else(tmp_path: Path) -> None:
    image = write_dicom(tmp_path / "i.dcm", np.eye(50, 30) * 200, PixelSpacing=[0.2, 0.1])
    content = nifti(ground(BRIGHTNESS, read_radiograph(image, 64, "voi"), SENTENCE))
    assert content[3] == 0, "the gzip header holds no file name"
    assert content[4:8] == bytes(4), "and no time"
    written = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    assert written.header["descrip"] == b""
    assert not written.header.extensions
    assert written.header.get_xyzt_units()[0] == "mm"
    for place in (written.get_qform(coded=True), written.get_sform(coded=True)):
        assert place[1] > 0
        np.testing.assert_allclose(place[0], plane_affine(0.2, 0.1), atol=1e-6)
    for text in (b"Doe", b"0815", b"effusion"):
        assert text not in gzip.decompress(content)


def grounding_of(scores: np.ndarray, rows: int, columns: int, size: int, pixel_aspect: float = 1.0) -> Grounding:
    picture = np.zeros((rows, columns), np.float32)
    square, geometry = fit_square(picture, size, pixel_aspect)
    return Grounding(Radiograph(picture, square, geometry, plane_affine(pixel_aspect, 1.0)), scores)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_pixels_are_the_bilinear_interpolation_of_regions(data: st.DataObject) -> None:
    """Oracle: PyTorch's interpolation of the square, and SciPy's at the places where the pixels lie in it."""
    h, w = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    scores = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(h, w)).astype(np.float32)
    size = data.draw(st.integers(8, 40))
    square = grounding_of(scores, size, size, size).pixel_scores()
    expected = F.interpolate(torch.from_numpy(scores)[None, None], (size, size), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(square, expected[0, 0], atol=1e-5)
    rows, columns, aspect = data.draw(st.integers(2, 60)), data.draw(st.integers(2, 60)), data.draw(st.floats(0.5, 2))
    grounding = grounding_of(scores, rows, columns, size, aspect)
    picture = grounding.pixel_scores()
    geometry = grounding.radiograph.geometry
    places = np.array([[row, column] for row in range(rows) for column in range(columns)])
    regions = (geometry.to_stored(places) + 0.5) / size * [h, w] - 0.5
    np.testing.assert_allclose(picture.ravel(), map_coordinates(scores, regions.T, order=1, mode="nearest"), atol=1e-5)


def test_equal_scores_stay_exactly_equal() -> None:
    scores = np.full((7, 7), 0.1, np.float32)
    assert np.unique(grounding_of(scores, 50, 31, 64).pixel_scores()).tolist() == [np.float32(0.1)]


# Maps


@pytest.fixture(scope="module")
def text_model(run: Path) -> str:
    return str(run / "models" / "text_model")


def network_of(text_model: str, objective: str, encoder: nn.Module, critic: str = "separable") -> LocalMINetwork:
    torch.manual_seed(0)
    network = LocalMINetwork(encoder, text_model, "mean", objective, critic, 8, [12, 6], 0.1, "max", 1.0, 0)
    for module in network.modules():  # as after training: no two channels alike
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()


def thin_resnet() -> nn.Module:
    return resnet18(spatial_dims=2, n_input_channels=1, widen_factor=0.125, feed_forward=False)


def thin_densenet() -> nn.Module:
    return DenseNet(spatial_dims=2, in_channels=1, out_channels=2, init_features=8, growth_rate=4, block_config=(2, 2))


ENCODERS = {"resnet": (thin_resnet, "layer4"), "densenet": (thin_densenet, "features"), "paper": (None, "layer6")}


def pairs(size: int) -> tuple[Tensor, list[str]]:
    """Three images with a sentence each; one sentence stands twice."""
    images = torch.rand(3, 1, size, size, generator=torch.Generator().manual_seed(1))
    return images, [SENTENCES[1], SENTENCES[0], SENTENCES[1]]


@pytest.mark.parametrize("critic", ["separable", "concatenation"])
@pytest.mark.parametrize("encoding", ["sentence", "report-once"])
def test_region_maps_are_the_region_scores_of_each_image_with_its_own_sentence(
    encoding: str, critic: str, text_model: str
) -> None:
    network = network_of(text_model, "local", thin_resnet(), critic)
    text = partial(text_batch, text_model=text_model, encoding=encoding, max_tokens=64)
    images, sentences = pairs(64)
    found = region_maps(network, text)(images, sentences)
    for image, sentence, scores in zip(images, sentences, found, strict=True):
        alone = network.region_scores(image[None], text([sentence]))[0, :, :, 0].detach()
        np.testing.assert_allclose(scores, alone, atol=1e-5)
    assert np.abs(found[0] - found[2]).max() > 1e-3, "other images, other scores"


@pytest.mark.parametrize("critic", ["separable", "concatenation"])
@pytest.mark.parametrize("name", ENCODERS)
def test_grad_cam_is_the_papers_formula_for_each_image_with_its_own_sentence(
    name: str, critic: str, text_model: str
) -> None:
    """Oracle: Selvaraju et al., equations 1 and 2, by autograd, an image at a time."""
    make, stage = ENCODERS[name]
    network = network_of(text_model, "global", make() if make else PaperResNet(None), critic)
    text = partial(text_batch, text_model=text_model, encoding="sentence", max_tokens=64)
    images, sentences = pairs(256 if name == "paper" else 64)
    kept: list[Tensor] = []
    hook = getattr(network.image_encoder, stage).register_forward_hook(lambda module, given, out: kept.append(out))
    expected = []
    for image, sentence in zip(images, sentences, strict=True):
        score = network.report_scores(image[None], text([sentence]))[0, 0]
        (gradient,) = torch.autograd.grad(score, kept[-1])
        expected.append(F.relu((gradient.mean(dim=(2, 3), keepdim=True) * kept[-1]).sum(dim=1))[0].detach())
    hook.remove()
    found = sentence_maps(network, text)(images, sentences)
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-6, rtol=1e-3)
    assert found.max() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_run_with_both_terms_shows_its_regions(text_model: str) -> None:
    network = network_of(text_model, "local+global", thin_resnet())
    text = partial(text_batch, text_model=text_model, encoding="sentence", max_tokens=64)
    images, sentences = pairs(64)
    found = sentence_maps(network, text)(images, sentences)
    np.testing.assert_array_equal(found, region_maps(network, text)(images, sentences))
    assert not np.allclose(found, grad_cam_maps(network, text)(images, sentences))


# Files


@pytest.fixture
def image(tmp_path: Path) -> Path:
    stored = np.arange(70 * 50).reshape(70, 50) // 14
    return write_dicom(tmp_path / "i.dcm", stored, PixelSpacing=[0.2, 0.1])


@pytest.mark.parametrize("objective", ["local", "global"])
def test_a_picture_and_a_map_are_written(objective: str, run: Path, image: Path, tmp_path: Path) -> None:
    folder = run if objective == "local" else write_run(tmp_path / "global", objective="global")
    scores = ground_file(folder, image, SENTENCE, tmp_path / "new" / "p.png")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["p.nii.gz", "p.png"]
    assert cv2.imread(str(tmp_path / "new" / "p.png")).std() > 10
    written = nibabel.load(scores)
    np.testing.assert_allclose(written.affine, plane_affine(0.2, 0.1), atol=1e-6)
    model = load_grounding_model(folder)
    expected = ground(model, read_radiograph(image, 64, "voi"), SENTENCE).pixel_scores()
    np.testing.assert_allclose(written.get_fdata(), expected, atol=1e-5)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".npy"])
def test_forms_without_spacing_are_taken_with_pixels_of_a_millimetre(suffix: str, run: Path, tmp_path: Path) -> None:
    picture, path = np.random.default_rng(0).integers(0, 255, (40, 60)).astype(np.uint8), tmp_path / f"i{suffix}"
    np.save(path, picture) if suffix == ".npy" else cv2.imwrite(str(path), picture)
    written = nibabel.load(ground_file(run, path, SENTENCE, tmp_path / "p.png"))
    assert written.shape == (40, 60)
    np.testing.assert_array_equal(written.affine, plane_affine(1, 1))


def test_a_real_radiograph(run: Path, shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "dicom_real" / "gdcm-CR-MONO1-10-chest.dcm"
    written = nibabel.load(ground_file(run, path, SENTENCE, tmp_path / "p.png"))
    picture, metadata = RadiographReader().get_data([path])
    assert written.shape == picture.shape
    np.testing.assert_allclose(written.affine, metadata["affine"])


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The system's own limit: a longer write fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_neither_file(run: Path, tmp_path: Path) -> None:
    image = write_dicom(tmp_path / "i.dcm", np.add.outer(np.arange(600), np.arange(600)) // 5)
    folder = tmp_path / "out"
    scores = ground_file(run, image, SENTENCE, folder / "p.png")
    sizes = (folder / "p.png").stat().st_size, scores.stat().st_size
    assert sizes[0] < sizes[1], "the map, written last, is the one that fails"
    for path in folder.iterdir():
        path.unlink()
    with files_no_larger_than(sum(sizes) // 2), pytest.raises(OSError, match="File too large") as failure:
        ground_file(run, image, SENTENCE, folder / "p.png")
    assert failure.value.filename == str(folder)
    assert list(folder.iterdir()) == []


def not_an_image(folder: Path) -> Path:
    (folder / "text.dcm").write_text("Doe^Jane has a cough")
    return folder / "text.dcm"


def cut_short(folder: Path) -> Path:
    whole = write_dicom(folder / "whole.dcm", np.full((64, 64), 7)).read_bytes()
    (folder / "cut.dcm").write_bytes(whole[:-2000])
    return folder / "cut.dcm"


def several_frames(folder: Path) -> Path:
    return write_dicom(folder / "cine.dcm", np.full((3, 16, 16), 7))


def damaged_png(folder: Path) -> Path:
    cv2.imwrite(str(folder / "cut.png"), np.full((64, 64), 7, np.uint8))
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:60])
    return folder / "cut.png"


IMAGES = {
    "not an image": (not_an_image, "cannot be used"),
    "cut short": (cut_short, "cannot be used"),
    "damaged PNG": (damaged_png, "ends early"),
    "several frames": (several_frames, "holds 3 frames"),
    "absent": (lambda folder: folder / "absent.png", "not found"),
    "a folder": (lambda folder: folder, "not found"),
}


def refusal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> str:
    """What the command says about input that it cannot use: one line, exit code 2."""
    monkeypatch.setattr(sys, "argv", ["cxr-local-mi", "ground", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    line = said.err.strip().splitlines()[-1]
    assert line.startswith("cxr-local-mi: ")
    assert "Traceback" not in said.err
    return line


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_that_cannot_be_used(
    case: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words = IMAGES[case]
    path = make(tmp_path)
    line = refusal(capsys, monkeypatch, run, path, SENTENCE, tmp_path / "out" / "p.png")
    assert str(path) in line
    assert words in line
    assert "cough" not in line
    assert not (tmp_path / "out").exists()


def test_requests_that_cannot_be_met(
    run: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: str | Path) -> str:
        return refusal(capsys, monkeypatch, *arguments)

    before = sorted(tmp_path.iterdir())
    picture = tmp_path / "p.png"
    assert "pretrain run" in refused(tmp_path, image, SENTENCE, picture)
    assert "sentence is empty" in refused(run, image, " \n", picture)
    assert "end in .png" in refused(run, image, SENTENCE, tmp_path / "p.jpg")
    assert f"File exists: {image}" in refused(run, image, SENTENCE, image / "p.png")
    assert sorted(tmp_path.iterdir()) == before


def test_the_image_itself_is_never_written_over(run: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "i.png"), np.eye(64) * 255)
    before = (tmp_path / "i.png").read_bytes()
    with pytest.raises(ValueError, match="is the image itself"):
        ground_file(run, tmp_path / "i.png", SENTENCE, tmp_path / "." / "i.png")
    assert (tmp_path / "i.png").read_bytes() == before


def test_a_folder_in_the_place_of_a_file(run: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "p.nii.gz").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        ground_file(run, image, SENTENCE, tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()


def test_a_sentence_longer_than_the_encoder_takes_is_cut_with_a_warning(
    run: Path, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, radiograph = load_grounding_model(run), read_radiograph(image, 64, "voi")
    first, second = (ground(model, radiograph, "effusion " * count) for count in (300, 400))
    assert len([record for record in caplog.records if "lose their end" in record.message]) == 2
    np.testing.assert_array_equal(first.scores, second.scores)


# The picture


def decoded(content: bytes) -> np.ndarray:
    """(rows, columns, 3), blue first."""
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).astype(int)


def red(picture: np.ndarray) -> np.ndarray:
    return picture[..., 2] - picture[..., :2].max(axis=2) > 80


def test_the_highest_score_is_red_and_the_rest_of_the_radiograph_stays_grey() -> None:
    scores = np.zeros((8, 8), np.float32)
    scores[1, 6] = 5
    grounding = grounding_of(scores, 64, 64, 64)
    grounding.radiograph.picture[:] = 0.5
    picture = decoded(overlay(grounding, SENTENCE, []))
    rows, columns = np.nonzero(red(picture)[:, : int(0.9 * picture.shape[1])])  # the scale is at the right
    height, width = picture.shape[:2]
    assert rows.min() > 0
    assert rows.max() < 0.45 * height, "in the upper part of the right panel"
    assert columns.min() > 0.7 * width
    grey = picture[int(0.7 * height), int(0.55 * width)]
    assert np.ptp(grey) <= 8


def test_a_map_without_differences_highlights_nothing() -> None:
    picture = decoded(overlay(grounding_of(np.zeros((8, 8), np.float32), 64, 64, 64), SENTENCE, []))
    assert not red(picture)[:, : int(0.9 * picture.shape[1])].any()


@pytest.mark.parametrize("sentence", ["a $x_1$ \\frac", "word " * 2000, "x" * 5000, "胸水 \u202e"])
def test_any_sentence_can_be_a_caption(sentence: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # Matplotlib's font does not have every script
        picture = decoded(overlay(grounding_of(np.eye(4, dtype=np.float32), 64, 64, 64), sentence, []))
    assert picture.shape[1] == 1320
    assert 400 < picture.shape[0] < 800
    assert (picture.max(axis=2) < 30).mean() > 0.5, "the black radiograph keeps its room"


@pytest.mark.parametrize(("rows", "columns"), [(2, 300), (300, 2), (1, 1)])
def test_any_shape_can_be_drawn(rows: int, columns: int) -> None:
    picture = decoded(overlay(grounding_of(np.eye(4, dtype=np.float32), rows, columns, 64), SENTENCE, []))
    assert max(picture.shape) < 3000


def test_true_boxes_are_outlined_in_the_pixels_of_the_picture(tmp_path: Path) -> None:
    grounding = grounding_of(np.zeros((8, 8), np.float32), 128, 64, 64)
    grounding.radiograph.picture[32:64, 16:32] = 1
    draw_grounding(grounding, SENTENCE, tmp_path / "p.png", [(31.5, 15.5, 63.5, 31.5)])
    picture = decoded((tmp_path / "p.png").read_bytes())
    right = picture[:, picture.shape[1] // 2 :]
    cyan = (right[..., 0] > 150) & (right[..., 2] < 100) & (right[..., 1] > 150)
    bright = (right.min(axis=2) > 115) & (np.arange(right.shape[1]) < 0.4 * right.shape[1])[None]
    bright[: int(0.1 * len(bright))] = False  # the caption's white
    outline, square = (np.argwhere(mask) for mask in (cyan, bright & _inside(cyan)))
    np.testing.assert_allclose(outline.min(axis=0), square.min(axis=0), atol=4)
    np.testing.assert_allclose(outline.max(axis=0), square.max(axis=0), atol=4)


def _inside(outline: np.ndarray) -> np.ndarray:
    """The rectangle around marked pixels."""
    rows, columns = np.nonzero(outline)
    mask = np.zeros(outline.shape, bool)
    mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return mask
