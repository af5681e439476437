"""The studies table: what images, reports and patients say about each study; labels are joined to it by `ingest`."""

from collections.abc import Iterable, Mapping
from dataclasses import astuple

import polars as pl

from preprocessing.report_reading import StudyText
from preprocessing.splits import assign_splits
from preprocessing.store import STUDY_SCHEMA

_TEXT_COLUMNS = ("report_status", "report_reason", "report_flags", "sections", "sentences", "edema_severity")
_LISTS = ("report_flags", "sections", "sentences")
_TEXT_SCHEMA = {"study": STUDY_SCHEMA["study"], **{name: STUDY_SCHEMA[name] for name in _TEXT_COLUMNS}}


def study_table(
    images: pl.DataFrame,
    files: pl.DataFrame,
    texts: Mapping[str, StudyText],
    seed: int,
    split_fractions: tuple[float, float, float],
) -> pl.DataFrame:
    """Make the table.

    Args:
        images: `store.IMAGE_SCHEMA`, those that are taken.
        files: `ledger.FILE_SCHEMA`, those that are taken.
        texts: study to its text; studies without a report are not in it.
        seed: of the split.
        split_fractions: of patients in training, validation and test.

    Returns:
        A row a study (`store.STUDY_SCHEMA`), sorted by study.
    """
    studies = images.group_by("study", "patient").agg(pl.len().alias("images"))
    official = {
        patient: set(splits)
        for patient, splits in files.filter(pl.col("split") != "").group_by("patient").agg("split").iter_rows()
    }
    splits = assign_splits(studies["patient"].unique(), official, seed, split_fractions)
    days = files.group_by("study").agg(pl.col("day").min())
    rows = [(study, *astuple(text)) for study, text in texts.items()]
    without = StudyText()
    return (
        studies.join(days, on="study", how="left")
        .join(pl.DataFrame(_listed(rows), schema=_TEXT_SCHEMA, orient="row"), on="study", how="left")
        .with_columns(
            pl.col("patient").replace_strict(splits, return_dtype=pl.String).alias("split"),
            (pl.col("day") - pl.col("day").min().over("patient")).alias("days"),
            pl.col("report_status").fill_null(without.status),
            pl.col("report_reason").fill_null(without.reason),
            *(pl.col(name).fill_null([]) for name in _LISTS),
        )
        .select(pl.col(name).cast(kind) for name, kind in STUDY_SCHEMA.items())
        .sort("study")
    )


def _listed(rows: Iterable[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return [tuple(list(value) if isinstance(value, tuple) else value for value in row) for row in rows]
