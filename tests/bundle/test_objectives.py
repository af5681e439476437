"""The local objective is a bound: the same aggregation for matched and mismatched pairs, false negatives left out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.bounds import info_nce
from local_mi.errors import ConfigurationError
from local_mi.objectives import (
    AGGREGATIONS,
    LocalInfoNCE,
    aggregate_regions,
    label_tensor,
    masked_binary_cross_entropy,
    negative_pairs,
    soft_maximum,
)
from torch import Tensor

NAN = math.nan


def slow_aggregate(regions: Tensor, aggregation: str) -> Tensor:
    """Score of one image with one sentence from the list of its regions' scores."""
    if aggregation == "max":
        return max(regions)
    if aggregation == "mean":
        return sum(regions) / len(regions)
    return torch.log(sum(score.exp() for score in regions) / len(regions))


def slow_loss(
    scores: Tensor, study: list[int], image_of: list[int], text: list[int], aggregation: str
) -> Tensor | float:
    """The definition, word for word, one pair at a time."""
    images, sentences = range(scores.shape[0]), range(scores.shape[2])
    pair = {(b, n): slow_aggregate(list(scores[b, :, n]), aggregation) for b in images for n in sentences}
    report = {b: [text[m] for m in sentences if study[image_of[m]] == study[b]] for b in images}
    directions = []
    for anchor_is_sentence in (True, False):
        values = []
        for n in sentences:
            if anchor_is_sentence:
                others = [(b, n) for b in images if text[n] not in report[b]]
            else:
                others = [(image_of[n], m) for m in sentences if text[m] not in report[image_of[n]]]
            if others:
                own = pair[image_of[n], n]
                denominator = own.exp() + sum(pair[other].exp() for other in others)
                values.append(own - denominator.log() + math.log(1 + len(others)))
        directions.append(sum(values) / len(values) if values else 0.0)
    return -0.5 * (directions[0] + directions[1])


def batch_of(seed: int, images: int, regions: int, studies: int, texts: int) -> tuple[Tensor, dict[str, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 4, (images,), generator=random)
    image_of = torch.repeat_interleave(torch.arange(images), counts)
    scores = 2 * torch.randn(images, regions, len(image_of), generator=random, dtype=torch.float64)
    pairs = {
        "study": torch.randint(studies, (images,), generator=random) * 7919 - 5,
        "sentence_image": image_of,
        "sentence_hash": torch.randint(texts, (len(image_of),), generator=random) * 104729 - 9,
    }
    return scores, pairs


def loss_of(scores: Tensor, pairs: dict[str, Tensor], aggregation: str) -> Tensor:
    return LocalInfoNCE(aggregation)({"scores": scores}, pairs)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4), st.integers(1, 5), st.integers(1, 8), st.data())
def test_equals_a_loop_over_pairs_with_its_gradients(
    seed: int, images: int, regions: int, studies: int, texts: int, data: st.DataObject
) -> None:
    aggregation = data.draw(st.sampled_from(sorted(AGGREGATIONS)))
    scores, pairs = batch_of(seed, images, regions, studies, texts)
    lists = (pairs["study"].tolist(), pairs["sentence_image"].tolist(), pairs["sentence_hash"].tolist())
    fast_leaf, slow_leaf = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    fast = loss_of(fast_leaf, pairs, aggregation)
    slow = slow_loss(slow_leaf, *lists, aggregation) + 0 * slow_leaf.sum()
    torch.testing.assert_close(fast.double(), slow, atol=1e-5, rtol=0)
    fast.backward()
    slow.backward()
    torch.testing.assert_close(fast_leaf.grad, slow_leaf.grad, atol=1e-5, rtol=0)


