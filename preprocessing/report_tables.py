"""What the labeler found in the reports of a store, as tables: a row a study, and a row a place that says why."""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from preprocessing.labels import Evidence, label_names
from preprocessing.report_reading import ReportRules, StudyText, read_report

REPORTS_TO_NAME = 5
"""Reports that a heading stands in before it is shown."""

_MOST_HEADINGS = 100_000

EVIDENCE_SCHEMA: dict[str, Any] = {
    "study": pl.String,
    "observation": pl.String,  # or `assertions.SEVERITY`
    "value": pl.Int8,
    "section": pl.String,
    "sentence_start": pl.Int32,  # positions are characters of the untouched report
    "sentence_end": pl.Int32,
    "start": pl.Int32,
    "end": pl.Int32,
    "cue_start": pl.Int32,  # null where no cue decided
    "cue_end": pl.Int32,
}
_NAMED = ("observation", "section")
_NUMBERS = tuple(name for name in EVIDENCE_SCHEMA if name not in ("study", *_NAMED))
_NONE = -1 << 31


class EvidenceColumns:
    """Evidence of many reports, kept as columns of numbers: 44 bytes a place, and not a kilobyte."""

    def __init__(self) -> None:
        self._reports = array("l")
        self._names: dict[str, list[str]] = {name: [] for name in _NAMED}
        self._codes: dict[str, dict[str, int]] = {name: {} for name in _NAMED}
        self._columns = {name: array("i") for name in (*_NAMED, *_NUMBERS)}

    def add(self, report: int, evidence: Iterable[Evidence]) -> None:
        """Add what one report says; `report` is a number of its own."""
        for place in evidence:
            self._reports.append(report)
            for name in _NAMED:
                codes = self._codes[name]
                self._columns[name].append(codes.setdefault(getattr(place, name), len(codes)))
            for name in _NUMBERS:
                value = getattr(place, name)
                self._columns[name].append(_NONE if value is None else value)

    def table(self, studies: Mapping[int, str]) -> pl.DataFrame:
        """The evidence of the reports that are some study's, as `EVIDENCE_SCHEMA`, sorted by study and place.

        Args:
            studies: number of a report to its study; other reports are left out.
        """
        chosen = pl.DataFrame(
            {"report": list(studies), "study": list(studies.values())}, schema={"report": pl.Int64, "study": pl.String}
        )
        columns: dict[str, Any] = {"report": pl.Series(values=memoryview(self._reports), dtype=pl.Int64)}
        columns |= {
            name: pl.Series(values=memoryview(column), dtype=pl.Int32) for name, column in self._columns.items()
        }
        words = {name: dict(zip(codes.values(), codes, strict=True)) for name, codes in self._codes.items()}
        return (
            pl.DataFrame(columns)
            .join(chosen, on="report", how="inner")
            .with_columns(
                *(pl.col(name).replace(_NONE, None) for name in _NUMBERS),
                *(pl.col(name).replace_strict(words[name], return_dtype=pl.String) for name in _NAMED),
            )
            .select(pl.col(name).cast(kind) for name, kind in EVIDENCE_SCHEMA.items())
            .sort("study", "start", "end", "observation", "value")
        )


class ReportsRead:
    """Reads reports and keeps what is told of all of them together: labels, evidence, headings, identifiers.

    Args:
        rules: how they are read.
    """

    def __init__(self, rules: ReportRules) -> None:
        self._rules = rules
        self._evidence = EvidenceColumns()
        self._labels: dict[int, tuple[int | None, ...]] = {}  # and the severity of edema behind them
        self._identifiers: dict[int, Mapping[str, int]] = {}
        self._unmapped: Counter[str] = Counter()

    @property
    def version(self) -> str:
        """Version of the rules for labels."""
        return self._rules.pack.version

    def read(self, number: int, text: str, flags: Sequence[str]) -> StudyText:
        """Read one report; `number` is its own."""
        report = read_report(text, flags, self._rules)
        self._evidence.add(number, report.evidence)
        self._labels[number] = (*report.labels, report.text.edema_severity)
        if report.identifiers:
            self._identifiers[number] = report.identifiers
        self._unmapped.update(report.unmapped)
        if len(self._unmapped) > _MOST_HEADINGS:
            self._unmapped = Counter(dict(self._unmapped.most_common(_MOST_HEADINGS // 2)))
        return report.text

    def evidence(self, taken: Mapping[int, str]) -> pl.DataFrame:
        """Where the reports that studies got say what (`EVIDENCE_SCHEMA`); `taken` is from number to study."""
        return self._evidence.table(taken)

    def labels(self, taken: Mapping[int, str]) -> pl.DataFrame:
        """Labels that reports gave their studies.

        Returns:
            Sorted by study: column `study`, an Int8 column a label (1, 0, -1 or null), and `edema_severity` (0 to 3 or
            null).
        """
        columns: dict[str, Any] = {"study": pl.Series(list(taken.values()), dtype=pl.String)}
        for place, name in enumerate((*label_names(self._rules.pack), "edema_severity")):
            columns[name] = pl.Series([self._labels[number][place] for number in taken], dtype=pl.Int8)
        return pl.DataFrame(columns).sort("study")

    def identifiers(self, taken: Mapping[int, str]) -> dict[str, int]:
        """How many things in the sentences of studies look like identifiers, by kind."""
        counts: Counter[str] = Counter()
        for number in taken:
            counts.update(self._identifiers.get(number, {}))
        return dict(sorted(counts.items()))

    def unmapped_headings(self) -> tuple[dict[str, int], int]:
        """Labels that look like headings and are in no vocabulary, with the number of their reports.

        Those of fewer than `REPORTS_TO_NAME` reports may be a name or a slip and are only counted: the second value.
        """
        named = {heading: count for heading, count in self._unmapped.items() if count >= REPORTS_TO_NAME}
        ordered = sorted(named.items(), key=lambda item: (-item[1], item[0]))
        return dict(ordered), len(self._unmapped) - len(named)
