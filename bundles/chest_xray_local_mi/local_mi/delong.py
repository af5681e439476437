"""DeLong's test of two areas under the ROC curve over the same rows."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

ROUNDING = 1e-14  # far above that of placement values, far below the smallest error that a million rows can have


@dataclass(frozen=True)
class DelongResult:
    """Two areas, their difference a - b with its 95 % interval, and the two-sided p-value of no difference.

    Interval and p-value are NaN where the variance cannot be estimated: a class with fewer than two rows, or a
    variance of 0 beside a difference. Without a class the areas are NaN too.
    """

    auroc_a: float
    auroc_b: float
    difference: float
    low: float
    high: float
    p: float


def delong_test(
    labels: npt.NDArray[np.floating[Any]], a: npt.NDArray[np.floating[Any]], b: npt.NDArray[np.floating[Any]]
) -> DelongResult:
    """Compare two correlated areas under the ROC curve (DeLong, DeLong and Clarke-Pearson, Biometrics 1988).

    The placement values come from midranks (Sun and Xu, IEEE Signal Processing Letters 2014), so that the time is that
    of sorting; ties count half. It treats rows as independent: give it one row a patient, or read it with that in mind.

    Args:
        labels: (N,); rows whose label is neither 0 nor 1 take no part.
        a: (N,) scores of one classifier.
        b: (N,) scores of the other.

    Returns:
        The result; scores in the same order give a difference of 0 and p = 1.
    """
    known = (labels == 0) | (labels == 1)
    positive = labels[known] == 1
    m, n = np.count_nonzero(positive), np.count_nonzero(~positive)
    if m == 0 or n == 0:
        return DelongResult(*[math.nan] * 6)
    (of_positives_a, of_negatives_a), (of_positives_b, of_negatives_b) = (
        _placements(scores[known], positive) for scores in (a, b)
    )
    auroc_a, auroc_b = float(of_positives_a.mean()), float(of_positives_b.mean())
    difference = auroc_a - auroc_b
    if m < 2 or n < 2:
        return DelongResult(auroc_a, auroc_b, difference, math.nan, math.nan, math.nan)
    # The variance of the difference is that of the difference of placements: 0 and not nearly 0 where they are equal.
    variance = np.var(of_positives_a - of_positives_b, ddof=1) / m + np.var(of_negatives_a - of_negatives_b, ddof=1) / n
    error = math.sqrt(variance)
    if error > ROUNDING:
        bound, p = float(norm.ppf(0.975)) * error, float(2 * norm.sf(abs(difference) / error))
    else:
        bound, p = (0.0, 1.0) if abs(difference) <= ROUNDING else (math.nan, math.nan)
    return DelongResult(auroc_a, auroc_b, difference, difference - bound, difference + bound, p)


def _placements(
    scores: npt.NDArray[np.floating[Any]], positive: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The share of negatives below each positive, and of positives above each negative, ties counting half."""
    among_all = rankdata(scores)
    m, n = np.count_nonzero(positive), np.count_nonzero(~positive)
    below_positive = (among_all[positive] - rankdata(scores[positive])) / n
    above_negative = 1 - (among_all[~positive] - rankdata(scores[~positive])) / m
    return below_positive, above_negative
