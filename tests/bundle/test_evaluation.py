"""The figures of a classifier are scikit-learn's, their intervals a slow loop's; what is undefined says why."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from local_mi.bootstrap import patient_weights
from local_mi.calibration import apply_temperature, expected_calibration_error, temperature
from local_mi.delong import delong_test
from local_mi.errors import ConfigurationError
from local_mi.evaluation import (
    Difference,
    Metric,
    auroc_replicates,
    compare_scores,
    evaluate_scores,
    write_metrics_tables,
)
from local_mi.scores import Scores, blanks_as_negative
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

NAMES = ("A", "B", "Never", "Once")
RESAMPLES = 40
TEST_METRICS = ("auroc", "auprc", "prevalence", "sensitivity_at_specificity", "brier", "ece")
TUNED_METRICS = ("sensitivity_at_threshold", "specificity_at_threshold", "brier_scaled", "ece_scaled")


def made(seed: int, studies: int = 150) -> Scores:
    """A and B are common and often blank, one patient has two studies; Never has no positive, and Once a single one."""
    random = np.random.default_rng(seed)
    labels = (random.random((studies, 4)) < 0.3).astype(float)
    labels[random.random(labels.shape) < 0.3] = math.nan
    labels[::20, :2] = -1
    labels[:, 2:] = 0
    labels[3, 3] = 1
    said = 1 / (1 + np.exp(-(np.nan_to_num(labels) * 1.2 + random.normal(size=labels.shape) - 1) * 1.5))
    names = np.array([f"s{k:03d}" for k in range(studies)])
    patients = np.array([f"p{k // 2:03d}" for k in range(studies)])
    return Scores(NAMES, names, patients, names, np.round(said, 3), labels)


TEST, VALIDATION = made(0), made(1)


@pytest.fixture(scope="module")
def metrics() -> dict[tuple[str, str, str], Metric]:
    found = evaluate_scores(TEST, VALIDATION, resamples=RESAMPLES, seed=5)
    keyed = {(metric.blanks, metric.label, metric.metric): metric for metric in found}
    assert len(keyed) == len(found)
    return keyed


def known(scores: Scores, label: int, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of known rows."""
    labels, said = scores.labels[:, label], scores.probabilities[:, label]
    if rows is not None:
        labels, said = labels[rows], said[rows]
    chosen = (labels == 0) | (labels == 1)
    return labels[chosen], said[chosen]


def youden(labels: np.ndarray, said: np.ndarray) -> float:
    """The highest of the best thresholds, by trying all."""
    gain = {t: (said[labels == 1] >= t).mean() - (said[labels == 0] >= t).mean() for t in said}
    return float(max(t for t in gain if gain[t] > max(gain.values()) - 1e-12))


def slow_values(labels: np.ndarray, said: np.ndarray, threshold: float, scale: float) -> dict[str, float]:
    negatives = np.sort(said[labels == 0])
    candidates = [t for t in [*said, math.inf] if (negatives < t).mean() >= 0.9 - 1e-9]
    scaled = apply_temperature(said, scale)
    return {
        "auroc": roc_auc_score(labels, said),
        "auprc": average_precision_score(labels, said),
        "prevalence": labels.mean(),
        "sensitivity_at_specificity": (said[labels == 1] >= min(candidates)).mean(),
        "brier": brier_score_loss(labels, said),
        "ece": float(expected_calibration_error(said, labels)),
        "sensitivity_at_threshold": (said[labels == 1] >= threshold).mean(),
        "specificity_at_threshold": (said[labels == 0] < threshold).mean(),
        "brier_scaled": brier_score_loss(labels, scaled),
        "ece_scaled": float(expected_calibration_error(scaled, labels)),
    }


@pytest.mark.parametrize("blanks", ["masked", "negative"])
@pytest.mark.parametrize("label", [0, 1])
def test_values_and_intervals_are_those_of_a_loop_over_drawn_patients(
    metrics: dict[tuple[str, str, str], Metric], blanks: str, label: int
) -> None:
    test, validation = TEST, VALIDATION
    if blanks == "negative":
        test, validation = blanks_as_negative(test), blanks_as_negative(validation)
    threshold, scale = youden(*known(validation, label)), temperature(*known(validation, label)[::-1])
    replicates: dict[str, list[float]] = {}
    for weights in patient_weights(test.patient, RESAMPLES, seed=5):
        rows = np.repeat(np.arange(len(weights)), weights)
        for name, value in slow_values(*known(test, label, rows), threshold, scale).items():
            replicates.setdefault(name, []).append(value)
    labels, said = known(test, label)
    for name, value in slow_values(labels, said, threshold, scale).items():
        found = metrics[blanks, NAMES[label], name]
        assert found.value == pytest.approx(value, abs=1e-12)
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(replicates[name], [0.025, 0.975])), abs=1e-9)
        assert (found.degenerate, found.rows, found.positives) == (0, len(labels), labels.sum())
        assert found.reason == ""
    for name, chosen in (("threshold", threshold), ("temperature", scale)):
        found = metrics[blanks, NAMES[label], name]
        assert found.value == pytest.approx(chosen)
        assert (found.low, found.high) == (None, None)
        assert found.rows == len(known(validation, label)[0])


