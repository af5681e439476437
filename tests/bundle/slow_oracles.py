"""The method's definitions word for word, one pair at a time: what the tests hold the vectorised code against.

Scores are double-precision tensors, so that a loop gives the gradient that is due as well; the rest is plain Python.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ESTIMATORS = ("infonce", "dv", "mine", "jsd")
AGGREGATIONS = ("max", "mean", "logsumexp", "attention")


def entries(scores: Tensor, chosen: Tensor) -> list[Tensor]:
    """The scores, one scalar each, of the pairs that are chosen."""
    return [scores[tuple(place)] for place in chosen.nonzero().tolist()]


def average(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(values)).sum() / len(values)


def slow_info_nce(positive: Tensor, candidates: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """One anchor at a time: `s - log(e^s + sum of e^n) + log K`, K the positive and the negatives that are kept."""
    values, valid = [], []
    for row in range(len(positive)):
        kept = entries(candidates[row], negative[row])
        denominator = positive[row].exp() + sum(score.exp() for score in kept)
        value = positive[row] - denominator.log() + math.log(1 + len(kept))
        values.append(value if kept else torch.zeros((), dtype=positive.dtype))
        valid.append(bool(kept))
    return torch.stack(values), torch.tensor(valid)


def slow_donsker_varadhan(positive: Tensor, scores: Tensor, negative: Tensor) -> Tensor:
    """`mean T - log mean exp T`: matched pairs before the minus, mismatched ones after it."""
    mismatched = entries(scores, negative)
    if not mismatched:
        return torch.zeros((), dtype=scores.dtype)
    return average(list(positive)) - average([score.exp() for score in mismatched]).log()


def slow_mine(
    positive: Tensor, scores: Tensor, negative: Tensor, log_average: float, decay: float
) -> tuple[Tensor, float]:
    """The value of Donsker-Varadhan with the gradient of `mean T - mean exp T / average`, the average a constant."""
    mismatched = entries(scores, negative)
    if not mismatched:
        return torch.zeros((), dtype=scores.dtype), log_average
    batch = average([score.exp() for score in mismatched])
    of_batch = float(batch.detach())
    now = of_batch if math.isnan(log_average) else decay * math.exp(log_average) + (1 - decay) * of_batch
    with_its_gradient = average(list(positive)) - batch / now
    value = slow_donsker_varadhan(positive, scores, negative).detach()
    return value + with_its_gradient - with_its_gradient.detach(), math.log(now)


def slow_jensen_shannon(positive: Tensor, scores: Tensor, negative: Tensor) -> Tensor:
    """`mean of -log(1 + e^-T) over matched pairs - mean of log(1 + e^T) over mismatched ones`."""
    mismatched = entries(scores, negative)
    if not mismatched:
        return torch.zeros((), dtype=scores.dtype)
    matched = average([-(1 + (-score).exp()).log() for score in positive])
    return matched - average([(1 + score.exp()).log() for score in mismatched])


def slow_aggregate(regions: Sequence[Tensor], aggregation: str, temperature: float) -> Tensor:
    """Score of one image with one sentence from the list of its regions' scores."""
    if aggregation == "max":
        return max(regions)
    if aggregation == "mean":
        return average(regions)
    weights = [(score / temperature).exp() for score in regions]
    if aggregation == "logsumexp":
        return temperature * average(weights).log()
    return sum(weight * score for weight, score in zip(weights, regions, strict=True)) / sum(weights)


def slow_aggregates(scores: Tensor, aggregation: str, temperature: float) -> Tensor:
    """(B, R, N) -> (B, N), one image with one sentence at a time."""
    images, _, sentences = scores.shape
    return torch.stack(
        [
            torch.stack([slow_aggregate(list(scores[b, :, n]), aggregation, temperature) for n in range(sentences)])
            for b in range(images)
        ]
    )


