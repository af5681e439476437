"""Bounds of mutual information do what their formulas say: against loops, with gradients, caps and invariances."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.bounds import donsker_varadhan, info_nce, jensen_shannon, mine
from slow_oracles import slow_donsker_varadhan, slow_info_nce, slow_jensen_shannon, slow_mine
from torch import Tensor

NAN = math.nan
DECAY = 0.75

Bound = Callable[[Tensor, Tensor, Tensor], Tensor]


def first_mine(positive: Tensor, scores: Tensor, negative: Tensor) -> Tensor:
    return mine(positive, scores, negative, torch.tensor(NAN), DECAY)[0]


def later_mine(positive: Tensor, scores: Tensor, negative: Tensor) -> Tensor:
    return mine(positive, scores, negative, torch.tensor(1.5), DECAY)[0]


def slow_later_mine(positive: Tensor, scores: Tensor, negative: Tensor) -> Tensor:
    return slow_mine(positive, scores, negative, 1.5, DECAY)[0]


def slow_first_mine(positive: Tensor, scores: Tensor, negative: Tensor) -> Tensor:
    return slow_mine(positive, scores, negative, NAN, DECAY)[0]


SCALAR_BOUNDS: dict[str, tuple[Bound, Bound]] = {
    "dv": (donsker_varadhan, slow_donsker_varadhan),
    "mine, first batch": (first_mine, slow_first_mine),
    "mine, later batch": (later_mine, slow_later_mine),
    "jsd": (jensen_shannon, slow_jensen_shannon),
}
scalar_bounds = pytest.mark.parametrize("name", sorted(SCALAR_BOUNDS))
sizes = st.integers(1, 7)
seeds = st.integers(0, 10_000)


def scores_and_mask(anchors: int, candidates: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    positive = torch.randn(anchors, generator=random, dtype=torch.float64) * 3
    scores = torch.randn(anchors, candidates, generator=random, dtype=torch.float64) * 3
    negative = torch.rand(anchors, candidates, generator=random) < 0.7
    return positive.to(dtype), scores.to(dtype), negative


def value_and_gradients(
    bound: Callable[..., Tensor], positive: Tensor, scores: Tensor, negative: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the bound, summed with unequal weights where it has a value an anchor."""
    leaves = positive.clone().requires_grad_(), scores.clone().requires_grad_()
    values = bound(*leaves, negative)
    weighted = values * torch.arange(1.0, values.numel() + 1, dtype=values.dtype).view_as(values)
    (weighted.sum() + 0 * leaves[0].sum() + 0 * leaves[1].sum()).backward()
    assert leaves[0].grad is not None
    assert leaves[1].grad is not None
    return values.detach(), leaves[0].grad, leaves[1].grad


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, seeds)
def test_info_nce_equals_a_loop_over_anchors_with_its_gradients(anchors: int, candidates: int, seed: int) -> None:
    positive, scores, negative = scores_and_mask(anchors, candidates, seed, torch.float64)
    fast = value_and_gradients(lambda *a: info_nce(*a)[0], positive, scores, negative)
    slow = value_and_gradients(lambda *a: slow_info_nce(*a)[0], positive, scores, negative)
    torch.testing.assert_close(fast, slow, atol=1e-12, rtol=1e-10)
    _, valid = info_nce(positive, scores, negative)
    assert torch.equal(valid, slow_info_nce(positive, scores, negative)[1])


@scalar_bounds
@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, seeds)
def test_a_bound_over_all_pairs_equals_a_loop_with_its_gradients(
    name: str, matched: int, rows: int, columns: int, seed: int
) -> None:
    fast, slow = SCALAR_BOUNDS[name]
    _, scores, negative = scores_and_mask(rows, columns, seed, torch.float64)
    positive = scores_and_mask(matched, 1, seed + 1, torch.float64)[0]
    got = value_and_gradients(fast, positive, scores, negative)
    assert got[0].shape == ()
    torch.testing.assert_close(got, value_and_gradients(slow, positive, scores, negative), atol=1e-9, rtol=1e-9)