def test_every_metric_is_there_for_every_label_macro_and_micro(metrics: dict[tuple[str, str, str], Metric]) -> None:
    pooled = {
        (b, k, m) for b in ("masked", "negative") for k in ("macro", "micro") for m in TEST_METRICS + TUNED_METRICS
    }
    of_labels = {
        (b, k, m)
        for b in ("masked", "negative")
        for k in NAMES
        for m in (*TEST_METRICS, *TUNED_METRICS, "threshold", "temperature")
    }
    assert set(metrics) == pooled | of_labels


def test_a_label_without_positives_is_undefined_with_a_reason(metrics: dict[tuple[str, str, str], Metric]) -> None:
    for name in TEST_METRICS + TUNED_METRICS:
        metric = metrics["masked", "Never", name]
        assert (metric.value, metric.low, metric.high) == (None, None, None)
        assert metric.degenerate == RESAMPLES
        assert (metric.rows, metric.positives) == (150, 0)
        assert metric.reason == "no positive row"
    assert metrics["masked", "Never", "threshold"].value is None
    assert metrics["masked", "Never", "threshold"].reason == "validation: no positive row"


def test_a_label_is_not_judged_at_a_threshold_that_validation_could_not_choose() -> None:
    validation = replace(VALIDATION, labels=np.where([True, False, False, False], 1.0, VALIDATION.labels))
    found = {(m.label, m.metric): m for m in evaluate_scores(TEST, validation, resamples=3) if m.blanks == "masked"}
    assert found["A", "auroc"].value is not None
    assert found["A", "brier_scaled"].value is None
    assert found["A", "brier_scaled"].reason == "validation: no negative row"
    assert found["micro", "brier_scaled"].reason == "pool without A, Never"


def test_resamples_without_the_only_positive_are_counted_and_left_out(
    metrics: dict[tuple[str, str, str], Metric],
) -> None:
    weights = patient_weights(TEST.patient, RESAMPLES, seed=5)
    missing = int((weights[:, 3] == 0).sum())
    assert missing > 3
    once = metrics["masked", "Once", "auroc"]
    assert once.degenerate == missing
    assert once.low is not None
    assert metrics["masked", "Once", "brier"].degenerate == 0
    assert metrics["masked", "macro", "auroc"].degenerate == missing


def test_macro_is_the_mean_over_defined_labels_and_says_which_are_not(
    metrics: dict[tuple[str, str, str], Metric],
) -> None:
    for name in TEST_METRICS + TUNED_METRICS:
        values = [metrics["masked", label, name].value for label in ("A", "B", "Once")]
        macro = metrics["masked", "macro", name]
        assert macro.value == pytest.approx(np.mean(np.array(values, dtype=float)))
        assert macro.reason == "mean of 3 of 4 labels, without Never"
    weights = patient_weights(TEST.patient, RESAMPLES, seed=5)
    replicates = auroc_replicates(TEST, weights)[:, [0, 1, 3]].mean(axis=1)
    macro = metrics["masked", "macro", "auroc"]
    assert (macro.low, macro.high) == pytest.approx(tuple(np.nanquantile(replicates, [0.025, 0.975])))


def test_micro_pools_all_label_values(metrics: dict[tuple[str, str, str], Metric]) -> None:
    labels, said = (np.concatenate(parts) for parts in zip(*(known(TEST, k) for k in range(4)), strict=True))
    micro = metrics["masked", "micro", "auroc"]
    assert micro.value == pytest.approx(roc_auc_score(labels, said))
    assert micro.rows == len(labels)
    assert metrics["masked", "micro", "brier"].value == pytest.approx(brier_score_loss(labels, said))
    replicates: dict[str, list[float]] = {"auroc": [], "ece": []}
    for weights in patient_weights(TEST.patient, RESAMPLES, seed=5):
        rows = np.repeat(np.arange(len(weights)), weights)
        labels, said = (np.concatenate(parts) for parts in zip(*(known(TEST, k, rows) for k in range(4)), strict=True))
        replicates["auroc"].append(roc_auc_score(labels, said))
        replicates["ece"].append(float(expected_calibration_error(said, labels)))
    for name, values in replicates.items():
        found = metrics["masked", "micro", name]
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_without_validation_nothing_is_chosen() -> None:
    found = evaluate_scores(TEST, None, resamples=3)
    assert {metric.metric for metric in found} == set(TEST_METRICS)


def test_without_blanks_both_readings_are_equal() -> None:
    scores = blanks_as_negative(TEST)
    found = evaluate_scores(scores, None, resamples=3)
    half = len(found) // 2
    assert [replace(metric, blanks="negative") for metric in found[:half]] == found[half:]


