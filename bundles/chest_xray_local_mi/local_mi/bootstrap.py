"""The bootstrap by patient: whole patients are drawn with replacement, since images of one patient are not independent.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from local_mi.errors import ConfigurationError

Weights = npt.NDArray[np.integer[Any]]
RESAMPLES_AT_ONCE = 32  # bounds memory; 32 weights of a row are two cache lines
MOST_THREADS = 8  # bounds memory too: each holds so many resamples


def patient_weights(patient: npt.NDArray[np.str_], resamples: int, seed: int) -> Weights:
    """How often each row is in each resample: as many patients as there are, drawn with replacement.

    A function of the set of patients and the seed: neither order nor number of their rows changes what is drawn, and
    fewer resamples are the first of more.

    Args:
        patient: (N,) ids.
        resamples: R.
        seed: of the draws.

    Returns:
        (R, N) of the smallest unsigned type that holds them.

    Raises:
        ConfigurationError: no resamples are asked for.
    """
    if resamples < 1:
        raise ConfigurationError(f"{resamples} resamples give no interval; set them to 1 or more, 1000 as a rule")
    patients, index = np.unique(patient, return_inverse=True)
    random = np.random.default_rng(seed)
    size = len(patients)
    counts = np.empty((resamples, size), dtype=np.min_scalar_type(size))
    for row in counts:
        row[:] = np.bincount(random.integers(0, size, size), minlength=size)
    return counts.astype(np.min_scalar_type(counts.max(initial=0)))[:, index]


def over_resamples(
    weights: Weights, function: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """What `function` gives for all resamples, a few of them at a time, on several threads.

    Args:
        weights: (R, N) how often a row is in each resample, at most 2 ** 24 times.
        function: from (N, r) weights of r resamples to (..., r).

    Returns:
        (..., R).
    """

    def run(start: int) -> npt.NDArray[np.float64]:
        return function(np.ascontiguousarray(weights[start : start + RESAMPLES_AT_ONCE].T).astype(np.float32))

    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as threads:
        return np.concatenate(list(threads.map(run, range(0, len(weights), RESAMPLES_AT_ONCE))), axis=-1)


def interval(replicates: npt.NDArray[np.float64], level: float = 0.95) -> tuple[float | None, float | None, int]:
    """Percentile interval over the replicates that are defined.

    Args:
        replicates: (R,) values of the resamples, NaN where undefined.
        level: of confidence.

    Returns:
        Low, high (None where no replicate is defined), and how many are undefined.
    """
    defined = replicates[~np.isnan(replicates)]
    degenerate = len(replicates) - len(defined)
    if not len(defined):
        return None, None, degenerate
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high), degenerate


def paired_p(differences: npt.NDArray[np.float64]) -> float | None:
    """Two-sided p-value of no difference: the level at which the percentile interval just reaches 0.

    Efron and Tibshirani 1993, section 15.4, with one added to both counts so that it is never 0 (Davison and Hinkley,
    Bootstrap Methods and their Application, 1997, eq. 4.11). It is approximate, as the interval is.

    Args:
        differences: (R,) of the two values in the same resamples; NaN where undefined, which are left out.

    Returns:
        In (0, 1]; None where no replicate is defined.
    """
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        return None
    smaller_side = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return float(min(1.0, 2 * (smaller_side + 1) / (len(defined) + 1)))
