"""Where in a radiograph a sentence is true: the map of region scores as a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from local_mi.files import write_atomically
from local_mi.text import pad_token_ids, tokenize
from local_mi.weights import read_encoder
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipelines.bundle import ENCODER, pretrained_network, run_configuration
from preprocessing.errors import InputError, UnusableFile
from preprocessing.readers import read_square

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Grounding:
    """A sentence's region scores over an image.

    Args:
        image: (size, size) in [0, 1].
        scores: (h, w), the critic's score of each region with the sentence.
    """

    image: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]

    def heat(self) -> npt.NDArray[np.float32]:
        """Scores scaled to [0, 1] and interpolated to the image, (size, size)."""
        grid = torch.from_numpy(self.scores)[None, None]
        heat = F.interpolate(grid, size=self.image.shape, mode="bilinear", align_corners=False)[0, 0].numpy()
        return np.asarray((heat - heat.min()) / max(float(np.ptp(heat)), 1e-6), dtype=np.float32)


def ground(network: Any, image: npt.NDArray[np.float32], sentence: str, text_model: Path, max_tokens: int) -> Grounding:
    """Score every region of an image with a sentence.

    Args:
        network: `local_mi.network.LocalMINetwork` in evaluation mode.
        image: (size, size) in [0, 1], prepared as in training.
        sentence: free text.
        text_model: directory of the run's text model.
        max_tokens: as in training.
    """
    token_ids, attention_mask = pad_token_ids(tokenize([sentence], str(text_model), max_tokens))
    with torch.no_grad():
        regions = network.encode_regions(torch.from_numpy(image)[None, None])  # (1, h, w, D)
        embedding = network.encode_sentences(token_ids, attention_mask)  # (1, D)
        scores = network.critic.score(regions.flatten(1, 2), embedding)[0, :, 0]
    return Grounding(image, scores.reshape(regions.shape[1:3]).numpy())


def draw_grounding(grounding: Grounding, sentence: str, path: Path, boxes: list[Box]) -> None:
    """Write a PNG: the radiograph, and the radiograph with the sentence's region highlighted.

    Args:
        grounding: what to draw.
        sentence: the caption.
        path: of the PNG.
        boxes: known true places as (row0, column0, row1, column1) in image pixels, drawn as outlines.
    """
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9, 5), layout="constrained")
        plain, marked = figure.subplots(1, 2)
        for axes in (plain, marked):
            axes.imshow(grounding.image, cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
        heat = grounding.heat()
        marked.imshow(heat, cmap="inferno", alpha=0.6 * heat)
        for row0, column0, row1, column1 in boxes:
            outline = Rectangle((column0, row0), column1 - column0, row1 - row0, fill=False, edgecolor="cyan", lw=1.2)
            marked.add_patch(outline)
        figure.suptitle(sentence, wrap=True, parse_math=False)
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def ground_file(run: Path, image: Path, sentence: str, picture: Path) -> Grounding:
    """Ground a sentence in an image file with a run's network and write the picture.

    Raises:
        InputError: the image cannot be used, or the sentence is empty.
        ConfigurationError: the run is not there.
    """
    if not sentence.strip():
        raise InputError("the sentence is empty; give one as a report would hold it")
    if not image.is_file():
        raise InputError(f"image not found: {image}")
    configuration = run_configuration(run, "pretrain")
    preset = read_encoder(str(run / "models" / ENCODER))[1]["preprocessing"].get("preset", "voi")
    try:
        picture_of_it = read_square(image, int(configuration["image_size"]), preset)
    except UnusableFile as error:
        raise InputError(f"{image} cannot be used: {error.detail}") from error
    grounding = ground(
        pretrained_network(run),
        picture_of_it,
        sentence,
        run / "models" / "text_model",
        int(configuration["max_tokens"]),
    )
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_grounding(grounding, sentence, picture, [])
    return grounding
