"""Images of 8 and 16 bits, `.npy` and PNG, are the same to the network; what would be scaled wrongly is refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest
import torch
from conftest import BUNDLE, write_image, write_store
from local_mi.checkpoints import read_record
from local_mi.datalist import read_images
from local_mi.errors import ConfigurationError
from local_mi.images import OWN_SCALE, read_image
from local_mi.weights import save_encoder
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.networks.nets import resnet18
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation
from PIL import Image

FORMS = [(image_format, bit_depth) for image_format in ("npy", "png") for bit_depth in (8, 16)]
TRANSFORMS = {"pretrain": "validate#preprocessing", "train": "validate#preprocessing", "inference": "preprocessing"}
IN_PROCESS = {"image_size": 64, "device": "cpu", "num_workers": 0, "batch_size": 16}


def one_picture_store(folder: Path, picture: np.ndarray, image_format: str, bit_depth: int) -> Path:
    """A datalist of one picture, given in [0, 1] and quantised here."""
    folder.mkdir()
    maximum = 2**bit_depth - 1
    quantised = np.round(picture * maximum).astype(np.uint8 if bit_depth == 8 else np.uint16)
    write_image(folder / f"a.{image_format}", quantised)
    item = {"image": f"a.{image_format}", "study": "s", "patient": "p", "view": "PA", "sentences": [], "label": [1]}
    preprocessing = {"preset": "voi", "size": len(picture), "range": [0, maximum], "configuration_hash": "00"}
    content = {"label_names": ["Edema"], "preprocessing": preprocessing, "training": [item]}
    content["test"] = [item | {"patient": "q"}]
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


def tensor_of(store: Path, name: str, size: int) -> torch.Tensor:
    """The picture as the named configuration hands it to the network, random augmentation aside."""
    configuration = ConfigParser.load_config_files(str(BUNDLE / "configs" / f"{name}.yaml"))
    parser = ConfigParser(configuration | {"dataset_dir": str(store), "image_size": size})
    item = read_images(str(store / "datalist.json"), "test", None)[0] | {"label": [1]}
    image: torch.Tensor = parser.get_parsed_content(TRANSFORMS[name])(item)["image"]
    return image


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize(("image_format", "bit_depth"), FORMS)
def test_the_network_sees_the_picture_whatever_the_file(
    name: str, image_format: str, bit_depth: int, tmp_path: Path
) -> None:
    """Every pixel is in its place, and off by no more than the quantisation of its file."""
    picture = np.random.default_rng(0).random((64, 64))
    picture[0, 0], picture[0, 40], picture[63, 0] = 1, 0.5, 0
    store = one_picture_store(tmp_path / "store", picture, image_format, bit_depth)
    image = tensor_of(store, name, 64)
    assert image.shape == (1, 64, 64)
    assert image.dtype == torch.float32
    assert (image[0, 0, 0], image[0, 63, 0]) == (1, 0), "marks in the upper and lower left corner"
    assert np.abs(image[0].numpy() - picture).max() <= 0.5 / (2**bit_depth - 1) + 1e-6


def test_resized_pictures_of_all_forms_agree_within_a_level(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).random((96, 96))
    seen = [tensor_of(one_picture_store(tmp_path / f"{f}{d}", picture, f, d), "inference", 64) for f, d in FORMS]
    for other in seen[1:]:
        assert (other - seen[0]).abs().max() <= 1 / 255


def workflow(name: str, store: Path, out: Path, **overrides: Any) -> None:
    paths = {"bundle_root": BUNDLE, "dataset_dir": store, "ckpt_dir": out / "models", "output_dir": out}
    given = {key: str(value) for key, value in paths.items()} | IN_PROCESS | overrides
    run = ConfigWorkflow(config_file=str(BUNDLE / "configs" / f"{name}.yaml"), logging_file=False, **given)
    run.initialize()
    run.run()


def probabilities(table: Path) -> dict[str, list[float]]:
    with table.open(newline="") as file:
        return {row["study"]: [float(row["Upper"]), float(row["Lower"])] for row in csv.DictReader(file)}


def test_a_classifier_trained_on_one_form_serves_the_others(tmp_path: Path) -> None:
    """From weights of an unnamed bit depth, trained on 16-bit PNG, used on all: the same images, the same answers."""
    encoder = str(tmp_path / "image_encoder.safetensors")
    network = resnet18(spatial_dims=2, n_input_channels=1, conv1_t_stride=2, bias_downsample=False, feed_forward=False)
    save_encoder(network, encoder, {"preprocessing": {"preset": "voi"}})
    store = write_store(tmp_path / "png16", studies=48, image_format="png", bit_depth=16)
    names = {"label_names": ["Upper", "Lower"]}
    workflow("train", store, tmp_path / "run", max_epochs=1, pretrained=encoder, **names)
    record = read_record(str(tmp_path / "run" / "models" / "model.pt"))
    assert record is not None
    assert record["preprocessing"] == {"preset": "voi"}
    answers = {}
    for image_format, bit_depth in FORMS:
        same = write_store(tmp_path / f"{image_format}-{bit_depth}", 48, image_format=image_format, bit_depth=bit_depth)
        out = tmp_path / f"out-{image_format}-{bit_depth}"
        workflow("inference", same, out, checkpoint=str(tmp_path / "run" / "models" / "model.pt"), **names)
        answers[image_format, bit_depth] = probabilities(out / "predictions.csv")
    assert len(answers["png", 16]) == 8
    for found in answers.values():
        assert found.keys() == answers["png", 16].keys()
        for study, expected in answers["png", 16].items():
            assert found[study] == pytest.approx(expected, abs=1e-4)


def test_pretraining_runs_on_sixteen_bit_png(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", studies=24, image_format="png", bit_depth=16)
    workflow("pretrain", store, tmp_path / "run", max_epochs=1)
    assert (tmp_path / "run" / "models" / "image_encoder.safetensors").is_file()


def palette(path: Path) -> None:
    """Indices 0 and 1 that stand for other values."""
    picture = Image.fromarray(np.eye(4, dtype=np.uint8)).convert("P")
    picture.putpalette([7, 7, 7, 200, 200, 200])
    picture.save(path)


def colour(path: Path) -> None:
    write_image(path, np.zeros((4, 4, 3), np.uint8))


def eight_bits(path: Path) -> None:
    write_image(path, np.zeros((4, 4), np.uint8))


def sixteen_bits(path: Path) -> None:
    write_image(path, np.zeros((4, 4), np.uint16))


def truncated(path: Path) -> None:
    whole = cv2.imencode(".png", np.zeros((64, 64), np.uint8))[1].tobytes()
    path.write_bytes(whole[: len(whole) // 2])


def text(path: Path) -> None:
    path.write_text("not a picture")


WRONG: dict[str, tuple[Callable[[Path], None], tuple[int, int], str]] = {
    "palette": (palette, (0, 255), r"uint8 with 2 axes \(P\)"),
    "colour": (colour, (0, 255), r"uint8 with 3 axes \(RGB\)"),
    "8 bits for 16": (eight_bits, (0, 65535), "uint8 with 2 axes .* values from 0 to 65535 are those of uint16"),
    "8 bits for 12": (eight_bits, (0, 4095), "uint8 .* uint16"),
    "16 bits for 8": (sixteen_bits, (0, 255), "uint16 with 2 axes .* values from 0 to 255 are those of uint8"),
    "cut short": (truncated, (0, 255), "no whole .png file"),
    "text": (text, (0, 255), "no whole .png file"),
}


@pytest.mark.parametrize(("write", "stored", "message"), WRONG.values(), ids=WRONG)
def test_what_would_be_scaled_wrongly_is_one_clear_sentence(
    write: Callable[[Path], None], stored: tuple[int, int], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.png")
    with pytest.raises(ConfigurationError, match=message) as refusal:
        read_image(tmp_path / "a.png", stored)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("write", [eight_bits, truncated, text])
def test_no_other_reader_takes_over_in_the_middle_of_an_epoch(write: Callable[[Path], None], tmp_path: Path) -> None:
    """Only the first image is looked at before training; MONAI would read a later one by a reader that transposes."""
    store = one_picture_store(tmp_path / "store", np.zeros((64, 64)), "png", 16)
    datalist = json.loads((store / "datalist.json").read_text())
    datalist["test"].append(datalist["test"][0] | {"image": "later.png"})
    (store / "datalist.json").write_text(json.dumps(datalist))
    write(store / "later.png")
    network = tmp_path / "model.pt"
    torch.save(resnet18(spatial_dims=2, n_input_channels=1, num_classes=1, bias_downsample=False).state_dict(), network)
    with pytest.raises(RuntimeError) as failure:
        workflow("inference", store, tmp_path / "out", label_names=["Edema"], checkpoint=str(network))
    causes = [failure.value.__cause__ or failure.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert any(isinstance(cause, ConfigurationError) and "later.png" in str(cause) for cause in causes)


def test_old_stores_without_a_range_are_of_eight_bits(tmp_path: Path) -> None:
    store = one_picture_store(tmp_path / "store", np.ones((64, 64)), "npy", 8)
    datalist = json.loads((store / "datalist.json").read_text())
    del datalist["preprocessing"]
    (store / "datalist.json").write_text(json.dumps(datalist))
    assert bool((tensor_of(store, "inference", 64) == 1).all())


AFFINES = {
    "left, posterior": np.diag([-1, -1, 1, 1]),
    "right, anterior": np.eye(4),
    "posterior, left": [[0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "anterior, right": [[0, 2, 0, 9], [3, 0, 0, 9], [0, 0, 1, 9], [0, 0, 0, 1]],
}
"""World steps of the two axes of a slice as it lies in the file."""


def write_nifti(path: Path, picture: np.ndarray, affine: Any) -> None:
    """Write a picture (rows, columns) so that viewers show it upright: rows to posterior, columns to the left."""
    affine = np.asarray(affine, float)
    voxels = picture if affine[0, 0] == 0 else picture.T
    step = 1 if affine[:2, :2].sum() < 0 else -1  # the other way round where the axes run to the right and to anterior
    nibabel.save(nibabel.Nifti1Image(voxels[::step, ::step, None], affine), path)


def write_folder(folder: Path, picture: np.ndarray) -> dict[str, float]:
    """The picture, given in [0, 1], in every form without a datalist; and by how much each form may be off."""
    folder.mkdir()
    eight, sixteen = (np.round(picture * (2**bits - 1)).astype(f"uint{bits}") for bits in (8, 16))
    for name, pixels in {"a.png": eight, "b.PNG": sixteen, "c.npy": eight, "d.npy": sixteen}.items():
        write_image(folder / name, pixels)
    np.save(folder / "e.npy", picture.astype(np.float32))
    assert cv2.imwrite(str(folder / "f.jpg"), eight, [cv2.IMWRITE_JPEG_QUALITY, 100])
    for number, affine in enumerate(AFFINES.values()):
        write_nifti(folder / f"g{number}.nii.gz", (eight, sixteen, picture, eight)[number], affine)
    coronal = np.array([[-1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # to the left, and down
    nibabel.save(nibabel.Nifti1Image(eight.T[:, :, None], coronal), folder / "h.nii")
    nibabel.save(nibabel.Nifti1Image(eight.T, np.diag([-1, -1, 1, 1])), folder / "i.nii")
    return {path.name: 0.03 if path.suffix == ".jpg" else 0.5 / 255 + 1e-6 for path in folder.iterdir()}


def tensors_of(folder: Path, size: int, **keys: Any) -> dict[str, torch.Tensor]:
    """All images of a folder as inference hands them to the network, by their paths in it."""
    configuration = ConfigParser.load_config_files(str(BUNDLE / "configs" / "inference.yaml"))
    parser = ConfigParser(configuration | {"dataset_dir": str(folder), "image_size": size} | keys)
    preprocessing = parser.get_parsed_content("preprocessing")
    return {item["study"]: preprocessing(item)["image"] for item in parser.get_parsed_content("items")}


def test_pictures_of_other_people_are_upright_in_every_form(tmp_path: Path) -> None:
    """The mark in the upper left corner is at [0, 0, 0], and every other pixel in its place too."""
    picture = np.random.default_rng(2).random((64, 64)) * 0.5
    picture[:8, :8] = 1
    tolerances = write_folder(tmp_path / "in", picture)
    tensors = tensors_of(tmp_path / "in", 64)
    assert list(tensors) == sorted(tolerances)
    for name, image in tensors.items():
        assert image.shape == (1, 64, 64)
        assert image.dtype == torch.float32
        assert image[0, 0, 0] == pytest.approx(1, abs=tolerances[name]), name
        assert np.abs(image[0].numpy() - picture).max() <= tolerances[name], name


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_nifti_file_lies_as_monai_would_orient_it(affine: Any, tmp_path: Path) -> None:
    voxels = np.random.default_rng(3).random((5, 7, 1)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.asarray(affine, float)), tmp_path / "a.nii.gz")
    load, channel = LoadImage(reader="NibabelReader", image_only=True), EnsureChannelFirst(channel_dim="no_channel")
    by_monai = Compose([load, channel, Orientation(axcodes="PLS", labels=None)])
    expected = by_monai(str(tmp_path / "a.nii.gz"))[0, :, :, 0].numpy()
    assert np.array_equal(read_image(tmp_path / "a.nii.gz", OWN_SCALE), expected)


@pytest.mark.parametrize(("rows", "columns"), [(128, 62), (62, 128), (128, 128), (32, 16)])
def test_a_picture_is_not_stretched_but_centred_on_black(rows: int, columns: int, tmp_path: Path) -> None:
    """As ingest does it: the long side fitted, an odd row or column of black to the right or below."""
    picture = np.random.default_rng(4).integers(1, 256, (rows, columns)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.png", picture)
    image = tensors_of(tmp_path / "in", 64)["a.png"][0].numpy()
    scaled = picture / 255.0
    if max(rows, columns) > 64:
        scaled = scaled.reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3))
    else:
        scaled = scaled.repeat(2, axis=0).repeat(2, axis=1)
    expected = np.zeros((64, 64))
    top, left = (64 - scaled.shape[0]) // 2, (64 - scaled.shape[1]) // 2
    expected[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    assert np.abs(image - expected).max() <= 1e-6


@pytest.mark.parametrize("side", [64, 96, 101, 40])
def test_squares_of_a_store_are_to_inference_what_they_are_to_training(side: int, tmp_path: Path) -> None:
    store = one_picture_store(tmp_path / "store", np.random.default_rng(5).random((side, side)), "png", 16)
    assert torch.equal(tensor_of(store, "inference", 64), tensor_of(store, "train", 64))


def twelve_bits(path: Path) -> None:
    write_image(path, np.arange(4096, dtype=np.uint16).reshape(64, 64))


def floats(path: Path) -> None:
    np.save(path, np.linspace(0, 1.1, 16).reshape(4, 4))


def not_a_number(path: Path) -> None:
    np.save(path, np.full((4, 4), np.nan))


def signed(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.arange(-8, 8, dtype=np.int16).reshape(4, 4, 1), np.eye(4)), path)


def volume(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 2), np.uint8), np.eye(4)), path)


def no_orientation(path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((4, 4, 1), np.uint8), None)
    image.header.set_sform(np.diag([0, 0, 1, 1]), 1)
    nibabel.save(image, path)


UNSAID: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "12 bits": ("a.png", twelve_bits, "uint16 with values from 0 to 4095, .* set `stored_range`"),
    "floats beyond 1": ("a.npy", floats, r"float64 with values from 0.0 to 1.1, .* set `stored_range`"),
    "not a number": ("a.npy", not_a_number, "from nan to nan"),
    "signed": ("a.nii", signed, "int16 with values from -8 to 7, .* set `stored_range`"),
    "volume": ("a.nii.gz", volume, "uint8 with 3 axes"),
    "colour": ("a.png", colour, r"3 axes \(RGB\), .* save it as grey"),
    "no orientation": ("a.nii", no_orientation, "does not say which way is up"),
    "text": ("a.nii.gz", text, "no whole .gz file"),
}


@pytest.mark.parametrize(("name", "write", "message"), UNSAID.values(), ids=UNSAID)
def test_values_whose_black_and_white_are_not_known_are_refused(
    name: str, write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(ConfigurationError, match=message) as refusal:
        read_image(tmp_path / name, OWN_SCALE)
    assert "\n" not in str(refusal.value)


def test_the_key_stored_range_says_which_values_are_black_and_white(tmp_path: Path) -> None:
    for name, write in (("png", twelve_bits), ("nii", signed)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / f"a.{name}")
    image = tensors_of(tmp_path / "png", 64, stored_range=[0, 4095])["a.png"]
    assert np.abs(image[0].numpy().ravel() - np.linspace(0, 1, 4096)).max() < 1e-6
    image = tensors_of(tmp_path / "nii", 4, stored_range=[-8, 7])["a.nii"]
    assert sorted(image.ravel().tolist()) == pytest.approx(np.linspace(0, 1, 16).tolist(), abs=1e-6)
    with pytest.raises(ConfigurationError, match="values from -8 to 7, and values from 0 to 7"):
        read_image(tmp_path / "nii" / "a.nii", (0, 7))
