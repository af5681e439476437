"""How well maps of sentences show where the sentences are true, on phantoms, whose true places are known.

Two measures over the pixels of the picture, without the black border of its square. The pointing game (Zhang et al.,
IJCV 2018, without their tolerance): a sentence hits where the map's highest pixel lies inside the true box. The
overlap: the share of the true box that the map's highest pixels, as many as the box has, cover. A map that knows
nothing gets the box's share of the picture in both: chance. Pixels of equal score count in equal parts.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from pipelines.ground import GroundingModel, load_grounding_model
from pipelines.phantom_store import pseudonyms
from pipelines.score_maps import Box, interpolated
from preprocessing.errors import InputError
from preprocessing.geometry import Geometry, fit_square
from preprocessing.readers import RadiographReader

BATCH = 16  # every image of a batch is scored with every sentence of it


@dataclass(frozen=True)
class PlacedSentence:
    """A sentence of a stored image that is true at a known place.

    Args:
        image: pseudonym of the image.
        path: of the image, relative to the store.
        sentence: as the report has it.
        finding: label name.
        box: edges (row0, column0, row1, column1) in the stored image, with integers at pixel centres.
        picture: edges of the radiograph itself in the stored image, whose rest is black border.
    """

    image: str
    path: str
    sentence: str
    finding: str
    box: Box
    picture: Box


@dataclass(frozen=True)
class PointingScore:
    """What maps of sentences are worth.

    Args:
        sentences: number of sentences.
        hits: share whose highest pixel lies in the true box.
        overlap: mean share of the true box that as many highest pixels cover.
        chance: mean share of the picture that the true box takes: both measures of a map that knows nothing.
    """

    sentences: int
    hits: float
    overlap: float
    chance: float


def score_run(run: Path, phantoms: Path, store: Path, private: Path, split: str) -> PointingScore:
    """Measure a pretraining run on phantoms: by region scores, or by Grad-CAM where its objective is `global`.

    Args:
        run: folder of the run.
        phantoms: see `placed_sentences`, as for the others.
        store: of the phantoms, made with the run's preset.
        private: of the store.
        split: of the store.

    Raises:
        ConfigurationError: the run is not there or not whole.
        InputError: the private side table is missing, or no sentence has a known place.
    """
    return pointing_score(load_grounding_model(run), store, placed_sentences(phantoms, store, private, split))


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
    pseudonym = pseudonyms(private, "image")
    studies = pl.read_parquet(store / "studies.parquet").filter(pl.col("split") == split)
    images = pl.read_parquet(store / "images.parquet").filter(pl.col("study").is_in(studies["study"].implode()))
    rows = {row["image"]: row for row in images.iter_rows(named=True)}
    return [
        _placed(rows[image], truth)
        for truth in _truth(phantoms / "truth" / "sentences.jsonl")
        if truth["status"] == "positive" and truth["box"] and (image := pseudonym.get(truth["image"], "")) in rows
    ]


def pointing_score(model: GroundingModel, store: Path, sentences: Sequence[PlacedSentence]) -> PointingScore:
    """Measure any maps on sentences of a store.

    Raises:
        InputError: there are no sentences.
    """
    if not sentences:
        raise InputError(f"no sentence of {store} has a known place; more studies are needed")
    measured = []
    for start in range(0, len(sentences), BATCH):
        batch = sentences[start : start + BATCH]
        pictures = [stored_picture(store, placed) for placed in batch]
        squares = np.stack([fit_square(picture, model.image_size)[0] for picture in pictures])
        maps = model.maps(torch.from_numpy(squares)[:, None], [placed.sentence for placed in batch])
        for placed, picture, scores in zip(batch, pictures, maps, strict=True):
            measured.append(measure(scores, placed, len(picture)))
    hits, overlap, chance = np.mean(measured, axis=0).tolist()
    return PointingScore(len(sentences), hits, overlap, chance)


def measure(scores: NDArray[np.floating[Any]], placed: PlacedSentence, size: int) -> tuple[float, float, float]:
    """Hit, overlap and chance of one map.

    Args:
        scores: (h, w) over the regions of the square.
        placed: what is true where.
        size: side of the stored image in pixels.
    """
    rows, columns = _pixels(placed.picture, size)
    values = interpolated(scores, (rows + 0.5) / size, (columns + 0.5) / size)
    box_rows, box_columns = _pixels(placed.box, size)
    inside = np.isin(rows, box_rows)[:, None] & np.isin(columns, box_columns)[None, :]
    return pointing(values, inside), overlap(values, inside), float(inside.mean())


def pointing(values: NDArray[np.floating[Any]], inside: NDArray[np.bool_]) -> float:
    """The share of the highest pixels, usually one, that lies inside.

    Args:
        values: (rows, columns).
        inside: (rows, columns), whether a pixel is in the true box.
    """
    return float(inside[values == values.max()].mean())


def overlap(values: NDArray[np.floating[Any]], inside: NDArray[np.bool_]) -> float:
    """The share of the true box that as many highest pixels cover.

    Args:
        values: (rows, columns).
        inside: (rows, columns), whether a pixel is in the true box; at least one is.
    """
    pixels = int(inside.sum())
    lowest = np.partition(values, -pixels, axis=None)[-pixels]
    above, level = values > lowest, values == lowest
    places_left = pixels - int(above.sum())
    return float(inside[above].sum() + places_left * inside[level].mean()) / pixels


def stored_picture(store: Path, placed: PlacedSentence) -> NDArray[np.float32]:
    """The stored image (size, size) in [0, 1], whatever its format and bit depth."""
    return RadiographReader().get_data([store / placed.path])[0]


def _pixels(edges: Box, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns whose centres lie between edges, at least one of each."""
    row0, column0, row1, column1 = edges
    return _centres(row0, row1, size), _centres(column0, column1, size)


def _centres(low: float, high: float, size: int) -> NDArray[np.intp]:
    first = min(max(ceil(low), 0), size - 1)
    return np.arange(first, min(max(ceil(high), first + 1), size))


def _truth(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file)


def _placed(row: dict[str, Any], truth: dict[str, Any]) -> PlacedSentence:
    """A sentence of the truth in the stored image that a row of the image table describes."""
    fields = ("rows", "columns", "size", "scale_rows", "scale_columns", "offset_rows", "offset_columns")
    geometry = Geometry(**{name: row[name] for name in fields})
    box, picture = (_stored(geometry, edges) for edges in (truth["box"], (0, 0, geometry.rows, geometry.columns)))
    return PlacedSentence(row["image"], row["path"], truth["sentence"], truth["finding"], box, picture)


def _stored(geometry: Geometry, box: Sequence[int]) -> Box:
    """The edges that a slice `[row0:row1, column0:column1]` of the original has in the stored square."""
    edges = np.array([box[:2], box[2:]], np.float64) - 0.5  # integers are at pixel centres
    (row0, column0), (row1, column1) = geometry.to_stored(edges).tolist()
    return row0, column0, row1, column1
