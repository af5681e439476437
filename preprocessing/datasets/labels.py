"""Labels of public data sets under the names used here; by name and never by place, as the sets differ in order.

`rules/datasets.yaml` says which names of a set mean the same as one of ours, and which are a kind of one.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import yaml

from preprocessing.datasets.collection import Collection

_RULES = Path(__file__).parents[1] / "rules" / "datasets.yaml"


@dataclass(frozen=True)
class Names:
    """How one data set calls things.

    Args:
        labels: labels that the set always has, under the names used here and in this order; none where the tables tell.
        same: name in the set to the name used here, where both mean the same.
        kinds_of: name in the set to the names used here that it is a kind of; it stays a label of its own.
        unknown: values in place of a label that say that nothing is known.
        views: view in the set to a view as data sets write it otherwise.
    """

    labels: tuple[str, ...]
    same: Mapping[str, str]
    kinds_of: Mapping[str, tuple[str, ...]]
    unknown: frozenset[str]
    views: Mapping[str, str]

    def of(self, label: str) -> list[str]:
        """All names used here that a label of the set stands for."""
        own = self.same.get(label, label)
        return [own, *(name for name in self.kinds_of.get(label, ()) if name != own)]

    def view(self, written: str) -> str:
        """A view without the set's peculiarities."""
        return self.views.get(written, written)


@cache
def names_of(dataset: str) -> Names:
    """Names of a data set."""
    rules: dict[str, Any] = yaml.safe_load(_RULES.read_text(encoding="utf-8"))[dataset] or {}
    kinds: dict[str, tuple[str, ...]] = {}
    for name, kinds_of_it in (rules.get("kinds_of") or {}).items():
        for kind in kinds_of_it:
            kinds[kind] = (*kinds.get(kind, ()), name)
    return Names(
        tuple(rules.get("labels") or ()),
        rules.get("same") or {},
        kinds,
        frozenset(rules.get("unknown") or ()),
        rules.get("views") or {},
    )


def label_columns(
    collection: Collection,
    table: pl.DataFrame,
    studies: Sequence[str],
    names: Names,
    origin: str,
    values: Sequence[float] = (1.0, 0.0, -1.0),
) -> pl.DataFrame:
    """Labels of a table that has a column for each: 1, 0, -1, and null for a blank.

    Args:
        collection: hears of values that are no label.
        table: as `read_columns` returns it, with the columns of `names.labels`.
        studies: of each row.
        names: of the set.
        origin: name of the table.
        values: that are allowed.

    Returns:
        `study`, and a column a label; as many rows as the table.
    """
    columns = {name: _values(collection, table[name], origin, values) for name in names.labels}
    return pl.DataFrame({"study": pl.Series(studies, dtype=pl.String)} | columns)


def _values(collection: Collection, column: pl.Series, origin: str, values: Sequence[float]) -> pl.Series:
    blank = column.str.to_lowercase().is_in(["", "nan"])
    numbers = column.cast(pl.Float64, strict=False)
    good = numbers.is_in(list(values)).fill_null(False)
    for row in (~blank & ~good).arg_true():
        collection.leave_out("label", f"{origin} row {row + 2}, {column.name}", "label_value")
    return pl.select(pl.when(good).then(numbers)).to_series().cast(pl.Int8)


class Findings(NamedTuple):
    """What a list of labels says of an image: those that are present; others are absent if the list is complete."""

    present: AbstractSet[str] = frozenset()
    complete: bool = False


def findings_of(listed: Iterable[str], names: Names) -> Findings:
    """Findings of labels as a set lists them; an empty list, and one with a word for unknown, is not complete."""
    words = {label.strip() for label in listed} - {""}
    present = frozenset(name for word in words - names.unknown for name in names.of(word))
    return Findings(present, bool(present) and not words & names.unknown)


def label_lists(studies: Sequence[str], found: Sequence[Findings], names: Sequence[str] = ()) -> pl.DataFrame:
    """Labels of lists: 1 for what is present, and 0 or null for all else.

    Args:
        studies: of each list.
        found: the lists.
        names: labels of the result; if not given, all that are present anywhere, sorted.
    """
    columns = {
        name: pl.Series([1 if name in row.present else 0 if row.complete else None for row in found], dtype=pl.Int8)
        for name in names or sorted({name for row in found for name in row.present})
    }
    return pl.DataFrame({"study": pl.Series(studies, dtype=pl.String)} | columns)


def by_study(collection: Collection, labels: pl.DataFrame) -> pl.DataFrame | None:
    """One row a study, in order of first appearance; a label with different values in one study is left out as unknown.

    Returns:
        As `label_table.read_label_table`; `None` where there is no study or no label.
    """
    names = labels.columns[1:]
    labels = labels.filter(pl.col("study") != "")
    if labels.is_empty() or not names:
        return None
    if labels["study"].n_unique() == len(labels):
        return labels
    grouped = labels.group_by("study", maintain_order=True).agg(
        *(pl.col(name).min().alias(f"least {name}") for name in names),
        *(pl.col(name).max().alias(f"most {name}") for name in names),
    )
    for name in names:
        torn = grouped.filter(pl.col(f"least {name}") != pl.col(f"most {name}"))
        for study in torn["study"]:
            collection.leave_out("label", f"study {study}, {name}", "label_disagreement")
    return grouped.select(
        "study",
        *(
            pl.when(pl.col(f"least {name}") == pl.col(f"most {name}")).then(f"least {name}").alias(name)
            for name in names
        ),
    )
