"""The regions of an image make one score with a sentence: by a rule that does not know which pairs are matched."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.aggregations import AGGREGATIONS, aggregate_regions
from local_mi.errors import ConfigurationError
from slow_oracles import AGGREGATIONS as NAMES
from slow_oracles import slow_aggregates
from torch import Tensor

every_aggregation = pytest.mark.parametrize("aggregation", NAMES)
aggregations = st.sampled_from(NAMES)
temperatures = st.sampled_from([0.05, 0.3, 1.0, 4.0])
region_scores = st.lists(st.floats(-20, 20), min_size=1, max_size=12)


def random_scores(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_one_pair(values: list[float], aggregation: str, temperature: float) -> float:
    scores = torch.tensor(values, dtype=torch.float64)[None, :, None]
    return float(aggregate_regions(scores, aggregation, temperature))


def test_the_names_are_those_of_the_method() -> None:
    assert set(AGGREGATIONS) == set(NAMES)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 4), aggregations, temperatures, st.integers(0, 10_000))
def test_equals_a_loop_over_regions_with_its_gradients(
    images: int, regions: int, sentences: int, aggregation: str, temperature: float, seed: int
) -> None:
    scores = random_scores(images, regions, sentences, seed=seed)
    weights = random_scores(images, sentences, seed=seed + 1)
    results = []
    for rule in (aggregate_regions, slow_aggregates):
        leaf = scores.clone().requires_grad_()
        aggregated = rule(leaf, aggregation, temperature)
        (aggregated * weights).sum().backward()
        results.append((aggregated.detach(), leaf.grad))
    torch.testing.assert_close(*results, atol=1e-10, rtol=1e-9)


@every_aggregation
def test_passes_gradcheck_in_float64(aggregation: str) -> None:
    scores = random_scores(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: aggregate_regions(s, aggregation, 0.5), (scores,))


@settings(max_examples=40, deadline=None)
@given(region_scores, st.integers(2, 5), aggregations, temperatures)
def test_more_regions_of_the_same_scores_do_not_shift_an_images_score(
    values: list[float], copies: int, aggregation: str, temperature: float
) -> None:
    once, repeated = (of_one_pair(times * values, aggregation, temperature) for times in (1, copies))
    assert repeated == pytest.approx(once, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(region_scores, st.floats(-100, 100), aggregations, temperatures)
def test_a_constant_added_to_all_regions_is_added_to_the_score(
    values: list[float], shift: float, aggregation: str, temperature: float
) -> None:
    shifted = of_one_pair([value + shift for value in values], aggregation, temperature)
    assert shifted == pytest.approx(of_one_pair(values, aggregation, temperature) + shift, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.permutations(list(range(6))), aggregations, temperatures)
def test_the_order_of_regions_does_not_matter(order: list[int], aggregation: str, temperature: float) -> None:
    scores = random_scores(2, 6, 3)
    moved = aggregate_regions(scores[:, order], aggregation, temperature)
    torch.testing.assert_close(moved, aggregate_regions(scores, aggregation, temperature))


@settings(max_examples=60, deadline=None)
@given(region_scores, temperatures)
def test_soft_maximum_and_attention_lie_between_mean_and_maximum(values: list[float], temperature: float) -> None:
    mean, best = sum(values) / len(values), max(values)
    soft, attended = (of_one_pair(values, name, temperature) for name in ("logsumexp", "attention"))
    assert mean - 1e-9 <= soft <= best + 1e-9
    assert mean - 1e-9 <= attended <= best + 1e-9
    assert soft <= attended + 1e-9  # their difference is tau times the divergence of attention from uniform


@pytest.mark.parametrize("aggregation", ["logsumexp", "attention"])
@pytest.mark.parametrize("regions", [4, 64, 196])
def test_soft_aggregations_tend_to_the_maximum_and_to_the_mean(aggregation: str, regions: int) -> None:
    scores = random_scores(3, regions, 2)
    spread = float(scores.max() - scores.min())
    for temperature in (1e-1, 1e-2, 1e-3, 1e-4):
        sharp = aggregate_regions(scores, aggregation, temperature)
        assert float((scores.amax(dim=1) - sharp).abs().max()) <= temperature * math.log(regions) + 1e-12
    for temperature in (1e2, 1e4, 1e6):
        flat = aggregate_regions(scores, aggregation, temperature)
        assert float((flat - scores.mean(dim=1)).abs().max()) <= spread**2 / temperature


@every_aggregation
def test_extreme_scores_and_temperatures_stay_finite(aggregation: str) -> None:
    scores = torch.tensor([1e4, -1e4, 3.0, 1e4])[None, :, None].requires_grad_()
    score = aggregate_regions(scores, aggregation, 1e-3)
    score.sum().backward()
    assert torch.isfinite(score).all()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_the_gradient_of_the_maximum_has_one_region_also_in_a_tie() -> None:
    scores = torch.ones(2, 5, 2, requires_grad=True)
    aggregate_regions(scores, "max", 1.0).sum().backward()
    assert scores.grad is not None
    assert (scores.grad != 0).sum(dim=1).tolist() == [[1, 1], [1, 1]]
    assert scores.grad.sum(dim=1).tolist() == [[1, 1], [1, 1]]


def test_the_gradient_of_the_maximum_goes_to_the_best_region() -> None:
    scores = random_scores(4, 9, 3).requires_grad_()
    aggregate_regions(scores, "max", 1.0).sum().backward()
    assert scores.grad is not None
    for b in range(4):
        for n in range(3):
            column = scores[b, :, n].tolist()
            assert scores.grad[b, :, n].tolist() == [float(value == max(column)) for value in column]


@every_aggregation
def test_half_precision_scores_equal_single_precision_within_theirs(aggregation: str) -> None:
    half = random_scores(3, 196, 4).bfloat16()
    exact = aggregate_regions(half.double(), aggregation, 0.2)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            got = aggregate_regions(half, aggregation, 0.2)
        torch.testing.assert_close(got.double(), exact, atol=2e-3, rtol=2**-8)


@pytest.mark.parametrize("aggregation", ["logsumexp", "attention"])
def test_exponentials_are_summed_in_single_precision(aggregation: str) -> None:
    half = random_scores(3, 196, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = aggregate_regions(half, aggregation, 0.2)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), aggregate_regions(half.double(), aggregation, 0.2), atol=1e-5, rtol=0)


def test_unknown_names_and_impossible_temperatures_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'median' is unknown; choose one of max, mean, logsumexp, attention"):
        aggregate_regions(torch.zeros(1, 1, 1), "median", 1.0)
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigurationError, match="temperature"):
            aggregate_regions(torch.zeros(1, 1, 1), "logsumexp", temperature)
