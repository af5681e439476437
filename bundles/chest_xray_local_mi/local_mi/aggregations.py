"""How the regions of an image make one score with a sentence.

The same rule for matched and mismatched pairs, so that the result is just another critic and bounds hold.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from local_mi.bounds import at_least_float32
from local_mi.errors import ConfigurationError


def best(scores: Tensor, temperature: float) -> Tensor:
    """The best region (Liao et al. 2021); in a tie the first, so that the gradient flows through one region."""
    return scores.max(dim=1).values


def mean(scores: Tensor, temperature: float) -> Tensor:
    """The mean over regions."""
    return scores.mean(dim=1)


def soft_maximum(scores: Tensor, temperature: float) -> Tensor:
    """`tau * log mean exp(s / tau)`: the mean inside, so that the number of regions does not shift the scores.

    Tends to the maximum as tau goes to 0 and to the mean as it grows.
    """
    scaled = at_least_float32(scores) / temperature
    return temperature * (torch.logsumexp(scaled, dim=1) - math.log(scores.shape[1]))


def attention(scores: Tensor, temperature: float) -> Tensor:
    """`sum_r a_r s_r` with `a = softmax(s / tau)` over regions.

    GLoRIA (Huang et al. 2021, section 3.3) scores the attention-weighted region with the sentence; for a critic that is
    linear in the region that is this sum. Departure: the weighted region is not brought to unit length again.
    """
    scores = at_least_float32(scores)
    return (torch.softmax(scores / temperature, dim=1) * scores).sum(dim=1)


AGGREGATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "max": best,
    "mean": mean,
    "logsumexp": soft_maximum,
    "attention": attention,
}


def aggregate_regions(scores: Tensor, aggregation: str, temperature: float) -> Tensor:
    """Score of an image with a sentence from the scores of its regions: (B, R, N) -> (B, N).

    Args:
        scores: of every region with every sentence.
        aggregation: a name of `AGGREGATIONS`.
        temperature: tau of `logsumexp` and `attention`, in units of the scores, above 0.

    Raises:
        ConfigurationError: unknown aggregation, or a temperature that is not above 0.
    """
    check_aggregation(aggregation, temperature)
    return AGGREGATIONS[aggregation](scores, temperature)


def check_aggregation(aggregation: str, temperature: float) -> None:
    """Raise ConfigurationError for an unknown aggregation or a temperature that is not above 0."""
    if aggregation not in AGGREGATIONS:
        raise ConfigurationError(f"aggregation '{aggregation}' is unknown; choose one of {', '.join(AGGREGATIONS)}")
    if not temperature > 0:
        raise ConfigurationError(f"aggregation_temperature is {temperature}; it must be above 0")
