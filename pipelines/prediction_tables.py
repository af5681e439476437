"""The tables of a prediction, `predictions.parquet` and `predictions.csv`: a row a frame, and a row a file left out."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.classifier import Classifier
from pipelines.notice import NOTICE
from preprocessing.errors import InputError
from preprocessing.files import write_atomically

PARQUET, CSV = "predictions.parquet", "predictions.csv"
UNFINISHED = ".tables_"  # how the name of a folder begins in which tables are made
BLOCK = 1 << 20

COLUMNS: dict[str, Any] = {
    "file": pl.String,  # as the source names it
    "frame": pl.Int32,
    "reason": pl.String,  # why it was left out; blank for what was predicted
    "detail": pl.String,
    "study_instance_uid": pl.String,
    "sop_instance_uid": pl.String,
    "view": pl.String,
    "voi": pl.String,
    "flags": pl.String,
    "results": pl.String,  # name of its maps and DICOM results; blank where none were wanted
    "results_detail": pl.String,  # why there are no DICOM results
}
MADE_WITH: dict[str, Any] = {
    "model_sha256": pl.String,
    "preset": pl.String,
    "calibrated": pl.Boolean,
    "notice": pl.String,
}


def check_label_names(label_names: Sequence[str]) -> None:
    """Raise InputError where a label has the name of a column."""
    columns = [*COLUMNS, *MADE_WITH, *label_names, *map(present_column, label_names)]
    if taken := [name for name, count in Counter(columns).items() if count > 1]:
        raise InputError(f"a label is called {taken[0]!r}, as another column of the table of predictions is; rename it")


def present_column(label: str) -> str:
    """Name of the column that holds a label's decision."""
    return f"{label} present"


def write_tables(folder: Path, classifier: Classifier, pages: Iterator[list[dict[str, Any]]]) -> None:
    """Write both tables, a page in memory at a time.

    Args:
        folder: where they go.
        classifier: what the predictions are by.
        pages: rows with `COLUMNS` and, of frames that were predicted, `probabilities` and `present` (L,).

    Raises:
        OSError: they cannot be written; those of an earlier run are left as they were.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as temporary:
        place = Path(temporary)
        for number, rows in enumerate(pages):
            _page(classifier, rows).write_parquet(place / f"part_{number:06d}.parquet", compression="zstd")
        if not any(place.iterdir()):
            _page(classifier, []).write_parquet(place / "part_000000.parquet")
        table = pl.scan_parquet(sorted(place.iterdir()), glob=False)
        for name, write in ((PARQUET, table.sink_parquet), (CSV, table.sink_csv)):
            write(place / name, maintain_order=True)
            write_atomically(folder / name, _blocks(place / name))


def _page(classifier: Classifier, rows: list[dict[str, Any]]) -> pl.DataFrame:
    names = classifier.label_names
    table = pl.DataFrame([[row[name] for name in COLUMNS] for row in rows], schema=COLUMNS, orient="row")
    blank: list[None] = [None] * len(names)
    probabilities = [row.get("probabilities") or blank for row in rows]
    present = [row.get("present") or blank for row in rows]
    made_with = (classifier.sha256, classifier.preparation.preset, classifier.temperatures is not None, NOTICE)
    return table.hstack(
        [
            *(pl.Series(name, [p[k] for p in probabilities], pl.Float64) for k, name in enumerate(names)),
            *(pl.Series(present_column(name), [p[k] for p in present], pl.Boolean) for k, name in enumerate(names)),
        ]
    ).with_columns(
        pl.lit(value, kind).alias(name) for (name, kind), value in zip(MADE_WITH.items(), made_with, strict=True)
    )


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block
