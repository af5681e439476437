"""Figures of a classifier that are reported: AUROC by counting pairs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from local_mi.metrics import LabelAUROC, MeanAUROC, label_auroc, label_metrics, write_metrics
from sklearn.metrics import roc_auc_score
from torch import Tensor

NAN = math.nan


def counted_auroc(scores: list[float], labels: list[float]) -> float:
    """The share of (present, absent) pairs in which the present one scores higher, ties counting half."""
    present = [s for s, y in zip(scores, labels, strict=True) if y == 1]
    absent = [s for s, y in zip(scores, labels, strict=True) if y == 0]
    wins = [1.0 if p > a else 0.5 if p == a else 0.0 for p in present for a in absent]
    return sum(wins) / len(wins) if wins else NAN


label_columns = st.lists(
    st.tuples(st.integers(-3, 3).map(float), st.sampled_from([0.0, 1.0, -1.0, NAN])), min_size=1, max_size=25
)


@settings(max_examples=80, deadline=None)
@given(label_columns)
def test_auroc_counts_pairs_of_known_labels(entries: list[tuple[float, float]]) -> None:
    scores, labels = zip(*entries, strict=True)
    value = label_auroc(torch.tensor(scores)[:, None], torch.tensor(labels)[:, None])[0]
    assert value == pytest.approx(counted_auroc(list(scores), list(labels)), nan_ok=True)


def test_auroc_agrees_with_scikit_learn_label_by_label() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.normal(size=(200, 4)), random.integers(0, 2, (200, 4)).astype(float)
    expected = roc_auc_score(labels, scores, average=None)
    np.testing.assert_allclose(label_auroc(torch.tensor(scores), torch.tensor(labels)), expected)
    logits = torch.tensor(scores)
    np.testing.assert_allclose(label_auroc(torch.sigmoid(logits), torch.tensor(labels)), expected)


@pytest.mark.parametrize("labels", [[1.0, 1.0], [0.0, 0.0], [NAN, 1.0], [-1.0, 0.0], [NAN, NAN]])
def test_auroc_of_one_class_is_nan(labels: list[float]) -> None:
    assert math.isnan(label_auroc(torch.rand(2, 1), torch.tensor(labels)[:, None])[0])


@pytest.mark.parametrize("bad", [NAN, math.inf])
def test_scores_of_a_diverged_network_make_auroc_undefined_rather_than_an_error(bad: float) -> None:
    scores, labels = torch.tensor([[bad, 0.1], [0.2, 0.3]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    values = label_auroc(scores, labels)
    assert math.isnan(values[0]) or (bad == math.inf and values[0] == 1.0)
    assert values[1] == 0.0


def test_half_precision_scores_are_taken() -> None:
    scores = torch.tensor([[0.1], [0.9]], dtype=torch.bfloat16)
    assert label_auroc(scores, torch.tensor([[0.0], [1.0]]))[0] == 1.0


def over_batches(metric: MeanAUROC | LabelAUROC, scores: Tensor, labels: Tensor, batch: int) -> object:
    batches = list(zip(scores.split(batch), labels.split(batch), strict=True))
    engine = Engine(lambda _, pair: {"pred": pair[0], "label": pair[1]})
    metric.attach(engine, "value")
    return engine.run(batches).metrics["value"]


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_mean_auroc_is_a_python_float_over_the_defined_labels(batch: int) -> None:
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 3, generator=random)
    labels = torch.randint(0, 2, (40, 3), generator=random).float()
    labels[:, 2] = 1.0
    value = over_batches(MeanAUROC(), scores, labels, batch)
    assert type(value) is float
    columns = [counted_auroc(scores[:, k].tolist(), labels[:, k].tolist()) for k in range(2)]
    assert value == pytest.approx(sum(columns) / 2)
    json.dumps(value, allow_nan=False)


def test_mean_auroc_is_nan_only_where_no_label_is_defined() -> None:
    assert math.isnan(over_batches(MeanAUROC(), torch.rand(4, 2), torch.ones(4, 2), 2))


def test_mean_auroc_takes_a_single_label() -> None:
    labels = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    assert over_batches(MeanAUROC(), labels.clone(), labels, 2) == 1.0


@pytest.mark.parametrize("labels_count", [1, 3])
def test_each_label_has_its_own_figure_under_its_own_name(labels_count: int) -> None:
    random = torch.Generator().manual_seed(1)
    scores = torch.randn(30, labels_count, generator=random)
    labels = torch.randint(0, 2, (30, labels_count), generator=random).float()
    metrics = label_metrics([f"L{k}" for k in range(labels_count)])
    assert list(metrics) == [f"auroc/L{k}" for k in range(labels_count)]
    for k, metric in enumerate(metrics.values()):
        value = over_batches(metric, scores, labels, 8)
        assert type(value) is float
        assert value == pytest.approx(counted_auroc(scores[:, k].tolist(), labels[:, k].tolist()))


def test_metrics_are_written_as_strict_json(tmp_path: Path) -> None:
    engine = Engine(lambda *_: None)
    engine.state.metrics = {"b": NAN, "a": np.float64(0.5), "c": torch.tensor(0.25), "d": math.inf}
    write_metrics(engine, str(tmp_path / "new" / "metrics.json"))
    text = (tmp_path / "new" / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": 0.5, "b": None, "c": 0.25, "d": None}
    assert list(json.loads(text)) == ["a", "b", "c", "d"]
