"""Metrics of the rows as they are, by scikit-learn, each with how many rows it is of and why it is undefined."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, brier_score_loss, recall_score, roc_auc_score, roc_curve

from local_mi.calibration import apply_temperature, expected_calibration_error, temperature
from local_mi.ranking_metrics import ROUNDING
from local_mi.replicates import PLAIN, TUNED, Doubles, Tuning
from local_mi.scores import Scores

CHOSEN = ("threshold", "temperature")  # on validation rows
Columns = tuple[npt.NDArray[Any], ...]


@dataclass(frozen=True)
class Point:
    """A point estimate.

    Args:
        value: None where undefined.
        rows: with a known label.
        positives: among them.
        reason: why it is undefined, or of fewer labels than there are; else empty.
    """

    value: float | None
    rows: int
    positives: int
    reason: str


def plain_points(scores: Scores, specificity: float) -> dict[str, list[Point]]:
    """The metrics of `PLAIN`: a point a label, and one of all label values pooled."""
    columns = _known(scores, lambda k, said: (said,))
    columns.append(_pooled(columns))
    return _points(PLAIN, columns, [""] * len(columns), lambda labels, said: _plain_values(labels, said, specificity))


def chosen_points(validation: Scores) -> dict[str, list[Point]]:
    """Threshold and temperature of each label; `CHOSEN`.

    The threshold is the highest of those with the highest sum of sensitivity and specificity (Youden, Cancer 1950); a
    row is called positive at or above it.
    """
    columns = _known(validation, lambda k, said: (said,))
    points = _points(CHOSEN, columns, [""] * len(columns), _chosen_values)
    return {
        name: [Point(p.value, p.rows, p.positives, p.reason and f"validation: {p.reason}") for p in column]
        for name, column in points.items()
    }


def tuning_of(chosen: Mapping[str, Sequence[Point]]) -> Tuning:
    """What `chosen_points` gives, as arrays."""
    return Tuning(
        *(np.array([math.nan if p.value is None else p.value for p in chosen[name]], dtype=float) for name in CHOSEN)
    )


def tuned_points(scores: Scores, chosen: Mapping[str, Sequence[Point]]) -> dict[str, list[Point]]:
    """The metrics of `TUNED`: a point a label, and one of the labels that have a threshold pooled."""
    tuning, reasons = tuning_of(chosen), [point.reason for point in chosen["threshold"]]
    columns = _known(
        scores, lambda k, said: (said >= tuning.thresholds[k], apply_temperature(said, tuning.temperatures[k]))
    )
    pool = _pooled([column for column, reason in zip(columns, reasons, strict=True) if not reason] or columns)
    points = _points(TUNED, [*columns, pool], [*reasons, "" if not all(reasons) else reasons[0]], _tuned_values)
    if left_out := [name for name, reason in zip(scores.label_names, reasons, strict=True) if reason]:
        for column in points.values():
            pooled = column.pop()
            reason = pooled.reason or f"pool without {', '.join(left_out)}"
            column.append(Point(pooled.value, pooled.rows, pooled.positives, reason))
    return points


def macro_point(column: Sequence[Point], names: Sequence[str]) -> Point:
    """The mean over the labels for which a metric is defined, and the sum of their rows."""
    defined = [point for point in column if point.value is not None]
    if not defined:
        return Point(None, 0, 0, "undefined for all labels")
    left_out = [name for name, point in zip(names, column, strict=True) if point.value is None]
    reason = f"mean of {len(defined)} of {len(column)} labels, without {', '.join(left_out)}" if left_out else ""
    value = float(np.mean([point.value for point in defined]))
    return Point(value, sum(point.rows for point in defined), sum(point.positives for point in defined), reason)


def _known(scores: Scores, made_of: Callable[[int, Doubles], Columns]) -> list[Columns]:
    """Of each label the values that are 0 or 1, and what is made of the probabilities beside them."""
    columns: list[Columns] = []
    for k in range(len(scores.label_names)):
        labels = scores.labels[:, k]
        known = (labels == 0) | (labels == 1)
        columns.append((labels[known], *made_of(k, scores.probabilities[known, k])))
    return columns


def _pooled(columns: Sequence[Columns]) -> Columns:
    return tuple(np.concatenate(parts) for parts in zip(*columns, strict=True))


def _points(
    names: Sequence[str], columns: Sequence[Columns], reasons: Sequence[str], values_of: Callable[..., dict[str, float]]
) -> dict[str, list[Point]]:
    """Points by name of columns whose first array is the labels; undefined where a class is absent, or for a reason."""
    points: dict[str, list[Point]] = {name: [] for name in names}
    for column, reason in zip(columns, reasons, strict=True):
        labels = column[0]
        why = _absent_class(labels) or reason
        values = {} if why else values_of(*column)
        for name in names:
            points[name].append(Point(values.get(name), len(labels), int(labels.sum()), why))
    return points


def _absent_class(labels: Doubles) -> str:
    if not len(labels):
        return "no row with a known label"
    return "no positive row" if not labels.any() else "no negative row" if labels.all() else ""


def _plain_values(labels: Doubles, said: Doubles, specificity: float) -> dict[str, float]:
    false_positive_rate, sensitivity, _ = roc_curve(labels, said, drop_intermediate=False)
    return {
        "auroc": float(roc_auc_score(labels, said)),
        "auprc": float(average_precision_score(labels, said)),
        "sensitivity_at_specificity": float(sensitivity[1 - false_positive_rate >= specificity - ROUNDING].max()),
        "prevalence": float(labels.mean()),
        "brier": float(brier_score_loss(labels, said)),
        "ece": float(expected_calibration_error(said, labels)),
    }


def _chosen_values(labels: Doubles, said: Doubles) -> dict[str, float]:
    false_positive_rate, sensitivity, thresholds = roc_curve(labels, said)
    best = np.argmax((sensitivity - false_positive_rate)[1:])  # the first threshold is infinite
    return {"threshold": float(thresholds[1:][best]), "temperature": temperature(said, labels)}


def _tuned_values(labels: Doubles, called: npt.NDArray[np.bool_], scaled: Doubles) -> dict[str, float]:
    return {
        "sensitivity_at_threshold": float(recall_score(labels, called)),
        "specificity_at_threshold": float(recall_score(labels, called, pos_label=0)),
        "brier_scaled": float(brier_score_loss(labels, scaled)),
        "ece_scaled": float(expected_calibration_error(scaled, labels)),
    }
