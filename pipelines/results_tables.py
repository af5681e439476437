"""Tables of a results page: metrics, differences and any other rows, as text that says why a value is missing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from local_mi.evaluation import MACRO, MICRO, Difference, Metric

from pipelines.results_plots import AS_ABSENT, LEFT_OUT, percent

DASH, MINUS = "—", "\N{MINUS SIGN}"
UNDEFINED = "not defined in this data"
BLANKS = {"masked": LEFT_OUT, "negative": AS_ABSENT}
CHOSEN = ("threshold", "temperature")  # on validation studies, a value a label
_FOLLOWING = ("_at_threshold", "_scaled")  # ends of the names of metrics that follow from those
POOLED = {MACRO: "mean of labels", MICRO: "all labels pooled"}
NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "ece": "ECE",
    "brier_scaled": "Brier score, scaled",
    "ece_scaled": "ECE, scaled",
    "p": "p",
    "p_holm": "p, Holm",
    "delong_p": "p, DeLong",
}
"""Of metrics and columns whose names are no words."""

_BESIDE = ("low", "high", "reason")  # columns of rows that stand below an estimate
_ESTIMATES = ("value", "difference")
_P_VALUES = ("p", "delong_p")

Row = Mapping[str, Any]
_Figure = TypeVar("_Figure", Metric, Difference)


@dataclass(frozen=True)
class Cell:
    """A field of a table; `interval` and `reason` stand below the text."""

    text: str
    interval: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Column:
    """A column; numbers stand at its right, with their digits below each other."""

    name: str
    is_number: bool


@dataclass(frozen=True)
class Table:
    """Rows of cells, one a column."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def metrics_tables(metrics: Sequence[Metric]) -> list[Table]:
    """Metrics of test studies: a row a label, a column a metric; for each convention a table, or two.

    The second is of what follows from thresholds and temperatures.
    """
    tables = []
    for blanks, group in _by("blanks", metrics):
        plain = [metric for metric in group if not metric.metric.endswith((*_FOLLOWING, *CHOSEN))]
        tuned = [metric for metric in group if metric.metric.endswith(_FOLLOWING)]
        words = _capital(BLANKS.get(blanks, blanks))
        tables += [_metrics_table(words, plain)] if plain else []
        tables += [_metrics_table(f"{words}, at the chosen thresholds and temperatures", tuned)] if tuned else []
    return tables


def chosen_tables(metrics: Sequence[Metric]) -> list[Table]:
    """Thresholds and temperatures, which were chosen on validation studies: a table a convention, a row a label."""
    chosen = [metric for metric in metrics if metric.metric in CHOSEN]
    return [_metrics_table(_capital(BLANKS.get(blanks, blanks)), group) for blanks, group in _by("blanks", chosen)]


def _metrics_table(caption: str, metrics: Sequence[Metric]) -> Table:
    names = list(dict.fromkeys(metric.metric for metric in metrics))
    columns = [Column("label", False), *(Column(name, True) for name in ("known", "present", *map(words_of, names)))]
    return Table(caption, columns, [_metrics_row(label, group, names) for label, group in _by("label", metrics)])


def _metrics_row(label: str, metrics: Sequence[Metric], names: Sequence[str]) -> list[Cell]:
    """What is missing in all metrics of a label for one reason is explained once."""
    reasons = {_reason(metric) for metric in metrics}
    shared = reasons.pop() if len(reasons) == 1 and len(metrics) > 1 else ""
    by_name = {
        metric.metric: estimate(metric.value, metric.low, metric.high, "" if shared else _reason(metric))
        for metric in metrics
    }
    counts = [Cell(f"{metrics[0].rows:,}"), Cell(f"{metrics[0].positives:,}")]
    return [Cell(POOLED.get(label, label), reason=shared), *counts, *(by_name.get(name, Cell("")) for name in names)]


def _reason(figure: Metric | Difference) -> str:
    value = figure.value if isinstance(figure, Metric) else figure.difference
    if not _is_defined(value):
        return figure.reason or UNDEFINED
    left_out = f"interval without {figure.degenerate:,} resamples" if figure.degenerate else ""
    return "; ".join(filter(None, (figure.reason, left_out)))


def differences_tables(differences: Sequence[Difference]) -> list[Table]:
    """Differences of two classifiers: a table a convention, a row a label and metric."""
    columns = [
        *(Column(name, False) for name in ("label", "metric")),
        *(Column(name, True) for name in ("known", "present", "difference", *map(words_of, _P_VALUES))),
    ]
    return [
        Table(_capital(BLANKS.get(blanks, blanks)), columns, [_differences_row(one) for one in group])
        for blanks, group in _by("blanks", differences)
    ]


def _differences_row(one: Difference) -> list[Cell]:
    counts = [Cell(f"{one.rows:,}"), Cell(f"{one.positives:,}")]
    difference = estimate(one.difference, one.low, one.high, _reason(one), "+")
    names = [Cell(POOLED.get(one.label, one.label)), Cell(words_of(one.metric))]
    return [*names, *counts, difference, *(Cell(_p_value(p)) for p in (one.p, one.delong_p))]


def rows_tables(rows: Sequence[Row]) -> list[Table]:
    """One table of any rows, or none; columns in the order in which their names first appear.

    `low` and `high` become the interval of `value` or `difference`; `reason` stands where a value is undefined.
    """
    names = list(dict.fromkeys(name for row in rows for name in row if name not in _BESIDE))
    columns = [Column(words_of(name), all(_is_number(row.get(name)) for row in rows)) for name in names]
    return [Table("", columns, [[_row_cell(row, name) for name in names] for row in rows])] if rows else []


def _row_cell(row: Row, name: str) -> Cell:
    value, reason = row.get(name, ""), row.get("reason") or UNDEFINED
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if name in (*_P_VALUES, "p_holm") and not row.get("reason"):
        return Cell(_p_value(value))  # blank where a test does not apply
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return Cell(DASH, reason=reason)
    if not _is_number(value):
        return Cell(str(value))
    if name in _ESTIMATES:
        return estimate(value, row.get("low"), row.get("high"), "", "+" if name == "difference" else "")
    return Cell(percent(value) if name == "fraction" else _number(value))


def estimate(value: float | None, low: float | None, high: float | None, reason: str, sign: str = "") -> Cell:
    """A value with its interval below it, or a dash; and below that the reason.

    Args:
        value: undefined where it is `None` or not finite, as are the others.
        low: end of the interval.
        high: the other end.
        reason: why it is undefined, or what else is to be known.
        sign: `+` shows signs of positive values too.
    """
    if value is None or not math.isfinite(value):
        return Cell(DASH, reason=reason)
    has_interval = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    text, interval = f"{value:{sign}.3f}", f"{low:{sign}.3f} to {high:{sign}.3f}" if has_interval else ""
    return Cell(text.replace("-", MINUS), interval.replace("-", MINUS), reason)


def words_of(name: str) -> str:
    """The name of a metric or column for people."""
    return NAMES.get(name, name.replace("_", " "))


def _by(name: str, figures: Sequence[_Figure]) -> Iterable[tuple[str, list[_Figure]]]:
    """Figures by a field, in the order in which its values first appear."""
    groups: dict[str, list[_Figure]] = {}
    for figure in figures:
        groups.setdefault(getattr(figure, name), []).append(figure)
    return groups.items()


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_defined(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2g}" if 0 < abs(value) < 0.001 else f"{value:,.3f}"


def _p_value(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
