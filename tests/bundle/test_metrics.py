"""Figures that are reported: AUROC by counting pairs, and the held-out bound and retrieval by counting ranks."""

import json
import math
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from local_mi.critics import CosineCritic
from local_mi.metrics import (
    IMAGE_CHUNK,
    HeldOutPairs,
    LabelAUROC,
    MeanAUROC,
    label_auroc,
    label_metrics,
    write_metrics,
)
from local_mi.objectives import AGGREGATIONS
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


def slow_figures(
    critic: CosineCritic, regions: Tensor, sentences: Tensor, image_of: list[int], study: list[str], aggregation: str
) -> dict[str, float]:
    """Everything by loops over images and sentences; only the first image of a study takes part."""
    images = [row for row, name in enumerate(study) if name not in study[:row]]
    kept = [n for n, row in enumerate(image_of) if row in images]
    scale = min(100.0, critic.log_inverse_temperature.exp().item())
    pair = {}
    for b in images:
        for n in kept:
            scores = [scale * float(region @ sentences[n]) for region in regions[b]]
            if aggregation == "max":
                pair[b, n] = max(scores)
            elif aggregation == "mean":
                pair[b, n] = sum(scores) / len(scores)
            else:
                pair[b, n] = math.log(sum(math.exp(score) for score in scores) / len(scores))
    shares = [
        pair[image_of[n], n] - math.log(sum(math.exp(pair[b, n]) for b in images)) + math.log(len(images)) for n in kept
    ]
    report = {}
    for b in images:
        for owner in images:
            own = [pair[b, n] for n in kept if image_of[n] == owner]
            report[b, owner] = sum(own) / len(own)
    figures = {"mi": sum(shares) / len(shares), "retrieval/studies": float(len(images))}
    for direction in ("image_to_report", "report_to_image"):
        ranks = []
        for a in images:
            row = [report[(a, b) if direction == "image_to_report" else (b, a)] for b in images]
            own = report[a, a]
            ties = sum(abs(score - own) < 1e-9 for score in row) - 1
            ranks.append(1 + sum(score > own + 1e-9 for score in row) + ties / 2)
        for k in (1, 5, 10):
            figures[f"retrieval/{direction}/r@{k}"] = sum(rank <= k for rank in ranks) / len(ranks)
        figures[f"retrieval/{direction}/median_rank"] = median(ranks)
    return figures


def batches_of(studies: list[list[int]], seed: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, ...]]:
    """Projected batches, one for each inner list of study numbers; sentences agree somewhat with their image."""
    random = torch.Generator().manual_seed(seed)
    batches = []
    for study in studies:
        counts = torch.randint(1, 4, (len(study),), generator=random)
        image_of = torch.repeat_interleave(torch.arange(len(study)), counts)
        regions = torch.nn.functional.normalize(torch.randn(len(study), 5, 4, generator=random), dim=-1)
        noise = torch.randn(len(image_of), 4, generator=random)
        sentences = torch.nn.functional.normalize(regions[image_of, 0] + 0.5 * noise, dim=-1)
        batches.append((regions.to(dtype), sentences.to(dtype), image_of, torch.tensor(study)))
    return batches


def computed(metric: HeldOutPairs, batches: list[tuple[Tensor, ...]]) -> dict[str, float]:
    metric.reset()
    for batch in batches:
        metric.update(batch)
    return metric.compute()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=5), min_size=1, max_size=4),
    st.integers(0, 1000),
    st.sampled_from(sorted(AGGREGATIONS)),
)
def test_held_out_figures_equal_a_loop_over_images_and_sentences(
    studies: list[list[int]], seed: int, aggregation: str
) -> None:
    critic = CosineCritic(4, 4, 4, temperature=0.3)
    batches = batches_of(studies, seed)
    offsets = [sum(len(study) for study in studies[:k]) for k in range(len(studies))]
    image_of = [int(row) + offset for batch, offset in zip(batches, offsets, strict=True) for row in batch[2]]
    expected = slow_figures(
        critic,
        torch.cat([batch[0] for batch in batches]).double(),
        torch.cat([batch[1] for batch in batches]).double(),
        image_of,
        [str(study) for batch in studies for study in batch],
        aggregation,
    )
    figures = computed(HeldOutPairs(critic, aggregation, 1000), batches)
    assert set(figures) == set(expected)
    for name, value in expected.items():
        if not name.endswith("median_rank") or expected["retrieval/studies"] % 2:
            assert figures[name] == pytest.approx(value, abs=1e-4), name


def test_the_median_rank_is_the_median_also_of_an_even_number_of_studies() -> None:
    """Image 0 finds its report first, image 1 second: the median of 1 and 2 is 1.5."""
    batch = (torch.tensor([[[1.0]], [[0.5]]]), torch.tensor([[1.0], [1.0]]), torch.tensor([0, 1]), torch.tensor([5, 6]))
    figures = computed(HeldOutPairs(CosineCritic(1, 1, 1, temperature=1.0), "max", 1000), [batch])
    ranks = {"image_to_report": [1.5, 1.5], "report_to_image": [1, 2]}
    for direction, values in ranks.items():
        assert figures[f"retrieval/{direction}/median_rank"] == median(values)


