"""Objectives are sums of bounds over the batch's pairs, false negatives left out, and of the supervised term."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.errors import ConfigurationError
from local_mi.labels import label_tensor
from local_mi.objectives import (
    MutualInformationObjective,
    masked_binary_cross_entropy,
    negative_pairs,
)
from slow_oracles import (
    ESTIMATORS,
    Reports,
    distinct_studies,
    images_without_negative,
    random_reports,
    slow_cross_entropy,
    slow_estimate,
    text_hash,
    texts_without_negative,
)
from torch import Tensor

NAN = math.nan
DECAY = 0.75
OBJECTIVES = ("global", "local", "local+global")
GLOBAL_WEIGHT = 0.3
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)


def new_objective(objective: str, estimator: str, supervised_weight: float = 0.0) -> MutualInformationObjective:
    return MutualInformationObjective(
        objective=objective,
        estimator=estimator,
        global_weight=GLOBAL_WEIGHT,
        supervised_weight=supervised_weight,
        moving_average_decay=DECAY,
    )


def random_prediction(reports: Reports, objective: str, seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    images, sentences = len(reports.study), len(reports.sentences)
    shapes = {"local": (images, sentences), "global": (images, images)}
    return {
        term: 2 * torch.randn(*shapes[term], generator=random, dtype=torch.float64) for term in objective.split("+")
    }


class SlowObjective:
    """The objective from the definitions of its parts, one pair at a time."""

    def __init__(self, objective: str, estimator: str, supervised_weight: float) -> None:
        self.terms, self.estimator, self.supervised_weight = objective.split("+"), estimator, supervised_weight
        self.log_average = dict.fromkeys(self.terms, NAN)

    def __call__(
        self, prediction: dict[str, Tensor], reports: Reports, label: Tensor | None
    ) -> tuple[Tensor, dict[str, float]]:
        loss, figures = torch.zeros((), dtype=torch.float64), {}
        different, kept, lonely = 0, 0, 0
        for term in self.terms:
            texts = reports.sentences if term == "local" else [(b, 0) for b in range(len(reports.study))]
            image_of = [image for image, _ in texts]
            negative = reports.local_negatives() if term == "local" else reports.global_negatives()
            value, self.log_average[term] = slow_estimate(
                self.estimator, prediction[term], image_of, negative, self.log_average[term], DECAY
            )
            weight = GLOBAL_WEIGHT if term == "global" and len(self.terms) == 2 else 1.0
            loss = loss - weight * value
            figures[f"{term}_mi_nats"] = float(value.detach())
            different += sum(b != image for b in range(len(reports.study)) for image in image_of)
            kept += sum(negative.flatten().tolist())
            lonely += len(texts_without_negative(image_of, negative)) + len(images_without_negative(image_of, negative))
        if label is not None:
            supervised = slow_cross_entropy(prediction["logits"], label)
            loss = loss + self.supervised_weight * supervised
            figures["supervised_loss"] = float(supervised.detach())
        figures["masked_negatives"] = (different - kept) / different if different else NAN
        figures["anchors_without_negative"] = lonely
        return loss, figures


def random_labels(images: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.tensor([0.0, 1.0, -1.0, NAN])[torch.randint(4, (images, 3), generator=random)]


@every_estimator
@every_objective
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.sampled_from([0.0, 0.5]))
def test_equals_a_loop_over_pairs_with_its_gradients_and_figures(
    objective: str, estimator: str, seed: int, images: int, studies: int, texts: int, supervised_weight: float
) -> None:
    fast = new_objective(objective, estimator, supervised_weight)
    slow = SlowObjective(objective, estimator, supervised_weight)
    for batch in (seed, seed + 1):  # MINE's average begins in the first and is used in the second
        reports = random_reports(batch, images, studies, texts, drawn_share=0.5)
        prediction, pairs = random_prediction(reports, objective, batch), reports.pairs()
        label = None
        if supervised_weight:
            label = pairs["label"] = random_labels(images, batch)
            prediction["logits"] = torch.linspace(-3, 3, 3 * images, dtype=torch.float64).view(images, 3)
        fast_leaves, slow_leaves = (
            {key: value.clone().requires_grad_() for key, value in prediction.items()} for _ in range(2)
        )
        loss = fast(fast_leaves, pairs)
        expected, figures = slow(slow_leaves, reports, label)
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
        assert {key: float(value) for key, value in fast.figures.items()} == pytest.approx(
            figures if images > 1 else figures | {"masked_negatives": float(fast.figures["masked_negatives"])}, abs=1e-5
        )
        assert not any(value.requires_grad for value in fast.figures.values())
        (loss + sum(0 * leaf.sum() for leaf in fast_leaves.values())).backward()
        (expected + sum(0 * leaf.sum() for leaf in slow_leaves.values())).backward()
        for key, leaf in fast_leaves.items():
            torch.testing.assert_close(leaf.grad, slow_leaves[key].grad, atol=1e-5, rtol=1e-4)


@every_objective
def test_mutual_information_is_reported_of_matched_scores_that_stand_out(objective: str) -> None:
    pairs = distinct_studies(8)
    prediction = {term: 50 * torch.eye(8) for term in objective.split("+")}
    module = new_objective(objective, "infonce")
    loss = module(prediction, pairs)
    weights = {"global": [1.0], "local": [1.0], "local+global": [1.0, GLOBAL_WEIGHT]}[objective]
    assert float(loss) == pytest.approx(-sum(weights) * math.log(8), abs=1e-5)
    for term in objective.split("+"):
        assert float(module.figures[f"{term}_mi_nats"]) == pytest.approx(math.log(8), abs=1e-5)
    assert float(module.figures["masked_negatives"]) == 0
    assert float(module.figures["anchors_without_negative"]) == 0


def test_other_views_of_a_study_and_sentences_of_the_own_report_are_no_negatives() -> None:
    nodule, normal, effusion, tube = (text_hash(k) for k in range(4))
    study = torch.tensor([1, 1, 2, 3])
    reports = {0: [nodule, tube], 1: [nodule, tube], 2: [normal, effusion], 3: [normal, tube]}
    report_image = torch.tensor([image for image, texts in reports.items() for _ in texts])
    report_hash = torch.tensor([text for texts in reports.values() for text in texts])
    sentence_image = torch.tensor([0, 1, 2, 2, 3])  # what is drawn: of study 1 the nodule, of study 3 "normal"
    sentence_hash = torch.tensor([nodule, nodule, normal, effusion, normal])
    expected = [
        [False, False, True, True, True],  # the first view of study 1
        [False, False, True, True, True],  # the second
        [True, True, False, False, False],  # study 2 also says "normal", as study 3 does
        [True, True, False, True, False],
    ]
    assert negative_pairs(study, report_image, report_hash, sentence_image, sentence_hash).tolist() == expected
    tube_of_3 = negative_pairs(study, report_image, report_hash, torch.tensor([3]), torch.tensor([tube]))
    assert tube_of_3[:, 0].tolist() == [False, False, True, False]  # said of study 1 as well, though not drawn there


def test_views_of_a_study_are_no_negatives_even_where_their_sentences_differ() -> None:
    first, second, other = (text_hash(k) for k in range(3))
    texts = torch.tensor([first, second, other])
    rows = torch.arange(3)
    negative = negative_pairs(torch.tensor([5, 5, 6]), rows, texts, rows, texts)
    assert negative.tolist() == [[False, False, True], [False, False, True], [True, True, False]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.floats(0, 1))
def test_negatives_equal_a_loop_over_images_and_sentences(
    seed: int, images: int, studies: int, texts: int, drawn_share: float
) -> None:
    reports = random_reports(seed, images, studies, texts, drawn_share)
    pairs = reports.pairs()
    drawn = pairs["drawn"]
    negative = negative_pairs(
        pairs["study"],
        pairs["report_image"],
        pairs["report_hash"],
        pairs["sentence_image"][drawn],
        pairs["sentence_hash"][drawn],
    )
    assert torch.equal(negative, reports.local_negatives())


def test_the_share_of_masked_pairs_is_that_of_pairs_of_different_images() -> None:
    same, other, third = (text_hash(k) for k in range(3))
    reports = Reports([0, 0, 1, 2], [[same], [same], [same], [other, third]], [[True], [True], [True], [True, False]])
    module = new_objective("local", "infonce")
    module({"local": torch.randn(4, 4)}, reports.pairs())
    # Of 4 * 4 - 4 pairs of different images, 6 are among the three that say the same.
    assert float(module.figures["masked_negatives"]) == pytest.approx(6 / 12)
    assert float(module.figures["anchors_without_negative"]) == 0


@every_estimator
def test_sentences_that_were_not_drawn_take_no_part_but_for_masking(estimator: str) -> None:
    reports = random_reports(3, 6, 6, 40, drawn_share=0.4)
    drawn = Reports(reports.study, reports.texts, reports.drawn).pairs()
    assert not drawn["drawn"].all()
    scores = random_prediction(reports, "local", 0)
    kept = drawn["drawn"]
    alone = drawn | {key: drawn[key][kept] for key in ("sentence_image", "sentence_hash", "drawn")}
    losses = [new_objective("local", estimator)(scores, pairs) for pairs in (drawn, alone)]
    torch.testing.assert_close(*losses)


@every_estimator
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_images_and_sentences_in_a_batch_does_not_matter(estimator: str, seed: int) -> None:
    reports = random_reports(seed, 6, 5, 12, drawn_share=0.6)
    scores = random_prediction(reports, "local+global", seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed)).tolist()
    moved = Reports(*([part[k] for k in order] for part in (reports.study, reports.texts, reports.drawn)))
    column = {}
    for n, (image, _) in enumerate(reports.sentences):
        column.setdefault(image, []).append(n)
    columns = [n for image in order for n in column[image]]
    moved_scores = {"local": scores["local"][order][:, columns], "global": scores["global"][order][:, order]}
    before = new_objective("local+global", estimator)(scores, reports.pairs())
    after = new_objective("local+global", estimator)(moved_scores, moved.pairs())
    torch.testing.assert_close(before, after, atol=1e-6, rtol=0)


@every_estimator
@every_objective
def test_a_batch_without_negatives_gives_zero_and_zero_gradients(objective: str, estimator: str) -> None:
    reports = Reports([4, 4], [[text_hash(0)]] * 2, [[True]] * 2)
    module = new_objective(objective, estimator)
    leaves = {term: torch.randn(2, 2, requires_grad=True) for term in objective.split("+")}
    loss = module(leaves, reports.pairs())
    loss.backward()
    assert float(loss.detach()) == 0
    for leaf in leaves.values():
        assert leaf.grad is not None
        assert (leaf.grad == 0).all()
    assert float(module.figures["masked_negatives"]) == 1
    assert float(module.figures["anchors_without_negative"]) == 4 * len(leaves)


@every_estimator
def test_a_text_that_is_a_negative_of_no_image_contributes_nothing_and_is_counted(estimator: str) -> None:
    """Otherwise Donsker-Varadhan would have no upper end: nothing holds the score of that text down."""
    everywhere = text_hash(0)
    reports = Reports(
        [0, 1, 2], [[everywhere, text_hash(k)] for k in (1, 2, 3)], [[True, False], [False, True], [False, True]]
    )
    module = new_objective("local", estimator)
    scores = torch.randn(3, 3, requires_grad=True)
    loss = module({"local": scores}, reports.pairs())
    assert float(module.figures["anchors_without_negative"]) == 1
    raised = scores.detach() + torch.tensor([1e3, 0, 0])
    (gradient,) = torch.autograd.grad(loss, scores)
    if estimator == "infonce":  # the text is no anchor, its image is one
        to_images = new_objective("local", estimator)({"local": raised}, reports.pairs())
        assert float(to_images) >= -math.log(3)
        return
    assert (gradient[:, 0] == 0).all()
    again = new_objective("local", estimator)({"local": raised}, reports.pairs())
    torch.testing.assert_close(again, loss.detach())


@every_objective
@every_estimator
def test_half_precision_scores_give_a_single_precision_loss(objective: str, estimator: str) -> None:
    reports = random_reports(0, 6, 6, 12, drawn_share=0.8)
    half = {key: value.bfloat16() for key, value in random_prediction(reports, objective, 0).items()}
    exact = new_objective(objective, estimator)({k: v.double() for k, v in half.items()}, reports.pairs())
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = new_objective(objective, estimator)(half, reports.pairs())
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(exact), abs=1e-5)


def test_the_moving_average_belongs_to_each_term_and_moves_in_training_alone() -> None:
    module = new_objective("local+global", "mine")
    pairs = distinct_studies(3)
    scores = {"local": torch.zeros(3, 3), "global": torch.ones(3, 3)}
    module(scores, pairs)
    averages = {name: float(value) for name, value in module.state_dict().items()}
    assert sorted(averages.values()) == pytest.approx([0.0, 1.0])
    module.eval()
    module({"local": torch.full((3, 3), 5.0), "global": torch.full((3, 3), 5.0)}, pairs)
    assert {name: float(value) for name, value in module.state_dict().items()} == averages
    restored = new_objective("local+global", "mine")
    restored.load_state_dict(module.state_dict())
    assert {name: float(value) for name, value in restored.state_dict().items()} == averages


@every_objective
def test_studies_without_labels_contribute_the_first_term_only(objective: str) -> None:
    pairs = distinct_studies(4)
    label = torch.full((4, 2), NAN)
    label[1] = torch.tensor([1.0, 0.0])
    prediction = {term: torch.randn(4, 4) for term in objective.split("+")}
    logits = torch.randn(4, 2, requires_grad=True)
    unsupervised = new_objective(objective, "infonce")(prediction, pairs)
    module = new_objective(objective, "infonce", supervised_weight=0.5)
    loss = module(prediction | {"logits": logits}, pairs | {"label": label})
    loss.backward()
    z = logits[1].tolist()
    expected = 0.5 * (math.log1p(math.exp(-z[0])) + math.log1p(math.exp(z[1])))
    assert float(module.figures["supervised_loss"]) == pytest.approx(expected, abs=1e-6)
    assert float(loss.detach() - unsupervised) == pytest.approx(0.5 * expected, abs=1e-5)
    assert logits.grad is not None
    assert (logits.grad[[0, 2, 3]] == 0).all()
    assert (logits.grad[1] != 0).all()


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"'regional' is unknown; choose one of global, local, local\+global"):
        new_objective("regional", "infonce")
    with pytest.raises(ConfigurationError, match="'nwj' is unknown; choose one of infonce, dv, mine, jsd"):
        new_objective("local", "nwj")


label_values = st.sampled_from([0.0, 1.0, -1.0, NAN])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-30, 30), label_values), min_size=1, max_size=12))
def test_cross_entropy_is_the_mean_over_known_labels(entries: list[tuple[float, float]]) -> None:
    logits = torch.tensor([[logit for logit, _ in entries]], requires_grad=True)
    labels = torch.tensor([[label for _, label in entries]])
    terms = [math.log1p(math.exp(-z)) if y == 1 else math.log1p(math.exp(z)) for z, y in entries if y in (0, 1)]
    loss = masked_binary_cross_entropy(logits, labels)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(sum(terms) / max(1, len(terms)), abs=1e-4, rel=1e-5)
    assert logits.grad is not None
    for (z, y), gradient in zip(entries, logits.grad[0].tolist(), strict=True):
        slope = (1 / (1 + math.exp(-z)) - y) / len(terms) if y in (0, 1) else 0.0
        assert gradient == pytest.approx(slope, abs=1e-5)


def test_null_in_a_datalist_becomes_nan() -> None:
    labels = label_tensor([1, 0, None, -1])
    assert labels.dtype == torch.float32
    torch.testing.assert_close(labels, torch.tensor([1.0, 0.0, NAN, -1.0]), equal_nan=True)
