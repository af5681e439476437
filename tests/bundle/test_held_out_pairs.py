"""What pretraining reports of held-out studies: the bound, retrieval and winners, by loops and by counting ranks."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from statistics import median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from local_mi.aggregations import AGGREGATIONS
from local_mi.critics import SeparableCritic
from local_mi.held_out_pairs import IMAGE_CHUNK, HeldOutPairs
from torch import Tensor

NAN = math.nan
Batch = tuple[dict[str, Tensor], dict[str, Tensor]]


@dataclass
class Scorer:
    """The part of `LocalMINetwork` that scores projections, with real critics and no encoders."""

    local_critic: SeparableCritic
    global_critic: SeparableCritic
    aggregation: str = "max"
    aggregation_temperature: float = 1.0

    def score_regions(self, regions: Tensor, sentences: Tensor) -> Tensor:
        return self.local_critic.score(regions.flatten(0, 1), sentences).view(*regions.shape[:2], -1)

    def score_reports(self, images: Tensor, reports: Tensor) -> Tensor:
        return self.global_critic.score(images, reports)


def metric_of(temperature: float, aggregation: str = "max", max_studies: int = 1000) -> HeldOutPairs:
    critics = [SeparableCritic(4, 4, 4, temperature).requires_grad_(False) for _ in range(2)]
    return HeldOutPairs(Scorer(*critics, aggregation), max_studies)


def local_batch(regions: Tensor, sentences: Tensor, image_of: Tensor, study: Tensor) -> Batch:
    return {"regions": regions, "sentences": sentences}, {"sentence_image": image_of, "study": study}


def slow_figures(
    scale: float, regions: Tensor, sentences: Tensor, image_of: list[int], study: list[str], aggregation: str
) -> dict[str, float]:
    """Everything by loops over images and sentences; only the first image of a study takes part."""
    images = [row for row, name in enumerate(study) if name not in study[:row]]
    kept = [n for n, row in enumerate(image_of) if row in images]
    pair, winners = {}, Counter()
    for b in images:
        for n in kept:
            scores = [scale * float(region @ sentences[n]) for region in regions[b]]
            if image_of[n] == b:
                winners[scores.index(max(scores))] += 1
            if aggregation == "max":
                pair[b, n] = max(scores)
            elif aggregation == "mean":
                pair[b, n] = sum(scores) / len(scores)
            elif aggregation == "attention":
                weights = [math.exp(score) for score in scores]
                pair[b, n] = sum(w * score for w, score in zip(weights, scores, strict=True)) / sum(weights)
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
    figures["local_mi_nats"] = figures["mi"]
    figures["winner_entropy"] = -sum(n / len(kept) * math.log(n / len(kept)) for n in winners.values())
    for direction in ("image_to_report", "report_to_image"):
        ranks = []
        for a in images:
            row = [report[(a, b) if direction == "image_to_report" else (b, a)] for b in images]
            own = report[a, a]
            ties = sum(abs(score - own) < 1e-9 for score in row) - 1
            ranks.append(1 + sum(score > own + 1e-9 for score in row) + ties / 2)
        for k in (1, 5, 10):
            figures[f"retrieval/{direction}/recall_at_{k}"] = sum(rank <= k for rank in ranks) / len(ranks)
        figures[f"retrieval/{direction}/median_rank"] = median(ranks)
    return figures


def batches_of(studies: list[list[int]], seed: int, dtype: torch.dtype = torch.float32) -> list[Batch]:
    """Projected batches, one for each inner list of study numbers; sentences agree somewhat with their image."""
    random = torch.Generator().manual_seed(seed)
    batches = []
    for study in studies:
        counts = torch.randint(1, 4, (len(study),), generator=random)
        image_of = torch.repeat_interleave(torch.arange(len(study)), counts)
        regions = torch.nn.functional.normalize(torch.randn(len(study), 5, 4, generator=random), dim=-1)
        noise = torch.randn(len(image_of), 4, generator=random)
        sentences = torch.nn.functional.normalize(regions[image_of, 0] + 0.5 * noise, dim=-1)
        batches.append(local_batch(regions.to(dtype), sentences.to(dtype), image_of, torch.tensor(study)))
    return batches


def computed(metric: HeldOutPairs, batches: list[Batch]) -> dict[str, float]:
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
    batches = batches_of(studies, seed)
    offsets = [sum(len(study) for study in studies[:k]) for k in range(len(studies))]
    image_of = [
        int(row) + offset
        for (_, pairs), offset in zip(batches, offsets, strict=True)
        for row in pairs["sentence_image"]
    ]
    expected = slow_figures(
        1 / 0.3,
        torch.cat([projections["regions"] for projections, _ in batches]).double(),
        torch.cat([projections["sentences"] for projections, _ in batches]).double(),
        image_of,
        [str(study) for batch in studies for study in batch],
        aggregation,
    )
    figures = computed(metric_of(0.3, aggregation), batches)
    assert set(figures) == set(expected)
    for name, value in expected.items():
        if not name.endswith("median_rank") or expected["retrieval/studies"] % 2:
            assert figures[name] == pytest.approx(value, abs=1e-4), name


def test_the_median_rank_is_the_median_also_of_an_even_number_of_studies() -> None:
    """Image 0 finds its report first, image 1 second: the median of 1 and 2 is 1.5."""
    regions, sentences = torch.tensor([[[1.0]], [[0.5]]]), torch.tensor([[1.0], [1.0]])
    figures = computed(metric_of(1.0), [local_batch(regions, sentences, torch.tensor([0, 1]), torch.tensor([5, 6]))])
    ranks = {"image_to_report": [1.5, 1.5], "report_to_image": [1, 2]}
    for direction, values in ranks.items():
        assert figures[f"retrieval/{direction}/median_rank"] == median(values)


def test_equal_scores_are_chance_and_carry_no_information() -> None:
    studies = 21
    batch = local_batch(torch.ones(studies, 3, 4), torch.ones(studies, 4), torch.arange(studies), torch.arange(studies))
    figures = computed(metric_of(1.0), [batch])
    assert figures["mi"] == pytest.approx(0, abs=1e-5)
    assert figures["retrieval/image_to_report/recall_at_1"] == 0
    assert figures["retrieval/image_to_report/median_rank"] == figures["retrieval/report_to_image/median_rank"] == 11


def test_perfect_projections_are_found_and_reach_the_cap_whatever_the_chunk() -> None:
    studies = IMAGE_CHUNK + 6
    eye = torch.eye(studies)
    figures = computed(metric_of(0.01), [local_batch(eye[:, None], eye, torch.arange(studies), torch.arange(studies))])
    assert figures["mi"] == pytest.approx(math.log(studies), abs=1e-4)
    assert figures["retrieval/image_to_report/recall_at_1"] == figures["retrieval/report_to_image/recall_at_1"] == 1


def test_only_the_first_image_of_a_study_takes_part_also_across_batches() -> None:
    first, second = batches_of([[0, 1, 2], [2, 3, 0]], seed=4)
    seen = computed(metric_of(0.3), [first, second])
    projections, pairs = second
    keep = pairs["sentence_image"] == 1
    alone = local_batch(
        projections["regions"][1:2],
        projections["sentences"][keep],
        torch.zeros(int(keep.sum()), dtype=torch.long),
        pairs["study"][1:2],
    )
    assert seen == pytest.approx(computed(metric_of(0.3), [first, alone]))
    assert seen["retrieval/studies"] == 4


def test_a_diverged_network_finds_nothing() -> None:
    """NaN compares false with everything, which must not read as rank one."""
    batch = local_batch(torch.full((6, 2, 4), NAN), torch.full((6, 4), NAN), torch.arange(6), torch.arange(6))
    figures = computed(metric_of(1.0), [batch])
    assert math.isnan(figures["mi"])
    for name in ("image_to_report", "report_to_image"):
        recall = figures[f"retrieval/{name}/recall_at_1"]
        assert math.isnan(recall) or recall == 0


@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_projections_of_another_precision_are_taken(dtype: torch.dtype, aggregation: str) -> None:
    """Mixed-precision evaluation (`amp: true`) gives bfloat16 projections."""
    metric = metric_of(0.3, aggregation)
    batches = batches_of([[0, 1, 2, 3]], 0, dtype)
    if dtype == torch.float64:
        metric.network.local_critic.double()
    single = [({key: value.float() for key, value in projections.items()}, pairs) for projections, pairs in batches]
    expected = computed(metric_of(0.3, aggregation), single)["mi"]
    assert computed(metric, batches)["mi"] == pytest.approx(expected, abs=0.02)


def test_attached_to_an_engine_the_sum_of_the_bounds_has_the_metrics_name() -> None:
    metric = metric_of(0.3)
    batches = batches_of([[0, 1], [2, 3]], 0)
    engine = Engine(lambda _, batch: {"pred": batch[0], "label": batch[1]})
    metric.attach(engine, "mi_nats")
    for _ in range(2):  # a second epoch starts anew
        state = engine.run(batches, max_epochs=1)
        expected = computed(metric_of(0.3), batches)
        assert state.metrics["mi_nats"] == pytest.approx(expected.pop("mi"))
        assert {key: state.metrics[key] for key in expected} == pytest.approx(expected)
        assert all(type(value) is float for value in state.metrics.values())
        names = "".join(state.metrics)
        assert re.fullmatch(r"[\w\-./: ]+", names, re.ASCII), "MLflow takes no other characters in a name"


def test_reports_are_scored_by_the_global_critic_and_added_to_their_sentences() -> None:
    """Oracle: a report is one sentence of an image with one region, so that the global term equals a local one."""
    random = torch.Generator().manual_seed(0)
    images, reports = torch.randn(7, 4, generator=random), torch.randn(7, 4, generator=random)
    study = torch.arange(7)
    ids = {"sentence_image": study, "study": study}
    of_reports = computed(metric_of(0.3), [({"images": images, "reports": reports}, ids)])
    as_sentences = computed(metric_of(0.3), [local_batch(images[:, None], reports, study, study)])
    assert of_reports["global_mi_nats"] == pytest.approx(as_sentences["local_mi_nats"], abs=1e-6)
    both = {"regions": images[:, None], "sentences": reports, "images": images, "reports": reports}
    figures = computed(metric_of(0.3), [(both, ids)])
    assert figures["mi"] == pytest.approx(2 * of_reports["mi"], abs=1e-6)
    for name in ("recall_at_1", "recall_at_5", "median_rank"):
        key = f"retrieval/image_to_report/{name}"
        assert figures[key] == of_reports[key] == as_sentences[key]


def test_no_more_studies_take_part_than_asked_for() -> None:
    """Scores of all with all grow with the square of their number."""
    first, second = batches_of([[0, 1], [2, 3]], seed=4)
    alone = computed(metric_of(0.3), [first])
    assert computed(metric_of(0.3, max_studies=2), [first, second]) == pytest.approx(alone)
    assert computed(metric_of(0.3, max_studies=3), [first, second])["retrieval/studies"] == 3
