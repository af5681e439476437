"""All metrics of all labels in all resamples: each label is sorted once, each resample laid out once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, vstack

from local_mi.bootstrap import Weights, over_resamples
from local_mi.calibration import BINS, apply_temperature, distance_terms, mean_of, squared_error_terms
from local_mi.ranking_metrics import Ranking, auroc_of, average_precision_of, sensitivity_at_specificity_of
from local_mi.scores import Scores

Doubles = npt.NDArray[np.float64]
PLAIN = ("auroc", "auprc", "sensitivity_at_specificity", "prevalence", "brier", "ece")
TUNED = ("sensitivity_at_threshold", "specificity_at_threshold", "brier_scaled", "ece_scaled")


@dataclass(frozen=True, eq=False)
class Tuning:
    """What was chosen on validation rows: a threshold and a temperature a label (L,), both NaN where undefined."""

    thresholds: Doubles
    temperatures: Doubles


def metric_replicates(
    scores: Scores, weights: Weights, specificity: float, tuning: Tuning | None
) -> dict[str, Doubles]:
    """Metrics of each label, and of all label values pooled, in each resample.

    Args:
        scores: N rows, L labels.
        weights: (R, N) how often a row is in each resample.
        specificity: of `sensitivity_at_specificity`.
        tuning: adds the metrics of `TUNED` to those of `PLAIN`; labels without a threshold are not in the pool there.

    Returns:
        (L + 1, R) by name of the metric, the pool last; NaN where undefined.
    """
    rankings = [*label_rankings(scores), Ranking(scores.probabilities, scores.labels)]
    blocks = [_plain_terms(scores)] if tuning is None else [_plain_terms(scores), _tuned_terms(scores, tuning)]

    def replicate(chosen: npt.NDArray[np.float32]) -> Doubles:
        ranked = np.stack([_ranked(ranking, chosen, specificity) for ranking in rankings], axis=1)
        doubles = chosen.astype(np.float64)
        return np.concatenate([ranked, *(_summed(block, doubles) for block in blocks)])

    names = PLAIN if tuning is None else PLAIN + TUNED
    return dict(zip(names, over_resamples(weights, replicate), strict=True))


def auroc_replicates(scores: Scores, weights: Weights) -> Doubles:
    """Area under the ROC curve of each label in each resample: (R, L), NaN where undefined.

    Args:
        scores: N rows, L labels.
        weights: (R, N) how often a row is in each resample, as `bootstrap.patient_weights` draws them.
    """
    rankings = label_rankings(scores)
    values = over_resamples(weights, lambda chosen: np.array([auroc_of(rank.counts(chosen)) for rank in rankings]))
    return np.ascontiguousarray(values.T)


def label_rankings(scores: Scores) -> list[Ranking]:
    """A ranking a label."""
    return [Ranking(scores.probabilities[:, k], scores.labels[:, k]) for k in range(len(scores.label_names))]


def _ranked(ranking: Ranking, chosen: npt.NDArray[np.float32], specificity: float) -> Doubles:
    counts = ranking.counts(chosen)
    return np.stack(
        [auroc_of(counts), average_precision_of(counts), sensitivity_at_specificity_of(counts, specificity)]
    )


@dataclass(frozen=True, eq=False)
class _Terms:
    """Terms whose sums over rows give the metrics that are not of rank.

    Args:
        dense: (L, D, N): known, squared distance, positive; of tuned ones then right positives and right negatives.
        binned: (L * bins, N) distances.
    """

    dense: Doubles
    binned: csr_array


def _plain_terms(scores: Scores) -> _Terms:
    columns = list(zip(scores.probabilities.T, scores.labels.T, strict=True))
    dense = [[*squared_error_terms(said, labels), labels == 1] for said, labels in columns]
    return _Terms(np.array(dense), vstack([distance_terms(said, labels) for said, labels in columns]).tocsr())


def _tuned_terms(scores: Scores, tuning: Tuning) -> _Terms:
    """The same at each label's threshold and temperature; all 0 of labels without them."""
    dense, binned = [], []
    for k, threshold in enumerate(tuning.thresholds):
        said = scores.probabilities[:, k]
        labels = scores.labels[:, k] if np.isfinite(threshold) else np.full(len(said), np.nan)
        scaled = apply_temperature(said, tuning.temperatures[k])
        right = (labels == 1) & (said >= threshold), (labels == 0) & (said < threshold)
        dense.append([*squared_error_terms(scaled, labels), labels == 1, *right])
        binned.append(distance_terms(scaled, labels))
    return _Terms(np.array(dense), vstack(binned).tocsr())


def _summed(terms: _Terms, weights: Doubles) -> Doubles:
    """Metrics of labels and pool in r resamples: (N, r) weights -> (metrics, L + 1, r), in the order of their names."""
    sums = _with_pool((terms.dense.reshape(-1, len(weights)) @ weights).reshape(*terms.dense.shape[:2], -1))
    distances = _with_pool((terms.binned @ weights).reshape(len(terms.dense), BINS, -1))
    known, squared, positives, *right = sums.swapaxes(0, 1)
    shares = [mean_of(right[0], positives), mean_of(right[1], known - positives)] if right else []
    shares = shares or [mean_of(positives, known)]
    return np.stack([*shares, mean_of(squared, known), mean_of(np.abs(distances).sum(axis=1), known)])


def _with_pool(sums: Doubles) -> Doubles:
    return np.concatenate([sums, sums.sum(axis=0, keepdims=True)])