def test_replicates_of_the_area_are_undefined_where_a_class_is_absent() -> None:
    weights = patient_weights(TEST.patient, 10, seed=0)
    replicates = auroc_replicates(TEST, weights)
    assert replicates.shape == (10, 4)
    assert np.isnan(replicates[:, 2]).all()
    labels, said = known(TEST, 0, np.repeat(np.arange(150), weights[4]))
    assert replicates[4, 0] == pytest.approx(roc_auc_score(labels, said))


def test_other_labels_and_no_specificity_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="other labels"):
        evaluate_scores(TEST, replace(VALIDATION, label_names=("A", "B", "C", "D")), resamples=3)
    with pytest.raises(ConfigurationError, match="`specificity` is 90"):
        evaluate_scores(TEST, None, resamples=3, specificity=90)


def better(scores: Scores, seed: int) -> Scores:
    """Another classifier on the same rows, in another order."""
    random = np.random.default_rng(seed)
    said = np.clip(scores.probabilities + 0.2 * (scores.labels == 1) + 0.1 * random.normal(size=(150, 4)), 0, 1)
    order = random.permutation(150)
    rows = {name: getattr(scores, name)[order] for name in ("study", "patient", "image", "labels")}
    return replace(scores, probabilities=said[order], **rows)


def test_a_difference_is_paired_by_study_and_resampled_by_patient() -> None:
    other = better(TEST, 3)
    back = np.argsort(other.study)
    aligned = replace(other, probabilities=other.probabilities[back], labels=other.labels[back])
    found = {
        (d.label, d.metric): d for d in compare_scores(other, TEST, resamples=RESAMPLES, seed=2) if d.blanks == "masked"
    }
    weights = patient_weights(TEST.patient, RESAMPLES, seed=2)
    for label in (0, 1):
        labels, a = known(aligned, label)
        b = known(TEST, label)[1]
        auroc = found[NAMES[label], "auroc"]
        assert auroc.difference == pytest.approx(roc_auc_score(labels, a) - roc_auc_score(labels, b))
        assert auroc.delong_p == pytest.approx(delong_test(labels, a, b).p)
        brier = found[NAMES[label], "brier"]
        assert brier.difference == pytest.approx(brier_score_loss(labels, a) - brier_score_loss(labels, b))
        assert brier.delong_p is None
        resampled = []
        for row in weights:
            rows = np.repeat(np.arange(150), row)
            labels, a = known(aligned, label, rows)
            resampled.append(roc_auc_score(labels, a) - roc_auc_score(labels, known(TEST, label, rows)[1]))
        assert (auroc.low, auroc.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])))
        assert auroc.p == pytest.approx(min(1, 2 * (1 + sum(d <= 0 for d in resampled)) / (RESAMPLES + 1)))
    assert found["Never", "auroc"].difference is None
    assert found["Never", "auroc"].reason == "no positive row"
    assert found["macro", "auroc"].difference == pytest.approx(
        np.mean([found[name, "auroc"].difference for name in ("A", "B", "Once")])
    )


def test_a_classifier_does_not_differ_from_itself() -> None:
    for difference in compare_scores(TEST, TEST, resamples=10, seed=0):
        if difference.label != "Never":
            assert (difference.difference, difference.low, difference.high, difference.p) == (0, 0, 0, 1)
        if difference.label == "A" and difference.metric == "auroc":
            assert difference.delong_p == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"study": np.append(TEST.study[:-1], "other")}, "1 are in the first alone and 1 in the second"),
        ({"patient": TEST.patient[::-1]}, "other patients or label values"),
        ({"labels": np.zeros_like(TEST.labels)}, "other patients or label values"),
        ({"label_names": ("A", "B", "C", "D")}, "other labels"),
    ],
)
def test_predictions_of_other_rows_are_not_compared(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        compare_scores(TEST, replace(TEST, **change), resamples=3, seed=0)  # type: ignore[arg-type]


def test_tables_hold_every_figure_as_strict_json_and_as_csv(
    tmp_path: Path, metrics: dict[tuple[str, str, str], Metric]
) -> None:
    differences = compare_scores(TEST, better(TEST, 3), resamples=5, seed=0)
    paths = str(tmp_path / "metrics.json"), str(tmp_path / "metrics.csv")
    write_metrics_tables(list(metrics.values()), differences, *paths, {"seed": 5, "resamples": RESAMPLES})
    content = json.loads(Path(paths[0]).read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert (content["seed"], content["resamples"]) == (5, RESAMPLES)
    assert [Metric(**entry) for entry in content["metrics"]] == list(metrics.values())
    assert [Difference(**entry) for entry in content["differences"]] == differences
    assert content["summary"]["macro_auroc"] == metrics["masked", "macro", "auroc"].value
    with Path(paths[1]).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["value"] * len(metrics) + ["difference"] * len(differences)
    for row, metric in zip(rows, metrics.values(), strict=False):
        assert (row["blanks"], row["label"], row["metric"]) == (metric.blanks, metric.label, metric.metric)
        assert row["value"] == ("" if metric.value is None else repr(metric.value))
    assert rows[-1]["value"] == repr(differences[-1].difference)
