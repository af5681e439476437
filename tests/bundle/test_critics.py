"""Critics score every region with every text: a cosine over a learned temperature, or a perceptron on the pair."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi import critics
from local_mi.critics import MAX_INVERSE_TEMPERATURE, ConcatenationCritic, SeparableCritic, make_critic
from local_mi.errors import ConfigurationError
from torch import Tensor, nn

LEFT, RIGHT = 6, 5
Critic = SeparableCritic | ConcatenationCritic
Scorer = Callable[[Critic, Tensor, Tensor], Tensor]


def new_critic(name: str, seed: int = 0) -> Critic:
    torch.manual_seed(seed)
    return make_critic(name, LEFT, RIGHT, embedding_features=4, hidden_features=(16, 9), temperature=0.2)


def features(left: int, right: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return (
        torch.randn(left, LEFT, generator=random, dtype=dtype),
        torch.randn(right, RIGHT, generator=random, dtype=dtype),
    )


def all_scores(critic: Critic, left: Tensor, right: Tensor) -> Tensor:
    return critic.score(critic.project_left(left), critic.project_right(right))


def slow_cosine(critic: Critic, left: Tensor, right: Tensor) -> Tensor:
    """The score of one region with one sentence, from the layers' weights."""
    of_left, of_right = [layer for layer in critic.modules() if isinstance(layer, nn.Linear)]
    a, b = of_left.weight @ left + of_left.bias, of_right.weight @ right + of_right.bias
    cosine = (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())
    assert isinstance(critic, SeparableCritic)
    return cosine * critic.log_inverse_temperature.exp()


def slow_perceptron(critic: Critic, left: Tensor, right: Tensor) -> Tensor:
    """The plain network of the paper, given the concatenation of one region's and one sentence's features."""
    first, second, last = [layer for layer in critic.modules() if isinstance(layer, nn.Linear)]
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)(torch.cat([left, right]))[0]


SLOW: dict[str, Scorer] = {"separable": slow_cosine, "concatenation": slow_perceptron}
both_critics = pytest.mark.parametrize("name", sorted(SLOW))


def slow_scores(critic: Critic, left: Tensor, right: Tensor) -> Tensor:
    score = SLOW["separable" if isinstance(critic, SeparableCritic) else "concatenation"]
    return torch.stack([torch.stack([score(critic, x, y) for y in right]) for x in left])


def scores_and_gradients(scorer: Scorer, critic: Critic, left: Tensor, right: Tensor, weights: Tensor) -> list[Tensor]:
    """Scores, then gradients of their weighted sum by both features and every parameter."""
    leaves = [left.clone().requires_grad_(), right.clone().requires_grad_()]
    scores = scorer(critic, *leaves)
    gradients = torch.autograd.grad((scores * weights).sum(), [*leaves, *critic.parameters()])
    return [scores.detach(), *gradients]


def weights_of_pairs(left: int, right: int, kind: str, seed: int) -> Tensor:
    """Which pairs the loss looks at: all of them, or few, as it is below a maximum over regions."""
    random = torch.Generator().manual_seed(seed)
    weights = torch.randn(left, right, generator=random, dtype=torch.float64)
    if kind == "few":
        weights *= torch.rand(left, right, generator=random) < 0.15
    return weights if kind != "none" else torch.zeros_like(weights)


@both_critics
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 10_000), st.sampled_from(["all", "few", "none"]))
def test_scores_equal_a_loop_over_pairs_with_their_gradients(
    name: str, left: int, right: int, seed: int, kind: str
) -> None:
    critic = new_critic(name, seed).double()
    arguments = (critic, *features(left, right, seed), weights_of_pairs(left, right, kind, seed))
    fast, slow = scores_and_gradients(all_scores, *arguments), scores_and_gradients(slow_scores, *arguments)
    assert fast[0].shape == (left, right)
    torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-9)


@both_critics
def test_regions_of_images_are_projected_one_by_one(name: str) -> None:
    critic = new_critic(name).double()
    regions, _ = features(2 * 3 * 4, 1, 0)
    flat = critic.project_left(regions)
    torch.testing.assert_close(critic.project_left(regions.view(2, 3, 4, LEFT)), flat.view(2, 3, 4, -1))


@both_critics
@pytest.mark.parametrize("kind", ["all", "few"])
def test_gradients_pass_gradcheck_in_float64(name: str, kind: str) -> None:
    critic = new_critic(name).double()
    left, right = features(4, 3, 1)
    names, parameters = zip(*critic.named_parameters(), strict=True)
    weights = weights_of_pairs(4, 3, kind, 5)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.critic = critic

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (all_scores(self.critic, x, y) * weights).sum(dim=1)

    whole = Whole()

    def scored(x: Tensor, y: Tensor, *values: Tensor) -> Tensor:
        replaced = {f"critic.{key}": value for key, value in zip(names, values, strict=True)}
        return torch.func.functional_call(whole, replaced, (x, y))

    leaves = [left.requires_grad_(), right.requires_grad_(), *(p.detach().clone().requires_grad_() for p in parameters)]
    assert torch.autograd.gradcheck(scored, leaves)


