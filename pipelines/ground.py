"""Where in a radiograph a sentence is found: a map of scores over its regions, as a picture and as a NIfTI.

A run with local objective scores every region itself. Of a run whose objective is `global` the map is Grad-CAM: which
places raised the score of the whole image.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from local_mi.tokens import text_batch
from local_mi.weights import read_encoder
from monai.bundle import ConfigParser
from monai.visualize import GradCAM
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.bundle import ENCODER, pretrained_network, run_configuration
from pipelines.score_maps import Box, Grounding, Radiograph, nifti, overlay
from preprocessing.errors import InputError, UnusableFile
from preprocessing.geometry import fit_square
from preprocessing.readers import RadiographReader

SentenceMaps = Callable[[Tensor, Sequence[str]], NDArray[np.float32]]
"""Images (B, 1, size, size) in [0, 1] and B sentences, one for each -> (B, h, w), higher where it is rather found."""
TextBatch = Callable[[list[str]], dict[str, Tensor]]
"""Sentences -> what `LocalMINetwork.region_scores` takes (`tokens.text_batch`)."""


@dataclass(frozen=True)
class GroundingModel:
    """A pretraining run as far as grounding needs it.

    Args:
        maps: of the run's network.
        image_size: side of the network's images in pixels.
        preset: how DICOM pixels became pictures (`preprocessing.rendering.PRESETS`).
    """

    maps: SentenceMaps
    image_size: int
    preset: str


def load_grounding_model(run: Path) -> GroundingModel:
    """The network of a pretraining run, with its best weights, on the CPU.

    Raises:
        ConfigurationError: the run is not there or not whole.
    """
    parser = ConfigParser(run_configuration(run, "pretrain"))
    encoding, max_tokens, image_size = map(parser.get_parsed_content, ("encoding", "max_tokens", "image_size"))
    preset = read_encoder(str(run / "models" / ENCODER))[1]["preprocessing"].get("preset", "voi")
    text_model = str(run / "models" / "text_model")
    text: TextBatch = partial(text_batch, text_model=text_model, encoding=encoding, max_tokens=max_tokens)
    return GroundingModel(sentence_maps(pretrained_network(run), text), image_size, preset)


def sentence_maps(network: Any, text: TextBatch) -> SentenceMaps:
    """Region scores of a `LocalMINetwork` in evaluation mode; Grad-CAM where its objective scores no regions."""
    return grad_cam_maps(network, text) if network.local_critic is None else region_maps(network, text)


def region_maps(network: Any, text: TextBatch) -> SentenceMaps:
    """The local critic's scores of every region with the image's sentence."""

    def maps(images: Tensor, sentences: Sequence[str]) -> NDArray[np.float32]:
        with torch.no_grad():
            scores = network.region_scores(images, text(list(sentences)))  # (B, h, w, B)
        return np.asarray(scores.diagonal(dim1=0, dim2=3).permute(2, 0, 1), np.float32)

    return maps


def grad_cam_maps(network: Any, text: TextBatch) -> SentenceMaps:
    """Grad-CAM (Selvaraju et al., ICCV 2017) of the global critic's score, at the image encoder's last stage.

    MONAI's hooks stay on the network.
    """
    stages = [name for name, _ in network.image_encoder.named_children() if name.startswith(("layer", "features"))]
    cam = GradCAM(_OwnScore(network), target_layers=f"network.image_encoder.{stages[-1]}")

    def maps(images: Tensor, sentences: Sequence[str]) -> NDArray[np.float32]:
        found = cam.compute_map(
            images.detach().requires_grad_(), class_idx=0, text=text(list(sentences))
        )  # (B, 1, h, w)
        network.zero_grad()
        return np.asarray(found[:, 0].detach(), np.float32)

    return maps


class _OwnScore(nn.Module):
    """The score of each image with its own sentence as the one class that Grad-CAM explains."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, text: dict[str, Tensor]) -> Tensor:
        """(B, 1, size, size) and B sentences -> (B, 1)."""
        scores: Tensor = self.network.report_scores(images, text)  # (B, B)
        return scores.diagonal()[:, None]


def read_radiograph(path: Path, size: int, preset: str) -> Radiograph:
    """Read one image as ingest prepares it.

    Args:
        path: DICOM of one frame; PNG or JPEG; or `.npy` of a store.
        size: side of the network's images in pixels.
        preset: for DICOM alone (`preprocessing.rendering.PRESETS`).

    Raises:
        InputError: the file is not there, is no picture, or holds several.
    """
    if not path.is_file():
        raise InputError(f"image not found: {path}")
    try:
        picture, metadata = RadiographReader(preset).get_data([path])
    except UnusableFile as error:
        raise InputError(f"{path} cannot be used: {error.detail}") from error
    if picture.ndim != 2:
        raise InputError(f"{path} holds {picture.shape[-1]} frames; give an image of one")
    square, geometry = fit_square(picture, size, metadata["pixel_aspect"])
    return Radiograph(picture, square, geometry, metadata["affine"])


def ground(model: GroundingModel, radiograph: Radiograph, sentence: str) -> Grounding:
    """Score a sentence all over a radiograph."""
    image = torch.from_numpy(radiograph.square)[None, None]
    return Grounding(radiograph, model.maps(image, [sentence])[0])


def ground_file(run: Path, image: Path, sentence: str, picture: Path) -> Path:
    """Ground a sentence in an image file with a run's network; write the picture and, beside it, the scores.

    Args:
        run: folder of a pretraining run.
        image: see `read_radiograph`.
        sentence: as a report would hold it.
        picture: the PNG to write.

    Returns:
        The NIfTI of the scores: `picture` with `.nii.gz` for `.png`.

    Raises:
        InputError: the image cannot be used, the sentence is empty, or the picture's name is none of a new PNG.
        ConfigurationError: the run is not there or not whole.
        OSError: the files cannot be written; then neither is.
    """
    sentence = " ".join(sentence.split())
    if not sentence:
        raise InputError("the sentence is empty; give one as a report would hold it")
    scores = picture.with_suffix(".nii.gz")
    _check_names(image, picture, scores)
    model = load_grounding_model(run)
    grounding = ground(model, read_radiograph(image, model.image_size, model.preset), sentence)
    _write_all({picture: overlay(grounding, sentence, []), scores: nifti(grounding)})
    return scores


def _check_names(image: Path, picture: Path, scores: Path) -> None:
    """Refuse, before anything is computed, names that cannot be written to."""
    if picture.suffix.lower() != ".png":
        raise InputError(f"{picture} is no name of a PNG; let it end in .png")
    for path in (picture, scores):
        if path.is_dir():
            raise InputError(f"{path} is a folder; name another file to write")
        if path.exists() and image.exists() and path.samefile(image):
            raise InputError(f"{path} is the image itself; name another file to write")


def draw_grounding(grounding: Grounding, sentence: str, path: Path, boxes: list[Box]) -> None:
    """Write the picture that `overlay` draws."""
    _write_all({path: overlay(grounding, sentence, boxes)})


def _write_all(contents: dict[Path, bytes]) -> None:
    """Write files of one folder, all of them whole or none."""
    folder = next(iter(contents)).parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".ground.") as temporary:
            for path, content in contents.items():
                (Path(temporary) / path.name).write_bytes(content)
            for path in contents:
                (Path(temporary) / path.name).replace(path)
    except OSError as error:  # its own file name is that of a temporary file, which says nothing to anybody
        raise OSError(error.errno, error.strerror, str(folder)) from error
