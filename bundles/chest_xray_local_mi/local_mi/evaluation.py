"""The figures of a classifier: each label and all of them, under both readings of blank labels, with intervals.

Point estimates are scikit-learn's. Intervals are percentiles over resamples of patients. `masked` leaves blank labels
out, `negative` takes them for 0; uncertain labels are left out under both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from local_mi.bootstrap import Weights, interval, patient_weights
from local_mi.comparison import Difference, compare_scores
from local_mi.errors import ConfigurationError
from local_mi.files import write_csv, write_json
from local_mi.point_estimates import Point, chosen_points, macro_point, plain_points, tuned_points, tuning_of
from local_mi.replicates import Doubles, auroc_replicates, metric_replicates
from local_mi.scores import Scores, blanks_as_negative

__all__ = ["Difference", "Metric", "auroc_replicates", "compare_scores", "evaluate_scores", "write_metrics_tables"]

MACRO, MICRO = "macro", "micro"
CSV_COLUMNS = (
    *("kind", "blanks", "label", "metric", "value", "low", "high", "p", "delong_p"),
    *("degenerate", "rows", "positives", "reason"),
)


@dataclass(frozen=True)
class Metric:
    """One figure.

    Args:
        blanks: `masked` or `negative`.
        label: a name; `macro`, the mean over the labels for which the metric is defined; or `micro`, of all label
            values pooled.
        metric: its name.
        value: None where undefined.
        low: end of the 95 % interval; None where undefined, and for what was chosen on validation rows.
        high: the other end.
        degenerate: resamples in which it is undefined; the interval leaves them out.
        rows: with a known label: of the test rows, or for what was chosen on validation rows, of those.
        positives: among them.
        reason: why it is undefined, or of fewer labels than there are; else empty.
    """

    blanks: str
    label: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    degenerate: int
    rows: int
    positives: int
    reason: str


def evaluate_scores(
    test: Scores, validation: Scores | None, *, resamples: int = 1000, seed: int = 0, specificity: float = 0.9
) -> list[Metric]:
    """All metrics of a classifier on test rows.

    Of each label, macro and micro, under both readings of blanks: `auroc`, `auprc`, `prevalence`,
    `sensitivity_at_specificity` (on the ROC curve of the test rows), `brier` and `ece`. With validation rows also what
    is chosen on them label by label, `threshold` and `temperature`, and what follows: `sensitivity_at_threshold`,
    `specificity_at_threshold`, `brier_scaled` and `ece_scaled`; intervals hold what was chosen fixed. The macro of a
    resample is of the labels that the macro of the test rows is of, and undefined where one of them is. Repeated rows
    look worse calibrated than they are, so that the interval of a calibration error may lie above its value.

    Args:
        test: rows to evaluate on.
        validation: rows to choose on, of the same labels; None leaves out what needs them.
        resamples: of the test patients.
        seed: of the resamples.
        specificity: of `sensitivity_at_specificity`, in [0, 1].

    Raises:
        ConfigurationError: the two have other labels, a specificity is no share, or there are no resamples.
    """
    if validation is not None and validation.label_names != test.label_names:
        raise ConfigurationError("validation and test predictions have other labels; predict both with one classifier")
    if not 0 <= specificity <= 1:
        raise ConfigurationError(f"`specificity` is {specificity}; it must be from 0 to 1")
    weights = patient_weights(test.patient, resamples, seed)
    masked = _evaluate("masked", test, validation, weights, specificity)
    if not any(np.isnan(scores.labels).any() for scores in (test, validation) if scores is not None):
        return masked + [replace(metric, blanks="negative") for metric in masked]
    filled = None if validation is None else blanks_as_negative(validation)
    return masked + _evaluate("negative", blanks_as_negative(test), filled, weights, specificity)


def write_metrics_tables(
    metrics: Sequence[Metric],
    differences: Sequence[Difference],
    json_path: str,
    csv_path: str,
    facts: Mapping[str, Any],
) -> None:
    """The same figures as strict JSON and as a CSV with a row a figure.

    Args:
        metrics: of `evaluate_scores`.
        differences: of `compare_scores`, or none.
        json_path: of an object with the facts, a `summary` (`macro_auroc` and so on, blanks masked), `metrics` and
            `differences`.
        csv_path: of a table whose `kind` is `value` or `difference`; undefined cells are empty.
        facts: what else is to be said, such as resamples and seed; of JSON types.
    """
    summary = {
        f"{metric.label}_{metric.metric}": metric.value
        for metric in metrics
        if metric.blanks == "masked" and metric.label in (MACRO, MICRO)
    }
    lists = {"metrics": [asdict(metric) for metric in metrics], "differences": [asdict(d) for d in differences]}
    write_json(json_path, {**facts, "summary": summary, **lists})
    rows = [{"kind": "value", **asdict(metric)} for metric in metrics]
    for difference in differences:
        row = asdict(difference)
        rows.append({"kind": "difference", "value": row.pop("difference"), **row})
    write_csv(csv_path, CSV_COLUMNS, [[row.get(name) for name in CSV_COLUMNS] for row in rows])


def _evaluate(
    blanks: str, test: Scores, validation: Scores | None, weights: Weights, specificity: float
) -> list[Metric]:
    chosen = {} if validation is None else chosen_points(validation)
    points = plain_points(test, specificity) | (tuned_points(test, chosen) if chosen else {})
    replicates = metric_replicates(test, weights, specificity, tuning_of(chosen) if chosen else None)
    metrics = []
    for name, (*column, pooled) in points.items():
        defined = [k for k, point in enumerate(column) if point.value is not None]
        macro = replicates[name][defined].sum(axis=0) / max(1, len(defined))
        all_points = [*column, macro_point(column, test.label_names), pooled]
        resampled = [*replicates[name][:-1], macro, replicates[name][-1]]
        for label, point, values in zip([*test.label_names, MACRO, MICRO], all_points, resampled, strict=True):
            metrics.append(_with_interval(blanks, label, name, point, values))
    for name, column in chosen.items():
        for label, point in zip(test.label_names, column, strict=True):
            facts = (point.rows, point.positives, point.reason)
            metrics.append(Metric(blanks, label, name, point.value, None, None, 0, *facts))
    return metrics


def _with_interval(blanks: str, label: str, name: str, point: Point, resampled: Doubles) -> Metric:
    low, high, degenerate = (None, None, len(resampled)) if point.value is None else interval(resampled)
    return Metric(blanks, label, name, point.value, low, high, degenerate, point.rows, point.positives, point.reason)
