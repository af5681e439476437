"""How well probabilities rank, over many resamples at once: the rows are sorted once, a resample is a weight a row.

Only the probabilities of positive rows matter as thresholds, since all three metrics change at no other. A sparse
matrix with an entry a row sums, for any number of resamples, the weights of the positives at each of these thresholds
and of the negatives at and between them; cumulative sums of those are the true and false positives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array

from local_mi.bootstrap import Weights, over_resamples

Floats = npt.NDArray[np.floating[Any]]
EXACT_FLOAT32 = 2**24  # whole numbers up to here
ROUNDING = 1e-9  # of a specificity: 1 - 0.8 is below 0.2 in floating point, and would forbid one negative of five


@dataclass(frozen=True, eq=False)
class Counts:
    """Weighted counts in each resample, at T thresholds from high to low.

    Args:
        positives: (T, R) positive rows at each threshold.
        true_positives: (T, R) positive rows at or above it.
        negatives_above: (T, R) negative rows above it.
        false_positives: (T, R) negative rows at or above it.
        all_positives: (R,).
        all_negatives: (R,).
    """

    positives: Floats
    true_positives: Floats
    negatives_above: Floats
    false_positives: Floats
    all_positives: npt.NDArray[np.float64]
    all_negatives: npt.NDArray[np.float64]


class Ranking:
    """Rows in the order of their probabilities, ties told apart from order.

    Args:
        probabilities: (N,), any monotone score; or (N, L), which are then pooled.
        labels: of the same shape; entries other than 0 and 1 take no part.
    """

    def __init__(self, probabilities: Floats, labels: Floats) -> None:
        row = np.arange(probabilities.size) // (probabilities.size // max(1, len(probabilities)) or 1)
        value, positive, negative = probabilities.ravel(), labels.ravel() == 1, labels.ravel() == 0
        ascending = np.unique(value[positive])
        self.thresholds = ascending[::-1]
        """(T,) the distinct probabilities of positive rows, from high to low."""
        size = len(ascending)
        # A positive stands at the threshold of its own value. Negatives fall into 2 T + 1 places: above the first
        # threshold, at it, between it and the second, at that, and so on.
        place_of_positive = size - np.searchsorted(ascending, value[positive], side="right")
        higher = size - np.searchsorted(ascending, value[negative], side="right")
        tied = np.searchsorted(ascending, value[negative], side="left") + higher < size
        place = np.concatenate([place_of_positive, size + 2 * higher + tied])
        column = np.concatenate([row[positive], row[negative]])
        ones = np.ones(len(place), dtype=np.float32)
        self._sums = coo_array((ones, (place, column)), shape=(3 * size + 1, len(probabilities))).tocsr()

    def counts(self, weights: Floats) -> Counts:
        """Counts of each resample.

        Args:
            weights: (N, R) how often a row is in each resample.
        """
        sums = self._sums @ weights
        counts = self._counts(sums)
        if max(counts.all_positives.max(initial=0), counts.all_negatives.max(initial=0)) >= EXACT_FLOAT32:
            return self._counts(self._sums.astype(np.float64) @ weights.astype(np.float64))
        return counts

    def _counts(self, sums: Floats) -> Counts:
        size = len(self.thresholds)
        positives, true_positives = sums[:size], np.cumsum(sums[:size], axis=0)
        negatives = np.cumsum(sums[size:], axis=0)
        ends = true_positives[-1] if size else np.zeros_like(negatives[-1])
        return Counts(
            positives,
            true_positives,
            negatives[0:-1:2],
            negatives[1::2],
            ends.astype(np.float64),
            negatives[-1].astype(np.float64),
        )


def auroc(probabilities: Floats, labels: Floats, weights: Weights) -> npt.NDArray[np.float64]:
    """Area under the ROC curve in each resample: the share of (positive, negative) pairs in order, ties counting half.

    Args:
        probabilities: (N,).
        labels: (N,); rows whose label is neither 0 nor 1 take no part.
        weights: (R, N) how often a row is in each resample.

    Returns:
        (R,); NaN where a class is absent.
    """
    return _over_resamples(probabilities, labels, weights, auroc_of)


def average_precision(probabilities: Floats, labels: Floats, weights: Weights) -> npt.NDArray[np.float64]:
    """Average precision, the mean over positives of the precision at their threshold, as in scikit-learn.

    Arguments and result are those of `auroc`.
    """
    return _over_resamples(probabilities, labels, weights, average_precision_of)


def sensitivity_at_specificity(
    probabilities: Floats, labels: Floats, weights: Weights, specificity: float
) -> npt.NDArray[np.float64]:
    """The highest sensitivity over the thresholds whose specificity is at least that given, in [0, 1].

    Other arguments and the result are those of `auroc`. Points between those of the ROC curve are not made up.
    """
    return _over_resamples(
        probabilities, labels, weights, lambda counts: sensitivity_at_specificity_of(counts, specificity)
    )


def auroc_of(counts: Counts) -> npt.NDArray[np.float64]:
    """`auroc` from counts: (R,)."""
    # Twice the pairs out of order, a tie being half a pair; exact, since the sums are of whole numbers below 2 ** 53.
    out_of_order = _dot(counts.positives, counts.negatives_above) + _dot(counts.positives, counts.false_positives)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _defined(counts, 1 - out_of_order / (2 * counts.all_positives * counts.all_negatives))


def average_precision_of(counts: Counts) -> npt.NDArray[np.float64]:
    """`average_precision` from counts: (R,)."""
    called = np.maximum(counts.true_positives + counts.false_positives, 1)
    precision = np.divide(counts.true_positives, called, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _defined(counts, _dot(counts.positives, precision) / counts.all_positives)


def sensitivity_at_specificity_of(counts: Counts, specificity: float) -> npt.NDArray[np.float64]:
    """`sensitivity_at_specificity` from counts: (R,)."""
    allowed = counts.all_negatives * (1 - specificity + ROUNDING)
    reached = np.where(counts.false_positives <= allowed, counts.true_positives, 0).max(axis=0, initial=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _defined(counts, reached / counts.all_positives)


def _dot(a: Floats, b: Floats) -> npt.NDArray[np.float64]:
    """Sums of products over thresholds, in double precision: (R,)."""
    sums: npt.NDArray[np.float64] = np.einsum("tr,tr->r", a, b, dtype=np.float64)
    return sums


def _defined(counts: Counts, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where((counts.all_positives > 0) & (counts.all_negatives > 0), values, np.nan)


def _over_resamples(
    probabilities: Floats, labels: Floats, weights: Weights, metric: Callable[[Counts], npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    ranking = Ranking(probabilities, labels)
    return over_resamples(weights, lambda chosen: metric(ranking.counts(chosen)))
