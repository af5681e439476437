"""Metrics of rank over resamples: those of scikit-learn on repeated rows, ties and absent classes included."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.ranking_metrics import Ranking, auroc, auroc_of, average_precision, sensitivity_at_specificity
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

NAN = math.nan


def slow_sensitivity(labels: np.ndarray, said: np.ndarray, specificity: float) -> float:
    """The highest share of positives called by any threshold that leaves enough negatives uncalled, by counting."""
    best = 0.0
    for threshold in [*said, math.inf]:
        called = said >= threshold
        spared = sum(1 for call, label in zip(called, labels, strict=True) if label == 0 and not call)
        if spared >= specificity * sum(labels == 0) - 1e-9:
            best = max(best, float(np.mean(called[labels == 1])))
    return best


ORACLES: dict[str, tuple[Callable[..., np.ndarray], Callable[[np.ndarray, np.ndarray], float]]] = {
    "auroc": (auroc, roc_auc_score),
    "average precision": (average_precision, average_precision_score),
    "sensitivity at 0.8": (
        lambda *a: sensitivity_at_specificity(*a, specificity=0.8),
        lambda labels, said: slow_sensitivity(labels, said, 0.8),
    ),
}
each_metric = pytest.mark.parametrize("name", list(ORACLES))
rows = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), st.sampled_from([0.0, 1.0, -1.0, NAN]), st.integers(0, 3)),
    min_size=1,
    max_size=20,
)


def on_repeated_rows(
    oracle: Callable[[np.ndarray, np.ndarray], float], said: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> float:
    chosen = np.repeat(np.arange(len(said)), weights)
    chosen = chosen[(labels[chosen] == 0) | (labels[chosen] == 1)]
    return oracle(labels[chosen], said[chosen]) if len(set(labels[chosen].tolist())) == 2 else NAN


@each_metric
@settings(max_examples=30, deadline=None)
@given(rows)
def test_a_resample_has_the_value_of_its_repeated_rows(name: str, entries: list[tuple[float, float, int]]) -> None:
    metric, oracle = ORACLES[name]
    said, labels, counts = (np.array(column) for column in zip(*entries, strict=True))
    weights = np.stack([counts, np.ones_like(counts), counts[::-1], np.zeros_like(counts)]).astype(np.uint8)
    expected = [on_repeated_rows(oracle, said, labels, row) for row in weights]
    np.testing.assert_allclose(metric(said, labels, weights), expected, atol=1e-12)


@pytest.mark.parametrize("decimals", [1, 6])
def test_weights_are_scikit_learns_sample_weights(decimals: int) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200).astype(float)
    said = np.round(np.clip(0.3 * labels + 0.7 * random.random(200), 0, 1), decimals)
    weights = random.poisson(1, (33, 200)).astype(np.uint8)
    for metric, oracle in ((auroc, roc_auc_score), (average_precision, average_precision_score)):
        expected = [oracle(labels, said, sample_weight=row) for row in weights]
        np.testing.assert_allclose(metric(said, labels, weights), expected, atol=1e-12)
    for specificity in (0.0, 0.9, 1.0):
        expected = []
        for row in weights:
            rate, sensitivity, _ = roc_curve(labels, said, sample_weight=row, drop_intermediate=False)
            expected.append(sensitivity[1 - rate >= specificity - 1e-9].max())
        values = sensitivity_at_specificity(said, labels, weights, specificity)
        np.testing.assert_allclose(values, expected, atol=1e-12)


def test_a_specificity_just_reached_counts_in_spite_of_rounding() -> None:
    said, labels = np.array([0.9, 0.8, 0.3, 0.2, 0.1, 0.05]), np.array([0.0, 1, 0, 0, 0, 0])
    weights = np.ones((1, 6), dtype=np.uint8)
    assert sensitivity_at_specificity(said, labels, weights, 0.8)[0] == 1  # 1 - 0.8 < 1 / 5 in floating point
    assert sensitivity_at_specificity(said, labels, weights, 0.81)[0] == 0


def test_values_do_not_depend_on_the_order_of_rows_or_a_monotone_transform() -> None:
    random = np.random.default_rng(1)
    said, labels = random.random(200).round(2), random.integers(0, 2, 200).astype(float)
    weights, order = random.poisson(1, (5, 200)), random.permutation(200)
    for metric in (auroc, average_precision):
        expected = metric(said, labels, weights)
        np.testing.assert_array_equal(metric(said[order], labels[order], weights[:, order]), expected)
        np.testing.assert_array_equal(metric(said**3, labels, weights), expected)


def test_a_pool_is_the_values_of_all_labels_side_by_side() -> None:
    random = np.random.default_rng(2)
    said, labels = random.random((60, 3)).round(1), random.choice([0, 1, -1, NAN], (60, 3))
    weights = random.poisson(1, (8, 60))
    pooled = auroc_of(Ranking(said, labels).counts(weights.T.astype(np.float32)))
    np.testing.assert_allclose(pooled, auroc(said.T.ravel(), labels.T.ravel(), np.tile(weights, 3)), atol=1e-12)


def test_counts_beyond_what_single_precision_holds_stay_exact() -> None:
    said, labels = np.array([0.1, 0.15, 0.2, 0.3, 0.4]), np.array([0.0, 0, 1, 0, 1])
    weights = np.array([[2**24, 1, 1, 2**24, 1]])
    assert auroc(said, labels, weights)[0] == 1 - 2**24 / (2 * (2**25 + 1))
