"""Where in a radiograph a sentence is found: a map of scores over its regions, as a picture and as a NIfTI.

A run with local objective scores every region itself. Of a run whose objective is `global` the map is Grad-CAM: which
places raised the score of the whole image.
"""

import gzip
import io
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import nibabel
import numpy as np
import torch
from local_mi.tokens import text_batch
from local_mi.weights import read_encoder
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from monai.bundle import ConfigParser
from monai.visualize import GradCAM
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.bundle import ENCODER, pretrained_network, run_configuration
from preprocessing.errors import InputError, UnusableFile
from preprocessing.geometry import Geometry, fit_square
from preprocessing.readers import RadiographReader

Box = tuple[float, float, float, float]
SentenceMaps = Callable[[Tensor, Sequence[str]], NDArray[np.float32]]
"""Images (B, 1, size, size) in [0, 1] and B sentences, one for each -> (B, h, w), higher where it is rather found."""
TextBatch = Callable[[list[str]], dict[str, Tensor]]
"""Sentences -> what `LocalMINetwork.region_scores` takes (`tokens.text_batch`)."""

CAPTION = 240  # characters
SHOWN = 640  # pixels of the long side in the picture that is drawn
COLOURS = matplotlib.colormaps["autumn_r"]  # yellow to red: stands out from black, grey and white
OPACITY = 0.65  # of the highest score


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


@dataclass(frozen=True)
class Radiograph:
    """A picture and what the network sees of it.

    Args:
        picture: (rows, columns) in [0, 1].
        square: (size, size), the picture as the network takes it.
        geometry: how the picture lies in the square.
        affine: (4, 4) from (row, column) to millimetres (`preprocessing.readers.plane_affine`).
    """

    picture: NDArray[np.float32]
    square: NDArray[np.float32]
    geometry: Geometry
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Grounding:
    """A sentence's scores over a radiograph.

    Args:
        radiograph: what was looked at.
        scores: (h, w) over the square's regions: the critic's scores, or Grad-CAM's weights.
    """

    radiograph: Radiograph
    scores: NDArray[np.float32]

    def pixel_scores(self) -> NDArray[np.float32]:
        """Scores at the pixels of the picture itself, (rows, columns)."""
        geometry = self.radiograph.geometry
        rows = geometry.to_stored(np.column_stack([np.arange(geometry.rows), np.zeros(geometry.rows)]))[:, 0]
        columns = geometry.to_stored(np.column_stack([np.zeros(geometry.columns), np.arange(geometry.columns)]))[:, 1]
        return interpolated(self.scores, (rows + 0.5) / geometry.size, (columns + 0.5) / geometry.size)


def interpolated(
    scores: NDArray[np.floating[Any]], down: NDArray[np.float64], across: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Bilinear between the centres of regions, and level beyond the outermost.

    Args:
        scores: (h, w) over a square.
        down: (rows,) places as shares of the square's side, from its upper edge.
        across: (columns,) places from its left edge.

    Returns:
        (rows, columns).
    """
    lines = _between(np.asarray(scores, np.float32), down)  # (rows, w)
    return _between(lines.T, across).T


def _between(values: NDArray[np.float32], places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values (n, m) at equal distances -> (places, m), linear between the nearest two; equal ones stay exactly so."""
    last = len(values) - 1
    at = np.clip(places * len(values) - 0.5, 0, last)
    first = np.minimum(at.astype(np.intp), max(last - 1, 0))
    below, above = values[first], values[np.minimum(first + 1, last)]
    return np.asarray(below + (at - first)[:, None].astype(np.float32) * (above - below), np.float32)


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


def overlay(grounding: Grounding, sentence: str, boxes: list[Box]) -> bytes:
    """A PNG: the radiograph, and the radiograph with the scores over it, the clearer the higher.

    Args:
        grounding: what to draw.
        sentence: the caption.
        boxes: known true places as edges (row0, column0, row1, column1) in the picture's pixels, drawn as outlines.
    """
    rows, columns = grounding.radiograph.picture.shape
    row_mm, column_mm = np.linalg.norm(grounding.radiograph.affine[:3, :2], axis=0)
    shape = _shown_shape(rows * row_mm, columns * column_mm)
    picture, scores = (scaled(array, shape) for array in (grounding.radiograph.picture, grounding.pixel_scores()))
    scale = Normalize(*score_range(scores))
    height = 5.2 * shape[0] / shape[1] + 0.7  # inches; a panel is 5.2 wide
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(12, height), layout="constrained")
        plain, marked = figure.subplots(1, 2)
        for axes, shown in ((plain, picture), (marked, blended(0.9 * picture, np.asarray(scale(scores))))):
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
            axes.set_aspect(row_mm / column_mm)
            axes.set_axis_off()
        for row0, column0, row1, column1 in boxes:
            outline = Rectangle((column0, row0), column1 - column0, row1 - row0, fill=False, edgecolor="cyan", lw=1.2)
            marked.add_patch(outline)
        figure.colorbar(ScalarMappable(scale, _colours_over_grey()), ax=marked, label="score", shrink=0.8)
        figure.suptitle(textwrap.shorten(sentence, CAPTION, placeholder=" ..."), wrap=True, parse_math=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _shown_shape(tall: float, wide: float) -> tuple[int, int]:
    """Rows and columns on the screen of a picture of some millimetres; very long ones are cut short."""
    scale = SHOWN / max(tall, wide)
    return max(SHOWN // 4, round(tall * scale)), max(SHOWN // 4, round(wide * scale))


def scaled(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Area means where there are fewer rows (and columns) than before, else bilinear."""
    rows, columns = shape
    interpolation = cv2.INTER_AREA if rows < array.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(array, (columns, rows), interpolation=interpolation), np.float32)


def blended(picture: NDArray[np.floating[Any]], height: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Colours over a picture, (rows, columns, 3).

    Args:
        picture: (rows, columns) in [0, 1].
        height: (rows, columns), 0 for the lowest score, which leaves the picture bare, to 1 for the highest.
    """
    share = OPACITY * height[..., None] ** 2
    return np.asarray((1 - share) * picture[..., None] + share * COLOURS(height)[..., :3])


def _colours_over_grey() -> ListedColormap:
    """The colours as they are seen."""
    return ListedColormap(blended(np.full((256, 1), 0.45), np.linspace(0, 1, 256)[:, None])[:, 0])


def score_range(scores: NDArray[np.float32]) -> tuple[float, float]:
    """Lowest and highest score, a little apart where all are the same: nothing is highlighted then."""
    low, high = float(scores.min()), float(scores.max())
    return low, max(high, low + 1e-6)


def nifti(grounding: Grounding) -> bytes:
    """A gzipped NIfTI-1 of the scores (rows, columns), float32, in the place and with the spacing of the picture.

    Its header holds no text.
    """
    affine, scores = grounding.radiograph.affine, grounding.pixel_scores()
    image = nibabel.Nifti1Image(scores, affine)
    image.set_qform(affine, code="aligned")  # some viewers read this one, some the other
    image.set_sform(affine, code="aligned")
    image.header.set_xyzt_units("mm")
    image.header["cal_min"], image.header["cal_max"] = score_range(scores)
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)  # no name and no time in it


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
