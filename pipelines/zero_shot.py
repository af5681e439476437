"""Zero-shot: scores of text prompts for images that no label was ever given for, and the reports nearest to an image.

Both by the joint network of a pretraining run (`local_mi.zero_shot`), on the GPU where there is one.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch
from local_mi.datalist import SPLITS, checked_items, read_datalist
from local_mi.errors import ConfigurationError
from local_mi.tokens import TokenTable, tokenized_reports
from local_mi.weights import read_encoder
from local_mi.zero_shot import EncodedReports, ProjectedImages, all_scores, encode_reports, label_scores, nearest
from local_mi.zero_shot import project_images as projected
from monai.bundle import ConfigParser
from numpy.typing import NDArray

from pipelines.bundle import ENCODER, pretrained_network, run_configuration
from pipelines.notice import NOTICE
from pipelines.prediction_store import check_prepared
from pipelines.prompts import PROMPTS, read_prompts
from preprocessing.errors import InputError, UnusableFile
from preprocessing.files import write_atomically
from preprocessing.ingest import OnProgress
from preprocessing.readers import read_square
from preprocessing.sources import SourceImage, find_images

BATCH = 32  # images
Result = TypeVar("Result")


@dataclass(frozen=True)
class JointModel:
    """A pretraining run as far as zero-shot scoring needs it.

    Args:
        network: `LocalMINetwork` in evaluation mode.
        tokenize: sentences of each report -> their tokens, as the run made them.
        image_size: side of the network's images in pixels.
        preset: how DICOM pixels became pictures; None where the weights do not say.
        views: that it was trained on; None for all.
    """

    network: Any
    tokenize: Callable[[Sequence[Sequence[str]]], TokenTable]
    image_size: int
    preset: str | None
    views: list[str] | None


@dataclass(frozen=True)
class ScoredImages:
    """Where the table is, how many images it has, and how many of them could not be read."""

    csv: Path
    parquet: Path
    images: int
    unreadable: int


@dataclass(frozen=True)
class NearReport:
    """A report near to an image.

    Args:
        study: pseudonym.
        view: of the study's first image.
        score: on the critics' own scale, comparable for one image.
        sentences: of the report; None unless they were asked for.
    """

    study: str
    view: str
    score: float
    sentences: tuple[str, ...] | None


@dataclass(frozen=True)
class Neighbours:
    """The reports nearest to an image, the nearest first; none, and why, where the image could not be read."""

    image: Path
    reports: tuple[NearReport, ...]
    unusable: UnusableFile | None


def score_prompts(
    run: Path,
    source: Path,
    prompts: Path | None,
    out: Path,
    *,
    split: str = "test",
    on_progress: OnProgress = lambda done, total: None,
) -> ScoredImages:
    """Score prompts for images: a table with a row an image and a column a label.

    Of a store the columns are `study`, `image` and the labels, as inference writes them, so that `evaluate` can read
    the probabilities; of other images `file`, relative to the source, and the labels. An image that cannot be read has
    blank scores, a `reason` and a `detail`.

    Args:
        run: folder of a pretraining run.
        source: a store, of which the images of one split with the run's views are taken; or an image file, a folder,
            or a list of DICOM, PNG, JPEG or `.npy` files (`preprocessing.sources.find_images`, archives left closed).
        prompts: see `read_prompts`; None for the fourteen observations of CheXpert in `PROMPTS`.
        out: the CSV to write; beside it comes the same as `.parquet`.
        split: of a store.
        on_progress: takes images done and in all.

    Raises:
        InputError: the prompts cannot be used, the source is not there or empty, or `out` is no name of a CSV.
        ConfigurationError: the run is not whole or has diverged; the store is prepared by another preset.
        OSError: a table cannot be written.
    """
    parquet = out.with_suffix(".parquet")
    _check_name(out)
    asked = read_prompts(prompts or PROMPTS)
    model = load_joint_model(run)
    keys, images = _images(model, source, split, left_out=(out, parquet))
    once = dict.fromkeys(text for one in asked for text in (*one.positive, *one.negative))
    place = {text: column for column, text in enumerate(once)}
    texts = encode_reports(model.network, model.tokenize([[text] for text in place]))
    columns = [[[place[text] for text in side] for side in (one.positive, one.negative)] for one in asked]
    positive, negative = zip(*columns, strict=True)

    def scored(batch: ProjectedImages) -> list[list[float]]:
        found: list[list[float]] = label_scores(all_scores(model.network, batch, texts), positive, negative).tolist()
        return found

    results = list(_of_each(model, images, scored, on_progress))
    _write(_table(keys, [one.label for one in asked], results), out, parquet)
    return ScoredImages(out, parquet, len(results), sum(isinstance(one, UnusableFile) for one in results))


def nearest_reports(
    run: Path,
    store: Path,
    images: Sequence[Path],
    k: int,
    *,
    split: str | None = None,
    show_sentences: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> list[Neighbours]:
    """The reports of a store that go best with images, by the score of `local_mi.zero_shot`.

    A study's report counts once, where the study has an image of the run's views and a sentence. If the image is of the
    store, its own report may be found, and if the run was trained on the store, that one was learned. The text is held
    as 4 H bytes a distinct sentence, whichever the critic: for 400,000 studies with 1.2 million distinct sentences,
    0.6 GB with the small BERT (H = 128) and 3.7 GB with H = 768, beside the datalist itself. Of these an image of 64
    regions takes seconds of a core with the separable critic, and half an hour with the concatenation critic.

    Args:
        run: folder of a pretraining run.
        store: whose reports are searched.
        images: files as for `score_prompts`.
        k: number of reports for each image.
        split: `training`, `validation` or `test`; None for all of them.
        show_sentences: whether the reports' sentences come along; they are private.
        on_progress: takes images done and in all.

    Raises:
        InputError: `k` is below 1, or there is no report.
        ConfigurationError: the run is not whole or has diverged; the store has no such split.
    """
    if k < 1:
        raise InputError(f"{k} reports were asked for; ask for one or more")
    model = load_joint_model(run)
    items = _reports(store / "datalist.json", split, model.views)
    reports = encode_reports(model.network, model.tokenize([item["sentences"] for item in items]))
    sources = [SourceImage(str(path), path.name) for path in images]
    found = _of_each(model, sources, partial(_nearest, model, reports, k), on_progress)
    return [
        Neighbours(path, (), near)
        if isinstance(near, UnusableFile)
        else Neighbours(path, tuple(_near(items[n], score, show_sentences) for score, n in near), None)
        for path, near in zip(images, found, strict=True)
    ]


def load_joint_model(run: Path) -> JointModel:
    """The network of a pretraining run, with its best weights.

    Raises:
        ConfigurationError: the run is not there, not whole, or of weights that are no numbers.
    """
    parser = ConfigParser(run_configuration(run, "pretrain"))
    encoding, max_tokens, image_size, views = map(
        parser.get_parsed_content, ("encoding", "max_tokens", "image_size", "views")
    )
    preset = read_encoder(str(run / "models" / ENCODER))[1].get("preprocessing", {}).get("preset")
    network = pretrained_network(run)
    if not all(torch.isfinite(value).all() for value in network.state_dict().values()):
        raise ConfigurationError(f"{run} holds weights that are no finite numbers: the run diverged; pretrain again")
    text_model = str(run / "models" / "text_model")
    tokenize = partial(
        tokenized_reports, text_model=text_model, encoding=encoding, max_tokens=max_tokens, cache_dir=None
    )
    network = network.to("cuda" if torch.cuda.is_available() else "cpu")
    return JointModel(network, tokenize, image_size, preset, views)


def _images(
    model: JointModel, source: Path, split: str, left_out: Sequence[Path]
) -> tuple[dict[str, list[str]], list[SourceImage]]:
    """The columns that say which images a table is of, and the images."""
    if (source / "datalist.json").is_file():
        return _of_store(model, source / "datalist.json", split)
    images = list(find_images(source, left_out))
    return {"file": [image.origin for image in images]}, images


def _of_store(model: JointModel, datalist: Path, split: str) -> tuple[dict[str, list[str]], list[SourceImage]]:
    check_prepared(datalist, model.preset)
    items = checked_items(read_datalist(str(datalist)), str(datalist), split)
    taken = [item for item in items if model.views is None or item.get("view") in model.views]
    if not taken:
        raise InputError(f"split '{split}' of {datalist} has no image of the run's views {model.views}")
    names = [item["image"].rpartition("/")[2] for item in taken]
    images = [SourceImage(str(datalist.parent / item["image"]), item["image"]) for item in taken]
    return {"study": [item["study"] for item in taken], "image": names}, images


def _of_each(
    model: JointModel,
    images: Sequence[SourceImage],
    score: Callable[[ProjectedImages], Sequence[Result]],
    on_progress: OnProgress,
) -> Iterator[Result | UnusableFile]:
    """What `score` finds for each image, or why it could not be read; a batch of images at a time."""
    for start in range(0, len(images), BATCH):
        squares = [_square(image, model) for image in images[start : start + BATCH]]
        whole = [square for square in squares if not isinstance(square, UnusableFile)]
        found = iter(score(projected(model.network, torch.from_numpy(np.stack(whole))[:, None])) if whole else ())
        yield from (square if isinstance(square, UnusableFile) else next(found) for square in squares)
        on_progress(start + len(squares), len(images))


def _square(image: SourceImage, model: JointModel) -> NDArray[np.float32] | UnusableFile:
    if image.member:
        return UnusableFile("not_a_file", "it lies in an archive, which is not opened here; unpack it")
    try:
        square = read_square(Path(image.path), model.image_size, model.preset or "voi")
    except UnusableFile as error:
        return error
    except Exception as error:  # as in ingest: one file never stops the batch, and its message may quote the file
        return UnusableFile("unexpected_error", f"reading failed ({type(error).__name__})")
    if not (np.abs(square - 0.5) <= 0.501).all():  # true for NaN
        return UnusableFile("impossible_value", "pixels that are no numbers or not in [0, 1]")
    return square


def _table(
    keys: dict[str, list[str]], labels: Sequence[str], results: Sequence[list[float] | UnusableFile]
) -> pl.DataFrame:
    blank = [None] * len(labels)
    rows = [blank if isinstance(one, UnusableFile) else one for one in results]
    reasons = [(one.reason, one.detail) if isinstance(one, UnusableFile) else (None, None) for one in results]
    scores = pl.DataFrame(rows, schema=dict.fromkeys(labels, pl.Float64), orient="row")
    why = pl.DataFrame(reasons, schema={"reason": pl.String, "detail": pl.String}, orient="row")
    return pl.concat([pl.DataFrame(keys), scores, why], how="horizontal").with_columns(pl.lit(NOTICE).alias("notice"))


def _check_name(out: Path) -> None:
    if out.suffix.lower() != ".csv":
        raise InputError(f"{out} is no name of a CSV; let it end in .csv")
    for path in (out, out.with_suffix(".parquet")):
        if path.is_dir():
            raise InputError(f"{path} is a folder; name another file to write")


def _write(table: pl.DataFrame, out: Path, parquet: Path) -> None:
    columns = io.BytesIO()
    table.write_parquet(columns)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(parquet, columns.getvalue())
    write_atomically(out, table.write_csv().encode())


def _reports(datalist: Path, split: str | None, views: list[str] | None) -> list[dict[str, Any]]:
    """Study, view and sentences of each study that pretraining would take, the first of its images standing for it."""
    content = read_datalist(str(datalist))
    found: dict[str, dict[str, Any]] = {}
    for name in [split] if split else [name for name in SPLITS if content.get(name)]:
        for item in checked_items(content, str(datalist), name):
            said = [text for text in item.get("sentences", []) if any(map(str.isalnum, text))]
            if said and (views is None or item.get("view") in views):
                found.setdefault(item["study"], {"study": item["study"], "view": item.get("view"), "sentences": said})
    if not found:
        raise InputError(f"{datalist} has no study with a report and an image of the run's views; ingest reports")
    return list(found.values())


def _nearest(
    model: JointModel, reports: EncodedReports, k: int, images: ProjectedImages
) -> list[list[tuple[float, int]]]:
    scores, numbers = nearest(model.network, images, reports, k)
    return [list(zip(*pair, strict=True)) for pair in zip(scores.tolist(), numbers.tolist(), strict=True)]


def _near(item: dict[str, Any], score: float, show_sentences: bool) -> NearReport:
    return NearReport(
        item["study"], str(item["view"] or ""), score, tuple(item["sentences"]) if show_sentences else None
    )
