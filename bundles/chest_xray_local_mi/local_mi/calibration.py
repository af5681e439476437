"""Whether probabilities mean what they say: Brier score, calibration error, reliability, and temperature scaling.

Score and error are functions of sums over rows, so that a matrix product gives them for many resamples at once.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.sparse import coo_array, csr_array, vstack
from scipy.special import expit, logit

from local_mi.bootstrap import Weights, over_resamples

Floats = npt.NDArray[np.floating[Any]]
BINS = 15  # Guo et al. 2017
LEAST = 1e-9  # of a probability and of its complement: 0 and 1, which others' tables hold, have no logit
TEMPERATURES = (0.05, 20.0)  # the range that is searched


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """Of each bin that has a row: mean probability, observed share of positives, and number of rows; (B,) each."""

    probability: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]


def brier(probabilities: Floats, labels: Floats, weights: Weights | None = None) -> npt.NDArray[np.float64]:
    """Brier score: the mean squared distance of probability and label, 0 to 1 (Brier 1950, for one class).

    Args:
        probabilities: (N,) of the positive class.
        labels: (N,); rows whose label is neither 0 nor 1 take no part.
        weights: (R, N) how often a row is in each resample; None stands for the rows as they are.

    Returns:
        (R,), or () without weights; NaN where no row is known.
    """
    terms = squared_error_terms(probabilities, labels)
    known, squared = terms.sum(axis=1) if weights is None else over_resamples(weights, terms.__matmul__)
    return mean_of(squared, known)


def expected_calibration_error(
    probabilities: Floats, labels: Floats, weights: Weights | None = None, bins: int = BINS
) -> npt.NDArray[np.float64]:
    """Mean distance of observed share and mean probability over bins of equal width (Guo et al., ICML 2017, eq. 3).

    Of the probability of the positive class, not of the class called. A bin holds its upper edge, the first one 0 too.

    Args:
        probabilities: (N,) of the positive class, in [0, 1].
        labels: (N,); rows whose label is neither 0 nor 1 take no part.
        weights: (R, N) how often a row is in each resample; None stands for the rows as they are.
        bins: how many of equal width.

    Returns:
        (R,), or () without weights; NaN where no row is known.
    """
    known = ((labels == 0) | (labels == 1)).astype(np.float64)
    terms = vstack([csr_array([known]), distance_terms(probabilities, labels, bins)]).tocsr()
    sums = terms.sum(axis=1) if weights is None else over_resamples(weights, lambda w: terms @ w.astype(np.float64))
    return mean_of(np.abs(sums[1:]).sum(axis=0), sums[0])


def reliability_curve(probabilities: Floats, labels: Floats, bins: int = BINS) -> ReliabilityCurve:
    """What was observed where a probability was said, in the bins of `expected_calibration_error`.

    Args:
        probabilities: (N,) of the positive class, in [0, 1].
        labels: (N,); rows whose label is neither 0 nor 1 take no part.
        bins: how many of equal width.
    """
    known = (labels == 0) | (labels == 1)
    bin_of = _bin_of(probabilities[known], bins)
    count = np.bincount(bin_of, minlength=bins)
    filled = count > 0
    said = np.bincount(bin_of, weights=probabilities[known], minlength=bins)[filled] / count[filled]
    observed = np.bincount(bin_of, weights=labels[known], minlength=bins)[filled] / count[filled]
    return ReliabilityCurve(said, observed, count[filled])


def temperature(probabilities: Floats, labels: Floats) -> float:
    """The temperature T with the lowest cross-entropy of `logit / T` (Guo et al. 2017, section 4.2).

    Above 1 the probabilities were too sure, below 1 not sure enough. It is sought from 0.05 to 20.

    Args:
        probabilities: (N,) of the positive class, of rows that are not those evaluated later.
        labels: (N,); rows whose label is neither 0 nor 1 take no part.

    Returns:
        T; 1.0 where a class is absent, which would drive T to the end of its range.
    """
    known = (labels == 0) | (labels == 1)
    logits, target = _logits(probabilities[known]), labels[known]
    if len(np.unique(target)) < 2:
        return 1.0
    signed = np.where(target == 1, -logits, logits)
    found = minimize_scalar(
        lambda log_t: np.logaddexp(0, signed * math.exp(-log_t)).mean(),
        bounds=tuple(map(math.log, TEMPERATURES)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(found.x)


def apply_temperature(probabilities: Floats, temperature: float | Floats) -> npt.NDArray[np.float64]:
    """Probabilities of `logit / temperature`: (N,) and a number, or (N, L) and one a label."""
    scaled: npt.NDArray[np.float64] = expit(_logits(probabilities) / temperature)
    return scaled


def squared_error_terms(probabilities: Floats, labels: Floats) -> npt.NDArray[np.float64]:
    """Ones for known rows, and squared distances of probability and label; 0 of others: (2, N)."""
    known = (labels == 0) | (labels == 1)
    return np.where(known, [np.ones(len(labels)), (labels - probabilities) ** 2], 0)


def distance_terms(probabilities: Floats, labels: Floats, bins: int = BINS) -> csr_array:
    """Label minus probability of known rows, each in the row of its bin: (bins, N)."""
    row = np.flatnonzero((labels == 0) | (labels == 1))
    place = (_bin_of(probabilities[row], bins), row)
    return coo_array(((labels - probabilities)[row], place), shape=(bins, len(labels))).tocsr()


def mean_of(sums: npt.NDArray[np.float64], count: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sums over counts, NaN where the count is 0."""
    with np.errstate(invalid="ignore"):
        value: npt.NDArray[np.float64] = sums / count
    return value


def _bin_of(probabilities: Floats, bins: int) -> npt.NDArray[np.int64]:
    return np.digitize(probabilities, np.linspace(0, 1, bins + 1)[1:-1], right=True)


def _logits(probabilities: Floats) -> npt.NDArray[np.float64]:
    logits: npt.NDArray[np.float64] = logit(np.clip(probabilities, LEAST, 1 - LEAST))
    return logits