def test_other_views_of_a_study_and_repeated_sentences_are_no_negatives() -> None:
    study = torch.tensor([1, 1, 2, 3])
    sentence_image = torch.tensor([0, 1, 2, 2, 3])
    normal, nodule, effusion = 10, 20, 30
    sentence_hash = torch.tensor([nodule, nodule, normal, effusion, normal])
    expected = [
        [False, False, True, True, True],  # the first view of study 1
        [False, False, True, True, True],  # the second
        [True, True, False, False, False],  # study 2 also says "normal", as study 3 does
        [True, True, False, True, False],
    ]
    assert negative_pairs(study, sentence_image, sentence_hash).tolist() == expected


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(AGGREGATIONS)))
def test_the_order_of_images_in_a_batch_does_not_matter(seed: int, aggregation: str) -> None:
    scores, pairs = batch_of(seed, 6, 3, 5, 9)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    position = torch.argsort(order)  # new row of each old one
    sentences = torch.randperm(scores.shape[2], generator=torch.Generator().manual_seed(seed + 1))
    moved = {
        "study": pairs["study"][order],
        "sentence_image": position[pairs["sentence_image"][sentences]],
        "sentence_hash": pairs["sentence_hash"][sentences],
    }
    before, after = loss_of(scores, pairs, aggregation), loss_of(scores[order][:, :, sentences], moved, aggregation)
    torch.testing.assert_close(before, after, atol=1e-6, rtol=0)


def pairs_of_distinct_studies(batch: int) -> dict[str, Tensor]:
    return {"study": torch.arange(batch), "sentence_image": torch.arange(batch), "sentence_hash": torch.arange(batch)}


def independent_scores(regions: int, batch: int = 64, repeats: int = 12) -> list[Tensor]:
    random = torch.Generator().manual_seed(regions)
    return [torch.randn(batch, regions, batch, generator=random) for _ in range(repeats)]


@pytest.mark.parametrize("regions", [16, 64, 196])
@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_independent_pairs_have_no_information(aggregation: str, regions: int) -> None:
    batches = independent_scores(regions)
    bound = torch.stack([-loss_of(scores, pairs_of_distinct_studies(64), aggregation) for scores in batches])
    assert float(bound.mean()) <= 4 * float(bound.std()) / math.sqrt(len(batches))


@pytest.mark.parametrize(("regions", "invented"), [(16, 1.27), (64, 1.86), (196, 2.23)])
def test_a_maximum_over_matched_pairs_alone_would_invent_information(regions: int, invented: float) -> None:
    """Shows that the test above can fail; the figures are those of the method's description."""
    random = torch.Generator().manual_seed(regions)
    values = []
    for _ in range(4):
        matched = torch.randn(1024, regions, generator=random).amax(dim=1)
        mismatched = torch.randn(1024, 1024, generator=random)
        values.append(info_nce(matched, mismatched, ~torch.eye(1024, dtype=torch.bool))[0].mean())
    assert float(torch.stack(values).mean()) == pytest.approx(invented, abs=0.06)


@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_a_planted_region_is_found(aggregation: str) -> None:
    """Signal in one of 64 cells of each image: the bound sees it, and its gradient goes to that cell above all."""
    random = torch.Generator().manual_seed(0)
    batch, regions, strength = 32, 64, 12.0
    scores = torch.randn(batch, regions, batch, generator=random)
    place = torch.randint(regions, (batch,), generator=random)
    rows = torch.arange(batch)
    scores[rows, place, rows] += strength
    scores.requires_grad_()
    loss = loss_of(scores, pairs_of_distinct_studies(batch), aggregation)
    loss.backward()
    assert scores.grad is not None
    if aggregation == "mean":  # dilutes the one cell among 64 to 12 / 64
        assert 0.0 < -float(loss) < 0.5
        return
    assert -float(loss) > 0.8 * math.log(batch)
    assert torch.equal(scores.grad[rows, :, rows].abs().argmax(dim=1), place)


def test_the_gradient_of_the_maximum_has_one_region_also_in_a_tie() -> None:
    scores = torch.ones(2, 5, 2, requires_grad=True)
    aggregate_regions(scores, "max").sum().backward()
    assert scores.grad is not None
    assert (scores.grad != 0).sum(dim=1).tolist() == [[1, 1], [1, 1]]
    assert scores.grad.sum(dim=1).tolist() == [[1, 1], [1, 1]]


