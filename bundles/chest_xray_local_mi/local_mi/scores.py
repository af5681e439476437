"""What a classifier said of a split's images, beside what is known of them: read, checked, combined by study."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from local_mi.datalist import checked_items, read_datalist
from local_mi.errors import ConfigurationError
from local_mi.labels import labels_by_name

NAMED_ROWS = 5  # of the rows at fault, so many are named
FIRST_ROW = 2  # of a table; its header is row 1


@dataclass(frozen=True)
class Scores:
    """Probabilities and labels, a row an image or, once combined, a row a study.

    Args:
        label_names: L names.
        study: (N,) study ids.
        patient: (N,) patient ids.
        image: (N,) paths of the images; of a combined row, the first one's.
        probabilities: (N, L) float64 in [0, 1].
        labels: (N, L) float64: 1, 0, -1 uncertain, NaN unknown.
    """

    label_names: tuple[str, ...]
    study: npt.NDArray[np.str_]
    patient: npt.NDArray[np.str_]
    image: npt.NDArray[np.str_]
    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Table:
    """Rows of a table of predictions: `number` (N,) as a reader counts them, `key` (N) study and name of the image."""

    number: npt.NDArray[np.int64]
    key: list[tuple[str, str]]
    probabilities: npt.NDArray[np.float64]


def read_scores(predictions: str, datalist: str, split: str, label_names: Sequence[str]) -> Scores:
    """A table of predictions, as inference writes it, joined with the patients and labels of a split.

    Args:
        predictions: path of a CSV with `study`, `image` (file name) and a probability a label; other columns are
            ignored. Images of the split may be missing from it.
        datalist: path of the datalist.
        split: `training`, `validation` or `test`.
        label_names: the labels wanted, by name.

    Returns:
        Scores in the order of the table.

    Raises:
        ConfigurationError: a file is missing or malformed; a column is missing; a row is there twice, is of a study or
            an image that the split does not have, or has a probability that is missing or not in [0, 1]; the table is
            empty or of one patient.
    """
    known = _known_images(datalist, split, label_names)
    table = _read_table(predictions, list(label_names))
    studies = {study for study, _ in known}
    wanted = f"of split '{split}' of {datalist}; give the predictions made from it"
    _refuse(predictions, table.number, [study not in studies for study, _ in table.key], f"unknown study, not {wanted}")
    _refuse(predictions, table.number, [key not in known for key in table.key], f"unknown image, not {wanted}")
    patient, image, labels = zip(*(known[key] for key in table.key), strict=True)
    if len(set(patient)) < 2:
        raise ConfigurationError(
            f"{predictions} has images of one patient only; intervals resample patients, so predict at least two"
        )
    return Scores(
        tuple(label_names),
        np.array([study for study, _ in table.key]),
        np.array(patient),
        np.array(image),
        table.probabilities,
        np.array(labels, dtype=np.float64),  # None becomes NaN
    )


def combine_views(scores: Scores, how: Literal["mean", "max"]) -> Scores:
    """A row a study, in the order of first appearance: the mean or the highest probability of its images.

    Raises:
        ConfigurationError: another `how`, or images of one study with different labels or patients.
    """
    if how not in ("mean", "max"):
        raise ConfigurationError(f"views are combined by {how!r}; write 'mean' or 'max'")
    _, first, group = np.unique(scores.study, return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.int64)
    order = np.argsort(first)
    place[order] = np.arange(len(first))
    first, group = first[order], place[group]
    same = np.array_equal(scores.labels, scores.labels[first][group], equal_nan=True)
    if not same or (scores.patient != scores.patient[first][group]).any():
        raise ConfigurationError(
            "images of one study have different labels or patients; make the datalist again with labels by study, or "
            "evaluate by image"
        )
    by_study = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[by_study], np.arange(len(first)))
    reduce = np.add if how == "mean" else np.maximum
    combined = reduce.reduceat(scores.probabilities[by_study], starts, axis=0)
    if how == "mean":
        combined = np.clip(combined / np.bincount(group)[:, None], 0, 1)
    return replace(
        scores,
        study=scores.study[first],
        patient=scores.patient[first],
        image=scores.image[first],
        probabilities=combined,
        labels=scores.labels[first],
    )


def blanks_as_negative(scores: Scores) -> Scores:
    """Labels that are not known count as 0; uncertain ones stay out."""
    return replace(scores, labels=np.nan_to_num(scores.labels, nan=0.0))


def _known_images(
    datalist: str, split: str, label_names: Sequence[str]
) -> dict[tuple[str, str], tuple[str, str, list[int | None]]]:
    """Patient, path and labels of a split's images by study and file name; the files need not be there."""
    content = read_datalist(datalist)
    items = checked_items(content, datalist, split)
    names = content.get("label_names", [])
    labels = labels_by_name(items, names, label_names)
    folder = Path(datalist).parent
    return {
        (item["study"], item["image"].rpartition("/")[2]): (item["patient"], f"{folder}/{item['image']}", label)
        for item, label in zip(items, labels, strict=True)
    }