def test_info_nce_passes_gradcheck_in_float64() -> None:
    positive, scores, negative = scores_and_mask(4, 5, 3, torch.float64)
    negative[2] = False
    assert torch.autograd.gradcheck(
        lambda p, s: info_nce(p, s, negative)[0], (positive.requires_grad_(), scores.requires_grad_())
    )


@pytest.mark.parametrize("name", ["dv", "mine, first batch", "jsd"])
def test_a_bound_whose_gradient_is_unbiased_passes_gradcheck_in_float64(name: str) -> None:
    """MINE's among them while its average is the batch's own."""
    positive, scores, negative = scores_and_mask(4, 5, 3, torch.float64)
    bound, _ = SCALAR_BOUNDS[name]
    assert torch.autograd.gradcheck(
        lambda p, s: bound(p, s, negative), (positive.requires_grad_(), scores.requires_grad_())
    )


@pytest.mark.parametrize("log_average", [-2.0, 0.0, 3.0])
def test_the_gradient_of_mine_holds_its_moving_average_constant(log_average: float) -> None:
    """Belghazi et al., 2018: finite differences of `E T - E exp T / average`, the average as this batch leaves it."""
    positive, scores, negative = scores_and_mask(3, 4, 5, torch.float64)

    def mine_now(p: Tensor, s: Tensor, mask: Tensor) -> Tensor:
        return mine(p, s, mask, torch.tensor(log_average, dtype=torch.float64), DECAY)[0]

    _, to_positive, to_scores = value_and_gradients(mine_now, positive, scores, negative)
    average = DECAY * math.exp(log_average) + (1 - DECAY) * float(scores[negative].exp().mean())

    def surrogate(p: Tensor, s: Tensor) -> float:
        return float(p.mean() - s[negative].exp().mean() / average)

    step = 1e-6
    for place in range(len(positive)):
        shift = torch.zeros_like(positive)
        shift[place] = step
        slope = (surrogate(positive + shift, scores) - surrogate(positive - shift, scores)) / (2 * step)
        assert float(to_positive[place]) == pytest.approx(slope, abs=1e-7)
    for row in range(scores.shape[0]):
        for column in range(scores.shape[1]):
            shift = torch.zeros_like(scores)
            shift[row, column] = step
            slope = (surrogate(positive, scores + shift) - surrogate(positive, scores - shift)) / (2 * step)
            assert float(to_scores[row, column]) == pytest.approx(slope, abs=1e-7, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(seeds, min_size=1, max_size=6), st.floats(0, 0.999))
def test_the_moving_average_of_mine_is_exponential_and_starts_at_the_first_batch(
    batches: list[int], decay: float
) -> None:
    log_average, expected = torch.tensor(NAN), NAN
    for seed in batches:
        positive, scores, negative = scores_and_mask(3, 4, seed, torch.float64)
        negative[0, 0] = True
        scores = scores.requires_grad_()
        value, log_average = mine(positive, scores, negative, log_average, decay)
        batch = sum(math.exp(score) for score in scores[negative].tolist()) / int(negative.sum())
        expected = batch if math.isnan(expected) else decay * expected + (1 - decay) * batch
        assert not log_average.requires_grad
        assert float(log_average) == pytest.approx(math.log(expected), abs=1e-5, rel=1e-5)
        torch.testing.assert_close(value, donsker_varadhan(positive, scores, negative))


def test_the_moving_average_of_mine_outlives_scores_beyond_the_exponential() -> None:
    positive, scores = torch.tensor([900.0]), torch.full((2, 2), 900.0, requires_grad=True)
    value, log_average = mine(positive, scores, torch.ones(2, 2, dtype=torch.bool), torch.tensor(900.0), 0.9)
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-3)
    assert float(log_average) == pytest.approx(900, abs=1e-3)
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, torch.full((2, 2), -0.25), atol=1e-3, rtol=0)


def test_a_batch_without_negatives_leaves_the_moving_average_of_mine_as_it_was() -> None:
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    for log_average in (torch.tensor(NAN), torch.tensor(0.7)):
        _, after = mine(torch.ones(2), torch.ones(2, 2), nothing, log_average, DECAY)
        torch.testing.assert_close(after, log_average, equal_nan=True)