region_scores = st.lists(st.floats(-20, 20), min_size=1, max_size=12)


@settings(max_examples=80, deadline=None)
@given(region_scores)
def test_the_soft_maximum_lies_between_mean_and_maximum(values: list[float]) -> None:
    soft = float(soft_maximum(torch.tensor(values), 0))
    assert sum(values) / len(values) - 1e-4 <= soft <= max(values) + 1e-4


def test_the_soft_maximum_tends_to_the_maximum_and_to_the_mean() -> None:
    values = torch.tensor([1.0, -2.0, 4.0, 0.5])
    sharp, flat = 1e4, 1e-2
    assert float(soft_maximum(sharp * values, 0)) / sharp == pytest.approx(4.0, abs=1e-3)
    assert float(soft_maximum(flat * values, 0)) / flat == pytest.approx(float(values.mean()), abs=0.05)


@settings(max_examples=40, deadline=None)
@given(region_scores, st.integers(2, 5), st.sampled_from(sorted(AGGREGATIONS)))
def test_more_regions_of_the_same_scores_do_not_shift_an_images_score(
    values: list[float], copies: int, aggregation: str
) -> None:
    scores = torch.tensor(values)[None, :, None]
    torch.testing.assert_close(
        aggregate_regions(scores.repeat(1, copies, 1), aggregation),
        aggregate_regions(scores, aggregation),
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_aggregation_passes_gradcheck_in_float64(aggregation: str) -> None:
    scores = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: aggregate_regions(s, aggregation), (scores,))


@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_a_batch_without_negatives_gives_zero_and_zero_gradients(aggregation: str) -> None:
    scores = torch.randn(2, 3, 2, requires_grad=True)
    pairs = pairs_of_distinct_studies(2) | {"study": torch.tensor([4, 4])}
    loss = loss_of(scores, pairs, aggregation)
    loss.backward()
    assert float(loss) == 0
    assert scores.grad is not None
    assert (scores.grad == 0).all()


@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_half_precision_scores_give_a_single_precision_loss(aggregation: str) -> None:
    scores, pairs = batch_of(0, 6, 3, 6, 12)
    half = scores.bfloat16()
    loss = loss_of(half, pairs, aggregation)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(loss_of(half.double(), pairs, aggregation)), abs=0.02)


def test_an_unknown_aggregation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"'median' is unknown; choose one of max, mean, logsumexp"):
        LocalInfoNCE("median")


label_values = st.sampled_from([0.0, 1.0, -1.0, NAN])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-30, 30), label_values), min_size=1, max_size=12))
def test_cross_entropy_is_the_mean_over_known_labels(entries: list[tuple[float, float]]) -> None:
    logits = torch.tensor([[logit for logit, _ in entries]], requires_grad=True)
    labels = torch.tensor([[label for _, label in entries]])
    terms = [math.log1p(math.exp(-z)) if y == 1 else math.log1p(math.exp(z)) for z, y in entries if y in (0, 1)]
    loss = masked_binary_cross_entropy(logits, labels)
    loss.backward()
    assert float(loss) == pytest.approx(sum(terms) / max(1, len(terms)), abs=1e-4, rel=1e-5)
    assert logits.grad is not None
    for (z, y), gradient in zip(entries, logits.grad[0].tolist(), strict=True):
        slope = (1 / (1 + math.exp(-z)) - y) / len(terms) if y in (0, 1) else 0.0
        assert gradient == pytest.approx(slope, abs=1e-5)


def test_null_in_a_datalist_becomes_nan() -> None:
    labels = label_tensor([1, 0, None, -1])
    assert labels.dtype == torch.float32
    torch.testing.assert_close(labels, torch.tensor([1.0, 0.0, NAN, -1.0]), equal_nan=True)
