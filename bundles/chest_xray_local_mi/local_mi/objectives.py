"""The local objective: from region-sentence scores to a loss.

Liao et al., *Multimodal Representation Learning via Maximization of Local Mutual Information*, MICCAI 2021: each
sentence is matched to the region that carries it, by a maximum over the regions of an image.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from local_mi.bounds import at_least_float32, info_nce
from local_mi.errors import ConfigurationError

SOFT_MAXIMUM_TEMPERATURE = 1.0  # in units of the scores, which the critic has already divided by its own


def soft_maximum(scores: Tensor, dim: int) -> Tensor:
    """`tau * log mean exp(s / tau)`: the mean inside, so that the number of regions does not shift the scores."""
    tau = SOFT_MAXIMUM_TEMPERATURE
    return tau * (torch.logsumexp(at_least_float32(scores) / tau, dim=dim) - math.log(scores.shape[dim]))


AGGREGATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "max": lambda scores, dim: scores.max(dim=dim).values,  # one winner, also in a tie: the gradient has one region
    "mean": lambda scores, dim: scores.mean(dim=dim),
    "logsumexp": soft_maximum,
}


def aggregate_regions(scores: Tensor, aggregation: str) -> Tensor:
    """Score of an image with a sentence from the scores of its regions: (B, R, N) -> (B, N).

    The same rule for matched and mismatched pairs, so that the result is just another critic and bounds hold.

    Raises:
        ConfigurationError: unknown aggregation.
    """
    if aggregation not in AGGREGATIONS:
        raise ConfigurationError(f"aggregation '{aggregation}' is unknown; choose one of {', '.join(AGGREGATIONS)}")
    return AGGREGATIONS[aggregation](scores, 1)


def negative_pairs(study: Tensor, sentence_image: Tensor, sentence_hash: Tensor) -> Tensor:
    """Which (image, sentence) pairs of a batch are mismatched.

    Not negatives: a sentence of the image's own study (other views share the report), and a sentence whose normalised
    text also stands in the image's own report ("No pleural effusion." is true of many).

    Args:
        study: (B,) integer id of each image's study.
        sentence_image: (N,) row of the image that each sentence came with.
        sentence_hash: (N,) integer hash of each sentence's normalised text.

    Returns:
        (B, N) bool.
    """
    own = study[:, None] == study[sentence_image][None, :]  # (B, N)
    same_text = sentence_hash[:, None] == sentence_hash[None, :]  # (N, N)
    stands_in_own_report = (own.float() @ same_text.float()) > 0
    return ~stands_in_own_report  # a sentence has the text of itself, so this covers `own`


class LocalInfoNCE(nn.Module):
    """Negative symmetric InfoNCE between images and single sentences, averaged over the sentences of a batch, in nats.

    Args:
        aggregation: how the regions of an image make one score: `max` (the paper's), `mean` or `logsumexp`.
    """

    def __init__(self, aggregation: str) -> None:
        super().__init__()
        aggregate_regions(torch.zeros(1, 1, 1), aggregation)
        self.aggregation = aggregation

    def forward(self, prediction: dict[str, Tensor], pairs: dict[str, Tensor]) -> Tensor:
        """Loss of a batch.

        Args:
            prediction: `scores` (B, R, N) of all regions with all sentences.
            pairs: `study` (B,), `sentence_image` (N,), `sentence_hash` (N,).

        Returns:
            Scalar, the negative bound in nats; 0 where no anchor has a negative.
        """
        scores = aggregate_regions(prediction["scores"], self.aggregation)  # (B, N)
        image_of = pairs["sentence_image"]
        negative = negative_pairs(pairs["study"], image_of, pairs["sentence_hash"])  # (B, N)
        positive = scores[image_of, torch.arange(scores.shape[1], device=scores.device)]  # (N,)
        to_images = info_nce(positive, scores.T, negative.T)
        to_sentences = info_nce(positive, scores[image_of], negative[image_of])
        return -0.5 * (_mean_of_valid(*to_images) + _mean_of_valid(*to_sentences))


def _mean_of_valid(values: Tensor, valid: Tensor) -> Tensor:
    return values.sum() / valid.sum().clamp(min=1)


def masked_binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy over the labels that are 0 or 1; unknown (NaN) and uncertain (-1) ones contribute nothing.

    Args:
        logits: (B, L).
        labels: (B, L), 1, 0, -1 or NaN.
    """
    known = (labels == 0) | (labels == 1)
    target = torch.where(known, labels, torch.zeros_like(labels))
    losses = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def label_tensor(label: list[Any]) -> Tensor:
    """A datalist's label as a float tensor (L,): null becomes NaN, since strict JSON has no NaN."""
    return torch.tensor([float("nan") if value is None else float(value) for value in label])