@pytest.mark.parametrize("level", [-300.0, 0.0, 5.0, 1e4])
@pytest.mark.parametrize("name", ["dv", "mine, first batch", "mine, later batch"])
def test_constant_scores_carry_no_information(name: str, level: float) -> None:
    negative = torch.ones(6, 9, dtype=torch.bool).triu()
    positive, scores = torch.full((6,), level), torch.full((6, 9), level)
    tolerance = 2e-3 if level == 1e4 else 5e-5
    values, valid = info_nce(positive, scores, negative)
    assert valid.all()
    torch.testing.assert_close(values, torch.zeros(6), atol=tolerance, rtol=0)
    assert float(SCALAR_BOUNDS[name][0](positive, scores, negative)) == pytest.approx(0, abs=tolerance)


def test_jensen_shannon_of_constant_scores_is_highest_at_zero() -> None:
    negative = torch.ones(3, 4, dtype=torch.bool)
    values = {c: float(jensen_shannon(torch.full((3,), c), torch.full((3, 4), c), negative)) for c in (-1.0, 0.0, 1.0)}
    assert values[0.0] == pytest.approx(-2 * math.log(2), abs=1e-6)
    assert max(values, key=lambda c: values[c]) == 0.0


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, seeds, st.floats(-50, 50))
def test_a_constant_added_to_an_anchors_scores_leaves_info_nce(
    anchors: int, candidates: int, seed: int, shift: float
) -> None:
    positive, scores, negative = scores_and_mask(anchors, candidates, seed, torch.float64)
    per_anchor = shift * torch.arange(1.0, anchors + 1, dtype=torch.float64)
    before = info_nce(positive, scores, negative)[0]
    torch.testing.assert_close(info_nce(positive + shift, scores + shift, negative)[0], before, atol=1e-9, rtol=0)
    shifted = info_nce(positive + per_anchor, scores + per_anchor[:, None], negative)[0]
    torch.testing.assert_close(shifted, before, atol=1e-9, rtol=0)


@settings(max_examples=30, deadline=None)
@given(sizes, sizes, seeds, st.floats(-50, 50))
def test_a_constant_added_to_all_scores_leaves_donsker_varadhan(
    anchors: int, candidates: int, seed: int, shift: float
) -> None:
    positive, scores, negative = scores_and_mask(anchors, candidates, seed, torch.float64)
    for bound in (donsker_varadhan, first_mine):
        before, after = bound(positive, scores, negative), bound(positive + shift, scores + shift, negative)
        torch.testing.assert_close(after, before, atol=1e-9, rtol=0)


@scalar_bounds
@settings(max_examples=20, deadline=None)
@given(sizes, sizes, seeds)
def test_the_order_of_pairs_does_not_matter(name: str, anchors: int, candidates: int, seed: int) -> None:
    bound, _ = SCALAR_BOUNDS[name]
    positive, scores, negative = scores_and_mask(anchors, candidates, seed, torch.float64)
    random = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(anchors, generator=random), torch.randperm(candidates, generator=random)
    moved = positive[rows], scores[rows][:, columns], negative[rows][:, columns]
    torch.testing.assert_close(bound(*moved), bound(positive, scores, negative), atol=1e-12, rtol=0)
    torch.testing.assert_close(info_nce(*moved)[0], info_nce(positive, scores, negative)[0][rows], atol=1e-12, rtol=0)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, seeds, st.sampled_from([1.0, 1e3, 1e30]))
def test_info_nce_is_never_above_the_log_of_the_anchors_own_candidates(
    anchors: int, candidates: int, seed: int, scale: float
) -> None:
    positive, scores, negative = scores_and_mask(anchors, candidates, seed, torch.float32)
    values, _ = info_nce(positive.abs() * scale, scores * scale, negative)
    cap = torch.tensor([math.log(1 + int(row.sum())) for row in negative])
    assert (values <= cap + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, seeds, st.sampled_from([1.0, 1e3, 1e30]))
