"""The bootstrap by patient: what is drawn, the interval, and the p-value of a difference."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.bootstrap import MOST_THREADS, RESAMPLES_AT_ONCE, interval, over_resamples, paired_p, patient_weights
from local_mi.errors import ConfigurationError
from local_mi.ranking_metrics import auroc
from sklearn.metrics import roc_auc_score

NAN = math.nan


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30), st.integers(0, 5))
def test_a_resample_draws_as_many_patients_as_there_are_each_with_all_rows(patients: list[str], seed: int) -> None:
    weights = patient_weights(np.array(patients), 20, seed)
    assert weights.dtype.kind == "u"
    assert weights.shape == (20, len(patients))
    by_patient = {patient: weights[:, k] for k, patient in enumerate(patients)}
    for k, patient in enumerate(patients):
        np.testing.assert_array_equal(weights[:, k], by_patient[patient])
    np.testing.assert_array_equal(sum(column.astype(int) for column in by_patient.values()), len(by_patient))


def test_draws_follow_from_the_seed_and_the_set_of_patients_alone() -> None:
    patients = np.array(list("abcab"))
    weights = patient_weights(patients, 50, seed=3)
    order = np.array([4, 2, 0, 3, 1])
    np.testing.assert_array_equal(patient_weights(patients[order], 50, seed=3), weights[:, order])
    np.testing.assert_array_equal(patient_weights(patients, 20, seed=3), weights[:20])
    assert not np.array_equal(patient_weights(patients, 50, seed=4), weights)


def test_a_patient_is_drawn_once_on_average_with_the_variance_of_the_multinomial() -> None:
    weights = patient_weights(np.arange(40).astype(str), 4000, seed=0).astype(float)
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.08)
    assert weights.var() == pytest.approx(1 - 1 / 40, abs=0.03)


def test_no_resamples_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="0 resamples"):
        patient_weights(np.array(["a", "b"]), 0, seed=0)


def test_resamples_come_back_in_order_from_all_threads() -> None:
    weights = np.arange(RESAMPLES_AT_ONCE * (MOST_THREADS + 1) + 3)[:, None].repeat(2, axis=1)
    doubled = over_resamples(weights, lambda chosen: chosen * np.array([[1.0], [2.0]]))
    np.testing.assert_array_equal(doubled, weights.T * [[1], [2]])


def test_the_interval_is_the_percentiles_of_the_defined_replicates() -> None:
    replicates = np.append(np.random.default_rng(0).permutation(1001) / 1000, [NAN, NAN])
    assert interval(replicates) == (pytest.approx(0.025), pytest.approx(0.975), 2)
    assert interval(replicates, level=0.5) == (pytest.approx(0.25), pytest.approx(0.75), 2)
    assert interval(np.array([NAN] * 3)) == (None, None, 3)


def test_the_p_value_counts_the_smaller_side_twice_with_one_added() -> None:
    differences = np.array([-1.0] * 4 + [2.0] * 95)
    assert paired_p(differences) == pytest.approx(2 * 5 / 100)
    assert paired_p(-differences) == paired_p(differences)
    assert paired_p(np.append(differences, [NAN] * 7)) == paired_p(differences)
    assert paired_p(np.ones(99)) == pytest.approx(2 / 100)
    assert paired_p(np.zeros(99)) == 1
    assert paired_p(np.array([NAN])) is None


def test_replicates_are_those_of_a_loop_over_drawn_patients() -> None:
    random = np.random.default_rng(5)
    patients = random.integers(0, 30, 80).astype(str)
    labels, said = random.integers(0, 2, 80).astype(float), random.random(80)
    weights = patient_weights(patients, 25, seed=7)
    names, draws = np.unique(patients), np.random.default_rng(7)
    expected = []
    for _ in range(25):
        drawn = [names[k] for k in draws.integers(0, len(names), len(names))]
        rows = [row for patient in drawn for row in np.flatnonzero(patients == patient)]
        expected.append(roc_auc_score(labels[rows], said[rows]))
    np.testing.assert_allclose(auroc(said, labels, weights), expected)


def test_the_interval_by_patient_covers_the_truth_where_one_by_row_does_not() -> None:
    """Every patient has eight equal rows: the interval of rows as if independent is far too narrow."""
    truth, covered = 0.7601, {"patient": 0, "row": 0}  # the normal distribution function at 1 / sqrt 2
    for trial in range(70):
        random = np.random.default_rng(trial)
        labels = np.repeat(np.arange(60) % 2, 8).astype(float)
        said = np.repeat(random.normal(size=60), 8) + labels
        units = {"patient": np.repeat(np.arange(60), 8), "row": np.arange(480)}
        for name, unit in units.items():
            low, high, _ = interval(auroc(said, labels, patient_weights(unit.astype(str), 200, seed=trial)))
            assert low is not None
            assert high is not None
            covered[name] += low <= truth <= high
    assert covered["patient"] >= 0.87 * 70
    assert covered["row"] < 0.7 * 70
