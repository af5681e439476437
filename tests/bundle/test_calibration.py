"""Calibration: Brier score and calibration error by hand and by loop, reliability, and temperatures that are found."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.calibration import (
    apply_temperature,
    brier,
    expected_calibration_error,
    reliability_curve,
    temperature,
)
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

NAN = math.nan


def slow_calibration_error(said: list[float], labels: list[float], bins: int) -> float:
    """Guo et al. 2017, equation 3, bin by bin: (0, 1 / bins], (1 / bins, 2 / bins], ..., the first with 0."""
    total = 0.0
    for k in range(bins):
        inside = [(p, y) for p, y in zip(said, labels, strict=True) if k / bins < p <= (k + 1) / bins or p == k == 0]
        if inside:
            total += abs(sum(y for _, y in inside) / len(inside) - sum(p for p, _ in inside) / len(inside)) * len(
                inside
            )
    return total / len(said) if said else NAN


entries = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0, -1.0, NAN]), st.integers(0, 3)), min_size=1, max_size=25
)


@settings(max_examples=30, deadline=None)
@given(entries)
def test_a_resample_has_the_error_and_the_score_of_its_repeated_rows(rows: list[tuple[float, float, int]]) -> None:
    said, labels, counts = (np.array(column) for column in zip(*rows, strict=True))
    weights = np.stack([counts, np.ones_like(counts), np.zeros_like(counts)]).astype(np.uint8)
    errors, scores = [], []
    for row in weights:
        repeated = [k for k in np.repeat(np.arange(len(said)), row) if labels[k] in (0, 1)]
        errors.append(slow_calibration_error(said[repeated].tolist(), labels[repeated].tolist(), 10))
        scores.append(brier_score_loss(labels[repeated], said[repeated], pos_label=1) if repeated else NAN)
    np.testing.assert_allclose(expected_calibration_error(said, labels, weights, bins=10), errors, atol=1e-12)
    np.testing.assert_allclose(brier(said, labels, weights), scores, atol=1e-12)
    np.testing.assert_allclose(expected_calibration_error(said, labels, bins=10), errors[1], atol=1e-12)
    np.testing.assert_allclose(brier(said, labels), scores[1], atol=1e-12)


def test_calibration_error_by_hand() -> None:
    """Two bins: 0.1, 0.2 and 0.5 with one positive of three, 0.8 and 0.9 with one of two."""
    said, labels = np.array([0.1, 0.2, 0.5, 0.8, 0.9]), np.array([0.0, 0, 1, 1, 0])
    expected = 3 / 5 * abs(1 / 3 - 0.8 / 3) + 2 / 5 * abs(1 / 2 - 0.85)
    assert expected_calibration_error(said, labels, bins=2) == pytest.approx(expected)
    assert expected == pytest.approx(0.18)


def test_probabilities_that_mean_what_they_say_have_a_small_error() -> None:
    random = np.random.default_rng(0)
    said = random.random(200_000)
    labels = (random.random(200_000) < said).astype(float)
    assert expected_calibration_error(said, labels) < 0.01
    assert expected_calibration_error(np.sqrt(said), labels) > 0.1


def test_the_reliability_curve_is_scikit_learns() -> None:
    random = np.random.default_rng(1)
    said, labels = random.random(400) * 0.8, random.choice([0, 1, -1, NAN], 400)
    known = (labels == 0) | (labels == 1)
    curve = reliability_curve(said, labels, bins=10)
    observed, probability = calibration_curve(labels[known], said[known], n_bins=10)
    np.testing.assert_allclose(curve.probability, probability)
    np.testing.assert_allclose(curve.observed, observed)
    assert curve.count.sum() == known.sum()
    error = (np.abs(curve.observed - curve.probability) * curve.count).sum() / curve.count.sum()
    assert error == pytest.approx(expected_calibration_error(said, labels, bins=10))


@pytest.mark.parametrize("expected", [0.4, 1.0, 2.5])
def test_the_temperature_that_spoilt_probabilities_is_found(expected: float) -> None:
    random = np.random.default_rng(2)
    logits = random.normal(size=40_000) * 1.5
    labels = (random.random(40_000) < expit(logits)).astype(float)
    labels[::7] = NAN
    assert temperature(expit(logits * expected), labels) == pytest.approx(expected, rel=0.04)


def test_no_temperature_nearby_fits_better() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 300).astype(float)
    said = np.clip(0.25 * labels + 0.7 * random.random(300), 0, 1)
    found = temperature(said, labels)
    best = log_loss(labels, apply_temperature(said, found))
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert log_loss(labels, apply_temperature(said, found * factor)) > best


@pytest.mark.parametrize("labels", [[1, 1, NAN], [0, 0, -1], [NAN, NAN, NAN]])
def test_one_class_leaves_the_temperature_at_one(labels: list[float]) -> None:
    assert temperature(np.array([0.2, 0.8, 0.5]), np.array(labels)) == 1


def test_certain_and_wrong_probabilities_have_a_finite_temperature() -> None:
    found = temperature(np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1, 1, 0]))
    assert 1 < found <= 20.001


def test_a_temperature_divides_logits_and_keeps_the_order() -> None:
    said = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    np.testing.assert_allclose(apply_temperature(said, 1.0), said, atol=1e-6)
    np.testing.assert_allclose(logit(apply_temperature(said, 2.0))[1:4], logit(said[1:4]) / 2, atol=1e-12)
    columns = apply_temperature(np.stack([said, said], axis=1), np.array([1.0, 2.0]))
    np.testing.assert_allclose(columns[:, 1], apply_temperature(said, 2.0))
    assert (np.diff(apply_temperature(said, 3.0)) > 0).all()
