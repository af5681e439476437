"""How often a sentence's best region lies where the sentence is true, on phantoms, whose true places are known.

The pointing game: the centre of the best-scoring region hits where it lies inside the true box. Chance is the share of
regions whose centre does.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.ground import Box, Grounding, ground
from preprocessing.errors import InputError
from preprocessing.geometry import Geometry
from preprocessing.readers import RadiographReader


@dataclass(frozen=True)
class PlacedSentence:
    """A sentence of a stored image that is true at a known place.

    Args:
        image: pseudonym of the image.
        path: of the image, relative to the store.
        sentence: as the report has it.
        finding: label name.
        box: edges (row0, column0, row1, column1) in the stored image, with integers at pixel centres.
    """

    image: str
    path: str
    sentence: str
    finding: str
    box: Box


@dataclass(frozen=True)
class PointingScore:
    """Result of the pointing game.

    Args:
        sentences: number of sentences.
        hits: share whose best region lies in the true box.
        chance: mean share of regions that lie in the true box.
    """

    sentences: int
    hits: float
    chance: float


def placed_sentences(phantoms: Path, store: Path, private: Path, split: str) -> list[PlacedSentence]:
    """Positive sentences with a box, of the studies in a split, in the store's names and pixels.

    Args:
        phantoms: folder made by `write_phantoms`.
        store: the store that the phantoms were ingested into.
        private: its private folder: true places are known by real UIDs, the store by pseudonyms.
        split: `training`, `validation` or `test`.

    Raises:
        InputError: the private side table is missing.
    """
    side_table = private / "identity.parquet"
    if not side_table.is_file():
        raise InputError(f"{side_table} is missing; true places cannot be matched with the store without it")
    identity = pl.read_parquet(side_table).filter(pl.col("kind") == "image")
    pseudonym = dict(zip(identity["original"], identity["pseudonym"], strict=True))
    studies = pl.read_parquet(store / "studies.parquet").filter(pl.col("split") == split)
    images = pl.read_parquet(store / "images.parquet").filter(pl.col("study").is_in(studies["study"].implode()))
    rows = {row["image"]: row for row in images.iter_rows(named=True)}
    return [
        PlacedSentence(
            image, rows[image]["path"], truth["sentence"], truth["finding"], _stored_box(rows[image], truth["box"])
        )
        for truth in _truth(phantoms / "truth" / "sentences.jsonl")
        if truth["status"] == "positive" and truth["box"] and (image := pseudonym.get(truth["image"], "")) in rows
    ]


def pointing_score(
    network: Any, store: Path, sentences: list[PlacedSentence], text_model: Path, max_tokens: int
) -> PointingScore:
    """Play the pointing game with a network over sentences."""
    hits, chances = [], []
    for placed in sentences:
        grounding = ground(network, stored_picture(store, placed), placed.sentence, text_model, max_tokens)
        inside = _centres_inside(grounding, placed.box)
        hits.append(bool(inside.flat[int(grounding.scores.argmax())]))
        chances.append(float(inside.mean()))
    return PointingScore(len(sentences), float(np.mean(hits)), float(np.mean(chances)))


def stored_picture(store: Path, placed: PlacedSentence) -> npt.NDArray[np.float32]:
    """The stored image (size, size) in [0, 1], whatever its format and bit depth."""
    return RadiographReader().get_data([store / placed.path])[0]


def _centres_inside(grounding: Grounding, box: Box) -> npt.NDArray[np.bool_]:
    """(h, w), which regions have their centre in the box."""
    (rows, columns), size = grounding.scores.shape, grounding.image.shape[0]
    y = (np.arange(rows) + 0.5) * size / rows - 0.5  # integers at pixel centres, as in `geometry`
    x = (np.arange(columns) + 0.5) * size / columns - 0.5
    row0, column0, row1, column1 = box
    inside: npt.NDArray[np.bool_] = ((y >= row0) & (y < row1))[:, None] & ((x >= column0) & (x < column1))[None, :]
    return inside


def _truth(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file)


def _stored_box(row: dict[str, Any], box: list[int]) -> Box:
    """The box that a slice `[row0:row1, column0:column1]` of the original covers in the stored square."""
    fields = ("rows", "columns", "size", "scale_rows", "scale_columns", "offset_rows", "offset_columns")
    edges = np.array([box[:2], box[2:]], np.float64) - 0.5  # integers are at pixel centres
    (row0, column0), (row1, column1) = Geometry(**{name: row[name] for name in fields}).to_stored(edges).tolist()
    return row0, column0, row1, column1
