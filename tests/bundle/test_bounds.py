"""InfoNCE says what it should: against a loop, its invariances, its cap, and Gaussians whose information is known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.bounds import info_nce
from torch import Tensor


def slow_info_nce(positive: Tensor, candidates: Tensor, negative: Tensor) -> tuple[list[Tensor], list[bool]]:
    """One anchor at a time: `s - log(e^s + sum of e^n) + log K`, K the positive and the negatives that are kept."""
    values, valid = [], []
    for row in range(len(positive)):
        kept = [candidates[row, k] for k in range(candidates.shape[1]) if negative[row, k]]
        denominator = positive[row].exp() + sum(score.exp() for score in kept)
        value = positive[row] - denominator.log() + math.log(1 + len(kept))
        values.append(value if kept else torch.zeros((), dtype=positive.dtype))
        valid.append(bool(kept))
    return values, valid


def scores_and_mask(anchors: int, candidates: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    positive = torch.randn(anchors, generator=random, dtype=torch.float64) * 3
    scores = torch.randn(anchors, candidates, generator=random, dtype=torch.float64) * 3
    negative = torch.rand(anchors, candidates, generator=random) < 0.7
    return positive.to(dtype), scores.to(dtype), negative


sizes = st.integers(1, 7)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, st.integers(0, 10_000))
def test_equals_a_loop_over_anchors_with_its_gradients(anchors: int, candidates: int, seed: int) -> None:
    positive, scores, negative = scores_and_mask(anchors, candidates, seed, torch.float64)
    weights = torch.arange(1.0, anchors + 1, dtype=torch.float64)
    gradients = []
    for function in (info_nce, slow_info_nce):
        leaves = [positive.clone().requires_grad_(), scores.clone().requires_grad_()]
        values, valid = function(*leaves, negative)
        values = values if isinstance(values, Tensor) else torch.stack(values)
        (values * weights + 0 * leaves[0].sum() + 0 * leaves[1].sum()).sum().backward()
        gradients.append((values.detach(), torch.as_tensor(valid), *(leaf.grad for leaf in leaves)))
    for fast, slow in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-12, rtol=1e-10)


def test_passes_gradcheck_in_float64() -> None:
    positive, scores, negative = scores_and_mask(4, 5, 3, torch.float64)
    negative[2] = False
    assert torch.autograd.gradcheck(
        lambda p, s: info_nce(p, s, negative)[0], (positive.requires_grad_(), scores.requires_grad_())
    )


@pytest.mark.parametrize("level", [-300.0, 0.0, 5.0, 1e4])
def test_constant_scores_carry_no_information(level: float) -> None:
    negative = torch.ones(6, 9, dtype=torch.bool).triu()
    values, valid = info_nce(torch.full((6,), level), torch.full((6, 9), level), negative)
    assert valid.all()
    torch.testing.assert_close(values, torch.zeros(6), atol=2e-3 if level == 1e4 else 5e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, st.integers(0, 10_000), st.floats(-50, 50))
def test_a_constant_added_to_an_anchors_scores_changes_nothing(
    anchors: int, candidates: int, seed: int, shift: float
) -> None:
    positive, scores, negative = scores_and_mask(anchors, candidates, seed, torch.float64)
    per_anchor = shift * torch.arange(1.0, anchors + 1, dtype=torch.float64)
    before = info_nce(positive, scores, negative)[0]
    torch.testing.assert_close(info_nce(positive + shift, scores + shift, negative)[0], before, atol=1e-9, rtol=0)
    shifted = info_nce(positive + per_anchor, scores + per_anchor[:, None], negative)[0]
    torch.testing.assert_close(shifted, before, atol=1e-9, rtol=0)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, st.integers(0, 10_000), st.sampled_from([1.0, 1e3, 1e30]))
def test_never_above_the_log_of_the_anchors_own_candidates(
    anchors: int, candidates: int, seed: int, scale: float
) -> None:
    positive, scores, negative = scores_and_mask(anchors, candidates, seed, torch.float32)
    values, _ = info_nce(positive.abs() * scale, scores * scale, negative)
    cap = torch.tensor([math.log(1 + int(row.sum())) for row in negative])
    assert (values <= cap + 1e-6).all()


def test_a_perfect_critic_reaches_the_log_of_its_own_kept_candidates() -> None:
    negative = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    values, _ = info_nce(torch.full((2,), 100.0), torch.zeros(2, 7), negative)
    torch.testing.assert_close(values, torch.tensor([math.log(8), math.log(4)]))


def test_scores_of_candidates_that_are_no_negatives_do_not_count() -> None:
    positive, scores, negative = scores_and_mask(5, 6, 1, torch.float32)
    other = torch.where(negative, scores, torch.full_like(scores, 1e6))
    torch.testing.assert_close(info_nce(positive, scores, negative)[0], info_nce(positive, other, negative)[0])


@pytest.mark.parametrize("masked_score", [0.0, 1e30, math.inf, -math.inf, math.nan])
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


def test_reduces_half_precision_scores_in_single_precision() -> None:
    random = torch.Generator().manual_seed(0)
    positive = torch.randn(8, generator=random).bfloat16()
    scores = torch.randn(8, 2000, generator=random).bfloat16()
    negative = torch.ones(8, 2000, dtype=torch.bool)
    values, _ = info_nce(positive, scores, negative)
    assert values.dtype == torch.float32
    exact, _ = info_nce(positive.double(), scores.double(), negative)
    torch.testing.assert_close(values.double(), exact, atol=1e-5, rtol=0)


def test_keeps_single_precision_under_autocast() -> None:
    positive, scores, negative = scores_and_mask(8, 200, 0, torch.float32)
    expected, _ = info_nce(positive, scores, negative)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values, _ = info_nce(positive, scores, negative)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected)


def information_of_gaussians(
    rho: float, dimensions: int, batch: int, repeats: int, shuffled: bool = False
) -> tuple[float, float]:
    """Mean and standard error of InfoNCE over batches, with the optimal critic log p(y|x) / p(y)."""
    random = torch.Generator().manual_seed(0)
    values = []
    for _ in range(repeats):
        x = torch.randn(batch, dimensions, generator=random, dtype=torch.float64)
        noise = torch.randn(batch, dimensions, generator=random, dtype=torch.float64)
        y = noise if shuffled else rho * x + math.sqrt(1 - rho**2) * noise
        distance = (y[None] ** 2).sum(2) - 2 * rho * (x @ y.T) + rho**2 * (x[:, None] ** 2).sum(2)
        scores = -0.5 * distance / (1 - rho**2) + 0.5 * (y**2).sum(1)[None] - dimensions / 2 * math.log(1 - rho**2)
        values.append(info_nce(scores.diagonal(), scores, ~torch.eye(batch, dtype=torch.bool))[0].mean())
    spread = torch.stack(values)
    return float(spread.mean()), float(spread.std()) / math.sqrt(repeats)


# Values and standard deviations over batches: measured apart from this code, with numpy, in docs of the method.
@pytest.mark.parametrize(
    ("information", "batch", "value", "deviation", "repeats"),
    [(2, 512, 1.96, 0.08, 20), (2, 64, 1.82, 0.19, 60), (10, 64, 4.12, 0.04, 60), (6, 2048, 5.45, 0.04, 2)],
)
def test_correlated_gaussians_with_the_optimal_critic(
    information: float, batch: int, value: float, deviation: float, repeats: int
) -> None:
    rho = math.sqrt(1 - math.exp(-2 * information / 20))
    mean, _ = information_of_gaussians(rho, 20, batch, repeats)
    assert abs(mean - value) < 4 * deviation / math.sqrt(repeats) + 0.005  # the table has two decimals
    assert mean < math.log(batch)


@pytest.mark.parametrize(("rho", "value"), [(0.5, 0.143), (0.9, 0.826), (0.99, 1.953)])
def test_one_dimensional_gaussians(rho: float, value: float) -> None:
    mean, error = information_of_gaussians(rho, 1, 512, 40)
    assert abs(mean - value) < 4 * error + 0.0005


def test_independent_pairs_have_no_information_whatever_the_critic_believes() -> None:
    mean, error = information_of_gaussians(0.9, 1, 128, 40, shuffled=True)
    assert mean < 4 * error


def test_texts_of_g_kinds_saturate_at_log_g() -> None:
    """Duplicated texts stay among the candidates here, as in the reported estimate: information cannot exceed ln G."""
    kinds, batch = 5, 400
    text = torch.arange(batch) % kinds
    scores = torch.where(text[:, None] == text[None], 60.0, 0.0)
    values, _ = info_nce(scores.diagonal(), scores, ~torch.eye(batch, dtype=torch.bool))
    assert float(values.mean()) == pytest.approx(math.log(kinds), abs=1e-4)