@pytest.mark.parametrize("elements", [1, 100, 16 * 7 * 3])
@pytest.mark.parametrize("kind", ["all", "few"])
@pytest.mark.parametrize("kept", [0, 2**30])
def test_chunks_of_the_concatenation_critic_equal_the_whole_with_its_gradients(
    monkeypatch: pytest.MonkeyPatch, elements: int, kind: str, kept: int
) -> None:
    critic = new_critic("concatenation").double()
    arguments = (critic, *features(23, 7, 2), weights_of_pairs(23, 7, kind, 3))
    monkeypatch.setattr(critics, "KEPT_MASK_BYTES", 2**30)
    whole = scores_and_gradients(all_scores, *arguments)
    monkeypatch.setattr(critics, "CHUNK_ELEMENTS", elements)
    monkeypatch.setattr(critics, "KEPT_MASK_BYTES", kept)
    torch.testing.assert_close(scores_and_gradients(all_scores, *arguments), whole, atol=1e-12, rtol=1e-10)


@both_critics
def test_scores_do_not_depend_on_the_other_pairs_of_the_batch(name: str) -> None:
    critic = new_critic(name).double()
    left, right = features(7, 3, 0)
    parts = [torch.cat([all_scores(critic, x, y) for y in right.split(2)], dim=1) for x in left.split(2)]
    torch.testing.assert_close(torch.cat(parts), all_scores(critic, left, right))


@both_critics
def test_frozen_sides_get_no_gradient_and_the_others_the_same_as_ever(name: str) -> None:
    critic = new_critic(name).double()
    left, right = features(5, 4, 0)
    left.requires_grad_()
    (expected,) = torch.autograd.grad(all_scores(critic, left, right).square().sum(), left)
    frozen = copy.deepcopy(critic).requires_grad_(False)
    (got,) = torch.autograd.grad(all_scores(frozen, left, right).square().sum(), left)
    torch.testing.assert_close(got, expected)
    with torch.no_grad():
        torch.testing.assert_close(all_scores(critic, left, right), all_scores(frozen, left, right).detach())


@both_critics
def test_bf16_under_autocast_equals_float32_within_its_precision(name: str) -> None:
    critic = new_critic(name)
    left, right = features(60, 20, 0, torch.float32)
    weights = (
        weights_of_pairs(60, 20, "all", 0).float().abs()
    )  # of one sign, so that errors do not stand beside a small sum

    def under_autocast(critic: Critic, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return all_scores(critic, x, y).float()

    exact = scores_and_gradients(all_scores, critic, left, right, weights)
    for half, single in zip(scores_and_gradients(under_autocast, critic, left, right, weights), exact, strict=True):
        assert half.dtype == torch.float32
        assert float((half - single).norm()) < 0.03 * float(single.norm())


@both_critics
def test_every_parameter_learns(name: str) -> None:
    critic = new_critic(name)
    left, right = features(30, 20, 0, torch.float32)
    all_scores(critic, left, right).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in critic.parameters())


def separable() -> SeparableCritic:
    critic = new_critic("separable")
    assert isinstance(critic, SeparableCritic)
    return critic


def test_the_separable_critic_starts_at_its_temperature() -> None:
    assert float(separable().log_inverse_temperature.detach().exp()) == pytest.approx(1 / 0.2)


def test_the_length_of_features_does_not_matter_to_the_separable_critic_without_bias() -> None:
    critic = separable()
    for layer in critic.modules():
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    left, right = features(6, 4, 0, torch.float32)
    torch.testing.assert_close(all_scores(critic, 10 * left, right), all_scores(critic, left, 7 * right))


def test_separable_scores_stay_within_the_largest_inverse_temperature() -> None:
    critic = separable()
    nn.init.constant_(critic.log_inverse_temperature, math.log(1e6))
    left, _ = features(18, 1, 0, torch.float32)
    projected = critic.project_left(left)
    scores = critic.score(projected, projected)
    assert float(scores.detach().abs().max()) == pytest.approx(MAX_INVERSE_TEMPERATURE, rel=1e-5)


@both_critics
def test_zero_features_give_finite_scores_and_gradients(name: str) -> None:
    critic = new_critic(name)
    for layer in critic.modules():
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    left = torch.zeros(2, LEFT, requires_grad=True)
    scores = all_scores(critic, left, torch.zeros(3, RIGHT))
    scores.sum().backward()
    assert torch.isfinite(scores).all()
    assert left.grad is not None
    assert torch.isfinite(left.grad).all()


def test_the_concatenation_critic_has_the_papers_layers() -> None:
    critic = make_critic("concatenation", 128, 768, embedding_features=1, hidden_features=(1024, 512), temperature=1.0)
    expected = 1024 * (128 + 768 + 1) + 512 * (1024 + 1) + 512 + 1
    assert sum(parameter.numel() for parameter in critic.parameters()) == expected


def test_names_and_widths_that_make_no_critic_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'bilinear' is unknown; choose separable or concatenation"):
        new_critic("bilinear")
    for widths in ((), (8,), (8, 8, 8)):
        with pytest.raises(ConfigurationError, match="hidden_features"):
            ConcatenationCritic(LEFT, RIGHT, widths)
