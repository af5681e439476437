"""What an ingest run came to, for the command line to print and for `run.json`."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Outcomes:
    """Files or reports by outcome; every one seen has exactly one.

    Args:
        seen: all that were found.
        accepted: taken into the store (reports: paired with a study).
        rejected: left out with a reason.
        duplicates: left out because the same is there already.
        reasons: rejected, by reason.
    """

    seen: int
    accepted: int
    rejected: int
    duplicates: int
    reasons: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = self.accepted + self.rejected + self.duplicates
        if found != self.seen or sum(self.reasons.values()) != self.rejected:
            raise RuntimeError(f"{self.seen} files were seen and {found} have an outcome: a fault of the program")


@dataclass(frozen=True)
class IngestSummary:
    """Counts of one run.

    Args:
        store: the store's folder.
        private: folder of the key and the side table.
        files: image files by outcome.
        reports: reports by outcome.
        images, studies, patients: rows in the store; an image is one frame.
        views, modalities, transfer_syntaxes, decoders, presets, vois, original_sizes, flags: images by each.
        splits: studies by split.
        report_status: studies by what became of their report.
        sentences: number of sentences in all.
        labels_matched, labels_unmatched: rows of the label table that found a study, and that did not.
        labels: studies by value of each label, blanks left out.
        label_rules: version of the rules that labels were read from reports by.
        edema_severity: studies by grade.
        identifiers: what looks like an identifier in the sentences, by kind; with redaction, what was replaced.
        unmapped_headings: labels that look like headings and are in no vocabulary, with the number of their reports.
        other_unmapped_headings: how many more there are that too few reports have for them to be shown.
        converted: files that this run converted; the others were known from runs before.
        seconds: wall time.
    """

    store: Path
    private: Path
    files: Outcomes
    reports: Outcomes
    images: int
    studies: int
    patients: int
    views: dict[str, int]
    modalities: dict[str, int]
    transfer_syntaxes: dict[str, int]
    decoders: dict[str, int]
    presets: dict[str, int]
    vois: dict[str, int]
    original_sizes: dict[str, int]
    flags: dict[str, int]
    splits: dict[str, int]
    report_status: dict[str, int]
    sentences: int
    labels_matched: int
    labels_unmatched: int
    labels: dict[str, dict[str, int]]
    label_rules: str
    edema_severity: dict[str, int]
    identifiers: dict[str, int]
    unmapped_headings: dict[str, int]
    other_unmapped_headings: int
    converted: int
    seconds: float

    def counts(self) -> dict[str, Any]:
        """What the store holds, as plain data: the same for the same input, however it was made."""
        content = asdict(self)
        return {name: content[name] for name in content if name not in ("store", "private", "converted", "seconds")}


def outcomes(seen: int, accepted: int, reasons: Iterable[str]) -> Outcomes:
    """Count outcomes from the reasons of everything left out; the reason `duplicate` is an outcome of its own."""
    counted = Counter(reasons)
    duplicates = counted.pop("duplicate", 0)
    return Outcomes(seen, accepted, counted.total(), duplicates, dict(sorted(counted.items())))


def counts_of(column: pl.Series) -> dict[str, int]:
    """How often each value of a text column occurs, in the order of the values; "none" for blanks."""
    return dict(sorted(Counter(value or "none" for value in column.to_list()).items()))