@dataclass
class Reports:
    """Who belongs to whom in a batch: the study of each image, and the texts of each image's report."""

    study: list[int]
    texts: list[list[int]]
    drawn: list[list[bool]]

    @property
    def sentences(self) -> list[tuple[int, int]]:
        """(image, text) of every sentence that takes part in the local objective."""
        return [
            (image, text)
            for image, (texts, drawn) in enumerate(zip(self.texts, self.drawn, strict=True))
            for text, chosen in zip(texts, drawn, strict=True)
            if chosen
        ]

    def is_negative_sentence(self, image: int, owner: int, text: int) -> bool:
        """Whether a sentence that came with image `owner` is surely not said of `image`."""
        return self.study[image] != self.study[owner] and text not in self.texts[image]

    def is_negative_report(self, image: int, owner: int) -> bool:
        """Whether the report of image `owner` is surely not that of `image`."""
        return self.study[image] != self.study[owner] and sorted(self.texts[image]) != sorted(self.texts[owner])

    def local_negatives(self) -> Tensor:
        """(B, drawn sentences) bool."""
        images = range(len(self.study))
        return torch.tensor([[self.is_negative_sentence(b, i, text) for i, text in self.sentences] for b in images])

    def global_negatives(self) -> Tensor:
        """(B, B) bool."""
        images = range(len(self.study))
        return torch.tensor([[self.is_negative_report(b, i) for i in images] for b in images])

    def pairs(self) -> dict[str, Tensor]:
        """The same as a batch has it."""
        owner = [image for image, texts in enumerate(self.texts) for _ in texts]
        text = [text for texts in self.texts for text in texts]
        return {
            "study": torch.tensor(self.study),
            "sentence_image": torch.tensor(owner),
            "sentence_hash": torch.tensor(text),
            "drawn": torch.tensor([chosen for drawn in self.drawn for chosen in drawn]),
            "report_image": torch.tensor(owner),
            "report_hash": torch.tensor(text),
        }


def text_hash(text: int) -> int:
    """A signed number of 64 bits that looks drawn at random, as hashes of texts do."""
    return int.from_bytes(hashlib.sha256(str(text).encode()).digest()[:8], "big", signed=True)


def distinct_studies(batch: int) -> dict[str, Tensor]:
    """Pairs of a batch in which every study has one image and one sentence that no other has."""
    return Reports(list(range(batch)), [[text] for text in range(batch)], [[True]] * batch).pairs()


def random_reports(seed: int, images: int, studies: int, texts: int, drawn_share: float) -> Reports:
    """Views of a few studies; a study's views share their report and what is drawn of it, at least one sentence."""
    random = torch.Generator().manual_seed(seed)
    study = torch.randint(studies, (images,), generator=random).tolist()
    reports, draws = {}, {}
    for number in set(study):
        count = int(torch.randint(1, 4, (), generator=random))
        reports[number] = [text_hash(int(k)) for k in torch.randint(texts, (count,), generator=random)]
        draw = torch.rand(count, generator=random) < drawn_share
        draw[int(torch.randint(count, (), generator=random))] = True
        draws[number] = draw.tolist()
    return Reports([7919 * k - 5 for k in study], [reports[k] for k in study], [draws[k] for k in study])


def texts_without_negative(image_of: Sequence[int], negative: Tensor) -> list[int]:
    """The texts (columns) that are a negative of no image."""
    return [n for n in range(len(image_of)) if not any(negative[:, n])]


def images_without_negative(image_of: Sequence[int], negative: Tensor) -> list[int]:
    """The texts (columns) whose image has no negative among the texts."""
    return [n for n in range(len(image_of)) if not any(negative[image_of[n]])]


def slow_symmetric_info_nce(scores: Tensor, image_of: Sequence[int], negative: Tensor) -> Tensor:
    """From texts to images and from images to texts, each over the anchors that have a negative; their mean."""
    directions = []
    for anchors_are_texts in (True, False):
        values = []
        for n, image in enumerate(image_of):
            row = scores[:, n] if anchors_are_texts else scores[image]
            kept = negative[:, n] if anchors_are_texts else negative[image]
            value, valid = slow_info_nce(scores[image, n][None], row[None], kept[None])
            values += [value[0]] if valid else []
        directions.append(average(values) if values else torch.zeros((), dtype=scores.dtype))
    return average(directions)


def slow_estimate(
    estimator: str, scores: Tensor, image_of: Sequence[int], negative: Tensor, log_average: float, decay: float
) -> tuple[Tensor, float]:
    """The bound of a score matrix of images (rows) and texts (columns), and MINE's new average.

    A matched pair without any negative of its text, or of its image, contributes nothing.
    """
    if estimator == "infonce":
        return slow_symmetric_info_nce(scores, image_of, negative), log_average
    alone = {*texts_without_negative(image_of, negative), *images_without_negative(image_of, negative)}
    matched = [scores[image, n] for n, image in enumerate(image_of) if n not in alone]
    if not matched:
        return torch.zeros((), dtype=scores.dtype), log_average
    positive = torch.stack(matched)
    if estimator == "mine":
        return slow_mine(positive, scores, negative, log_average, decay)
    bound = {"dv": slow_donsker_varadhan, "jsd": slow_jensen_shannon}[estimator]
    return bound(positive, scores, negative), log_average


def slow_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of `-log p` over the labels that are 0 or 1."""
    terms = [
        (1 + (-logits[place] if labels[place] == 1 else logits[place]).exp()).log()
        for place in map(tuple, ((labels == 0) | (labels == 1)).nonzero().tolist())
    ]
    return average(terms) if terms else torch.zeros((), dtype=logits.dtype)