def _read_table(path: str, label_names: list[str]) -> _Table:
    header, rows = _read_rows(path)
    wanted = ["study", "image", *label_names]
    if missing := [name for name in wanted if header.count(name) != 1]:
        raise ConfigurationError(
            f"the header of {path} does not have one column {' and one '.join(missing)}; give a table that inference "
            "wrote with these `label_names`"
        )
    study, image = header.index("study"), header.index("image")
    cells_of = itemgetter(*(header.index(name) for name in label_names), study)  # a tuple also of one label
    table = _Table(
        np.array([number for number, _ in rows]),
        [(row[study], row[image]) for _, row in rows],
        np.array([_numbers(cells_of(row)[:-1]) for _, row in rows], dtype=np.float64),
    )
    wrong = ~((table.probabilities >= 0) & (table.probabilities <= 1))  # true for NaN
    names = ", ".join(name for k, name in enumerate(label_names) if wrong[:, k].any())
    what = f"the probability of {names} is missing, not a number or not in [0, 1]; write the table again with inference"
    _refuse(path, table.number, wrong.any(axis=1), what)
    first = dict(zip(reversed(table.key), reversed(range(len(table.key))), strict=True))
    repeated = [first[key] < place for place, key in enumerate(table.key)]
    _refuse(path, table.number, repeated, "the study and image of an earlier row; leave one of them")
    return table


def _read_rows(path: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the number and the cells of each row that is not blank, as many as the header has."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file, strict=True))
    except FileNotFoundError as error:
        raise ConfigurationError(f"predictions not found: {path}; write them with inference") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"predictions {path} are not a CSV in UTF-8; write them with inference") from error
    width = len(lines[0]) if lines else 0
    rows = [(n, row + [""] * (width - len(row))) for n, row in enumerate(lines[1:], FIRST_ROW) if row]
    if not rows:
        raise ConfigurationError(f"predictions {path} are empty; write them with inference")
    return lines[0], rows


def _numbers(cells: Sequence[str]) -> list[float]:
    """NaN for what is no number."""
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        return [math.nan] if len(cells) == 1 else [number for cell in cells for number in _numbers([cell])]


def _refuse(path: str, number: npt.NDArray[np.int64], at_fault: npt.ArrayLike, what: str) -> None:
    """An error that names the rows at fault, if there are any."""
    rows = number[np.asarray(at_fault, dtype=bool)]
    if len(rows):
        named = ", ".join(map(str, rows[:NAMED_ROWS]))
        more = f" and {len(rows) - NAMED_ROWS} more" if len(rows) > NAMED_ROWS else ""
        raise ConfigurationError(f"row{'s' if len(rows) > 1 else ''} {named}{more} of {path}: {what}")
