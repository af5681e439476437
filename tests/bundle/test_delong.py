"""DeLong's test: placement values by counting, known null behaviour, and what is undefined."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.delong import DelongResult, delong_test
from scipy.stats import kstest, norm

NAN = math.nan


def slow_delong(labels: list[float], a: list[float], b: list[float]) -> tuple[float, float, float, float]:
    """Areas, variance of their difference and p, by comparing every positive with every negative."""
    placements = []
    for scores in (a, b):
        positive = [s for s, y in zip(scores, labels, strict=True) if y == 1]
        negative = [s for s, y in zip(scores, labels, strict=True) if y == 0]
        wins = np.array([[1.0 if p > n else 0.5 if p == n else 0.0 for n in negative] for p in positive])
        placements.append((wins.mean(axis=1), wins.mean(axis=0)))
    (a10, a01), (b10, b01) = placements
    s10, s01 = np.cov(a10, b10), np.cov(a01, b01)
    s = s10 / len(a10) + s01 / len(a01)
    variance = s[0, 0] + s[1, 1] - 2 * s[0, 1]
    z = (a10.mean() - b10.mean()) / math.sqrt(variance) if variance > 1e-20 else NAN
    return a10.mean(), b10.mean(), variance, 2 * norm.sf(abs(z))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, -1.0, NAN]), st.integers(0, 6), st.integers(0, 6)), max_size=30))
def test_the_result_is_that_of_counting_every_pair(entries: list[tuple[float, int, int]]) -> None:
    entries = [*entries, (0.0, 1, 2), (0.0, 3, 3), (1.0, 3, 1), (1.0, 5, 4)]
    labels, a, b = zip(*entries, strict=True)
    result = delong_test(np.array(labels), np.array(a, dtype=float), np.array(b, dtype=float))
    auroc_a, auroc_b, variance, p = slow_delong(list(labels), list(a), list(b))
    assert (result.auroc_a, result.auroc_b) == pytest.approx((auroc_a, auroc_b))
    assert result.difference == pytest.approx(auroc_a - auroc_b, abs=1e-12)
    if variance > 1e-20:
        assert result.p == pytest.approx(p, abs=1e-9)
        assert result.high - result.low == pytest.approx(2 * 1.959964 * math.sqrt(variance), rel=1e-6)
        assert (result.high + result.low) / 2 == pytest.approx(result.difference, abs=1e-12)


def test_scores_in_the_same_order_do_not_differ() -> None:
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 50).astype(float), random.random(50).round(1)
    result = delong_test(labels, scores, np.exp(scores))
    assert (result.difference, result.low, result.high, result.p) == (0, 0, 0, 1)


def test_swapping_the_classifiers_swaps_the_result() -> None:
    random = np.random.default_rng(1)
    labels, a, b = random.integers(0, 2, 60).astype(float), random.random(60), random.random(60)
    there, back = delong_test(labels, a, b), delong_test(labels, b, a)
    assert back == DelongResult(there.auroc_b, there.auroc_a, -there.difference, -there.high, -there.low, there.p)


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], [NAN, -1, 1]])
def test_nothing_is_defined_without_both_classes(labels: list[float]) -> None:
    result = delong_test(np.array(labels), np.arange(3.0), np.arange(3.0))
    assert math.isnan(result.auroc_a)
    assert math.isnan(result.p)


def test_no_p_value_comes_of_one_positive_or_of_a_difference_without_variance() -> None:
    one = delong_test(np.array([1.0, 0, 0]), np.array([3.0, 1, 2]), np.array([1.0, 2, 3]))
    assert (one.auroc_a, one.auroc_b) == (1, 0)
    assert math.isnan(one.p)
    reversed_order = delong_test(np.array([1.0, 1, 0, 0]), np.array([4.0, 3, 2, 1]), np.array([1.0, 2, 3, 4]))
    assert reversed_order.difference == 1
    assert math.isnan(reversed_order.p)


def test_the_p_value_is_uniform_where_two_classifiers_are_equally_good() -> None:
    p_values = []
    for trial in range(200):
        random = np.random.default_rng(trial)
        labels = (np.arange(200) % 3 == 0).astype(float)
        shared = random.normal(size=200) + labels
        p_values.append(delong_test(labels, shared + random.normal(size=200), shared + random.normal(size=200)).p)
    assert kstest(p_values, "uniform").pvalue > 0.01