def test_jensen_shannon_is_never_above_zero(anchors: int, candidates: int, seed: int, scale: float) -> None:
    positive, scores, negative = scores_and_mask(anchors, candidates, seed, torch.float32)
    value = float(jensen_shannon(positive * scale, scores * scale, negative))
    assert math.isfinite(value)
    assert value <= 0


def test_a_perfect_critic_reaches_the_log_of_its_own_kept_candidates() -> None:
    negative = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    values, _ = info_nce(torch.full((2,), 100.0), torch.zeros(2, 7), negative)
    torch.testing.assert_close(values, torch.tensor([math.log(8), math.log(4)]))


@scalar_bounds
@pytest.mark.parametrize("masked_score", [0.0, 1e30, math.inf, -math.inf, NAN])
def test_scores_of_pairs_that_are_no_negatives_do_not_count(name: str, masked_score: float) -> None:
    positive, scores, negative = scores_and_mask(5, 6, 1, torch.float64)
    other = torch.where(negative, scores, torch.full_like(scores, masked_score))
    bound, _ = SCALAR_BOUNDS[name]
    for function in (bound, lambda *a: info_nce(*a)[0]):
        expected = value_and_gradients(function, positive, scores, negative)
        got = function(positive, other.requires_grad_(), negative)
        torch.testing.assert_close(got.detach(), expected[0])
        (gradient,) = torch.autograd.grad(got.sum(), other)
        assert torch.isfinite(gradient).all()
        assert (gradient[~negative] == 0).all()


@pytest.mark.parametrize("masked_score", [0.0, 1e30, math.inf, -math.inf, NAN])
def test_an_anchor_without_negatives_gives_zero_and_no_gradient(masked_score: float) -> None:
    positive = torch.tensor([2.0, -1.0], requires_grad=True)
    scores = torch.tensor([[masked_score] * 3, [0.5, 1.0, 2.0]], requires_grad=True)
    negative = torch.tensor([[False] * 3, [True, True, False]])
    values, valid = info_nce(positive, scores, negative)
    values.sum().backward()
    assert valid.tolist() == [False, True]
    assert values[0] == 0
    assert positive.grad is not None
    assert scores.grad is not None
    assert positive.grad[0] == 0
    assert (scores.grad[0] == 0).all()
    assert torch.isfinite(positive.grad).all()
    assert torch.isfinite(scores.grad).all()
    assert positive.grad[1] > 0


@scalar_bounds
@pytest.mark.parametrize("masked_score", [0.0, math.inf, -math.inf, NAN])
def test_a_batch_without_negatives_gives_zero_and_no_gradient(name: str, masked_score: float) -> None:
    positive = torch.tensor([2.0, -1.0], requires_grad=True)
    scores = torch.full((2, 3), masked_score, requires_grad=True)
    value = SCALAR_BOUNDS[name][0](positive, scores, torch.zeros(2, 3, dtype=torch.bool))
    assert float(value.detach()) == 0
    (value + 0 * positive.sum()).backward()
    assert positive.grad is not None
    assert (positive.grad == 0).all()
    assert scores.grad is None or (scores.grad == 0).all()


@scalar_bounds
def test_half_precision_scores_are_reduced_in_single_precision(name: str) -> None:
    random = torch.Generator().manual_seed(0)
    positive = torch.randn(8, generator=random).bfloat16()
    scores = torch.randn(8, 2000, generator=random).bfloat16()
    negative = torch.ones(8, 2000, dtype=torch.bool)
    for bound in (SCALAR_BOUNDS[name][0], lambda *a: info_nce(*a)[0]):
        value = bound(positive, scores, negative)
        assert value.dtype == torch.float32
        exact = bound(positive.double(), scores.double(), negative)
        torch.testing.assert_close(value.double(), exact.double(), atol=1e-5, rtol=0)


@scalar_bounds
def test_single_precision_is_kept_under_autocast(name: str) -> None:
    positive, scores, negative = scores_and_mask(8, 200, 0, torch.float32)
    for bound in (SCALAR_BOUNDS[name][0], lambda *a: info_nce(*a)[0]):
        expected = bound(positive, scores, negative)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = bound(positive, scores, negative)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected)