def test_equal_scores_are_chance_and_carry_no_information() -> None:
    studies = 21
    batch = (torch.ones(studies, 3, 4), torch.ones(studies, 4), torch.arange(studies), torch.arange(studies))
    figures = computed(HeldOutPairs(CosineCritic(4, 4, 4, 1.0), "max", 1000), [batch])
    assert figures["mi"] == pytest.approx(0, abs=1e-5)
    assert figures["retrieval/image_to_report/r@1"] == 0
    assert figures["retrieval/image_to_report/median_rank"] == figures["retrieval/report_to_image/median_rank"] == 11


def test_perfect_projections_are_found_and_reach_the_cap_whatever_the_chunk() -> None:
    studies = IMAGE_CHUNK + 6
    eye = torch.eye(studies)
    batch = (eye[:, None], eye, torch.arange(studies), torch.arange(studies))
    figures = computed(HeldOutPairs(CosineCritic(4, 4, 4, temperature=0.01), "max", 1000), [batch])
    assert figures["mi"] == pytest.approx(math.log(studies), abs=1e-4)
    assert figures["retrieval/image_to_report/r@1"] == figures["retrieval/report_to_image/r@1"] == 1


def test_only_the_first_image_of_a_study_takes_part_also_across_batches() -> None:
    critic = CosineCritic(4, 4, 4, 0.3)
    first, second = batches_of([[0, 1, 2], [2, 3, 0]], seed=4)
    seen = computed(HeldOutPairs(critic, "max", 1000), [first, second])
    regions, sentences, image_of, study = second
    keep = image_of == 1
    alone = (regions[1:2], sentences[keep], image_of[keep] - 1, study[1:2])
    assert seen == pytest.approx(computed(HeldOutPairs(critic, "max", 1000), [first, alone]))
    assert seen["retrieval/studies"] == 4


def test_a_diverged_network_finds_nothing() -> None:
    """NaN compares false with everything, which must not read as rank one."""
    batch = (torch.full((6, 2, 4), NAN), torch.full((6, 4), NAN), torch.arange(6), torch.arange(6))
    figures = computed(HeldOutPairs(CosineCritic(4, 4, 4, 1.0), "max", 1000), [batch])
    assert math.isnan(figures["mi"])
    for name in ("image_to_report", "report_to_image"):
        recall = figures[f"retrieval/{name}/r@1"]
        assert math.isnan(recall) or recall == 0


@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_projections_of_another_precision_are_taken(dtype: torch.dtype, aggregation: str) -> None:
    """Mixed-precision evaluation (`amp: true`) gives bfloat16 projections."""
    metric = HeldOutPairs(CosineCritic(4, 4, 4, 0.3), aggregation, 1000)
    batches = batches_of([[0, 1, 2, 3]], 0, dtype)
    single = [tuple(t.float() if t.is_floating_point() else t for t in batch) for batch in batches]
    assert computed(metric, batches)["mi"] == pytest.approx(computed(metric, single)["mi"], abs=0.02)


def test_attached_to_an_engine_the_bound_has_the_metrics_name() -> None:
    metric = HeldOutPairs(CosineCritic(4, 4, 4, 0.3), "max", 1000)
    batches = batches_of([[0, 1], [2, 3]], 0)

    def step(_: Engine, batch: tuple[Tensor, ...]) -> dict[str, dict[str, Tensor]]:
        regions, sentences, image_of, study = batch
        label = {"sentence_image": image_of, "study": study}
        return {"pred": {"regions": regions, "sentences": sentences}, "label": label}

    engine = Engine(step)
    metric.attach(engine, "local_mi_nats")
    for _ in range(2):  # a second epoch starts anew
        state = engine.run(batches, max_epochs=1)
        expected = computed(HeldOutPairs(metric.critic, "max", 1000), batches)
        assert state.metrics["local_mi_nats"] == pytest.approx(expected.pop("mi"))
        assert {key: state.metrics[key] for key in expected} == pytest.approx(expected)
        assert all(type(value) is float for value in state.metrics.values())


def test_metrics_are_written_as_strict_json(tmp_path: Path) -> None:
    engine = Engine(lambda *_: None)
    engine.state.metrics = {"b": NAN, "a": np.float64(0.5), "c": torch.tensor(0.25), "d": math.inf}
    write_metrics(engine, str(tmp_path / "new" / "metrics.json"))
    text = (tmp_path / "new" / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": 0.5, "b": None, "c": 0.25, "d": None}
    assert list(json.loads(text)) == ["a", "b", "c", "d"]


def test_no_more_studies_take_part_than_asked_for() -> None:
    """Scores of all with all grow with the square of their number."""
    critic = CosineCritic(4, 4, 4, 0.3)
    first, second = batches_of([[0, 1], [2, 3]], seed=4)
    alone = computed(HeldOutPairs(critic, "max", 1000), [first])
    assert computed(HeldOutPairs(critic, "max", 2), [first, second]) == pytest.approx(alone)
    assert computed(HeldOutPairs(critic, "max", 3), [first, second])["retrieval/studies"] == 3
