"""Two classifiers on the same studies: the difference of their figures, resampled in pairs."""

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from local_mi.bootstrap import Weights, interval, over_resamples, paired_p, patient_weights
from local_mi.calibration import mean_of, squared_error_terms
from local_mi.delong import delong_test
from local_mi.errors import ConfigurationError
from local_mi.point_estimates import Point, macro_point, plain_points
from local_mi.ranking_metrics import auroc_of, average_precision_of
from local_mi.replicates import Doubles, label_rankings
from local_mi.scores import Scores, blanks_as_negative

COMPARED = ("auroc", "auprc", "brier")


@dataclass(frozen=True)
class Difference:
    """One figure of a classifier less that of another on the same studies.

    Args:
        blanks: `masked` or `negative`.
        label: a name, or `macro`.
        metric: `auroc`, `auprc` or `brier`.
        difference: a - b; None where undefined.
        low: end of the 95 % interval over resamples of patients, paired.
        high: the other end.
        p: two-sided, of the same resamples.
        delong_p: of DeLong's test, which takes rows for independent; of `auroc` of a label alone.
        degenerate: resamples in which it is undefined.
        rows: with a known label.
        positives: among them.
        reason: why it is undefined, or of fewer labels than there are; else empty.
    """

    blanks: str
    label: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    delong_p: float | None
    degenerate: int
    rows: int
    positives: int
    reason: str


def compare_scores(a: Scores, b: Scores, *, resamples: int, seed: int) -> list[Difference]:
    """Differences a - b of each label and macro, under both readings of blanks.

    Args:
        a: of one classifier.
        b: of the other, of the same rows in any order.
        resamples: of the patients, the same for both.
        seed: of the resamples.

    Raises:
        ConfigurationError: other labels, other studies or images, other patients, or other values of labels.
    """
    a, b = _in_order(a), _in_order(b)
    _check_same(a, b)
    weights = patient_weights(a.patient, resamples, seed)
    masked = _differences("masked", a, b, weights)
    if not np.isnan(a.labels).any():
        return masked + [replace(difference, blanks="negative") for difference in masked]
    return masked + _differences("negative", blanks_as_negative(a), blanks_as_negative(b), weights)


def _in_order(scores: Scores) -> Scores:
    """Rows by study, and within one by image."""
    order = np.lexsort((scores.image, scores.study))
    rows = {field.name: getattr(scores, field.name)[order] for field in fields(scores) if field.name != "label_names"}
    return replace(scores, **rows)


def _check_same(a: Scores, b: Scores) -> None:
    if a.label_names != b.label_names:
        raise ConfigurationError("the predictions have other labels; compare classifiers of the same `label_names`")
    if not np.array_equal(a.study, b.study):
        raise ConfigurationError(
            f"the predictions are of other studies: {len(np.setdiff1d(a.study, b.study))} are in the first alone and "
            f"{len(np.setdiff1d(b.study, a.study))} in the second, in {len(a.study)} and {len(b.study)} rows; predict "
            "the same split with both"
        )
    if not (np.array_equal(a.patient, b.patient) and np.array_equal(a.labels, b.labels, equal_nan=True)):
        raise ConfigurationError("the predictions have other patients or label values; read both with one datalist")


def _differences(blanks: str, a: Scores, b: Scores, weights: Weights) -> list[Difference]:
    replicates = dict(zip(COMPARED, _replicates(a, weights) - _replicates(b, weights), strict=True))
    of_a, of_b = plain_points(a, specificity=0), plain_points(b, specificity=0)
    delong = [delong_p(a, b, k) for k in range(len(a.label_names))]
    differences = []
    for name in COMPARED:
        column = [_less(x, y) for x, y in zip(of_a[name][:-1], of_b[name][:-1], strict=True)]
        defined = [k for k, point in enumerate(column) if point.value is not None]
        points = [*column, macro_point(column, a.label_names)]
        values = [*replicates[name], replicates[name][defined].sum(axis=0) / max(1, len(defined))]
        tests = [*(delong if name == "auroc" else [None] * len(column)), None]
        for label, point, resampled, p in zip([*a.label_names, "macro"], points, values, tests, strict=True):
            differences.append(_difference(blanks, label, name, point, resampled, p))
    return differences


def _replicates(scores: Scores, weights: Weights) -> Doubles:
    """(metrics, L, R), in the order of `COMPARED`."""
    rankings = label_rankings(scores)
    columns = zip(scores.probabilities.T, scores.labels.T, strict=True)
    terms = [squared_error_terms(said, labels) for said, labels in columns]

    def replicate(chosen: npt.NDArray[np.float32]) -> Doubles:
        doubles = chosen.astype(np.float64)
        of_labels = []
        for ranking, of_label in zip(rankings, terms, strict=True):
            counts = ranking.counts(chosen)
            known, squared = of_label @ doubles
            of_labels.append([auroc_of(counts), average_precision_of(counts), mean_of(squared, known)])
        return np.array(of_labels).swapaxes(0, 1)

    return over_resamples(weights, replicate)


def _less(a: Point, b: Point) -> Point:
    return replace(a, value=None if a.value is None or b.value is None else a.value - b.value)


def delong_p(a: Scores, b: Scores, label: int) -> float | None:
    """Of DeLong's test of one label (its column), of the same rows in the same order; None where undefined."""
    p = delong_test(a.labels[:, label], a.probabilities[:, label], b.probabilities[:, label]).p
    return None if np.isnan(p) else p


def _difference(
    blanks: str, label: str, name: str, point: Point, resampled: Doubles, delong_p: float | None
) -> Difference:
    facts = (point.rows, point.positives, point.reason)
    if point.value is None:
        return Difference(blanks, label, name, None, None, None, None, None, len(resampled), *facts)
    low, high, degenerate = interval(resampled)
    return Difference(blanks, label, name, point.value, low, high, paired_p(resampled), delong_p, degenerate, *facts)
