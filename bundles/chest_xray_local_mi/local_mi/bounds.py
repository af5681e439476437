"""Lower bounds on mutual information, in nats, as pure functions of scores.

Every function takes the critic's scores of matched (positive) and mismatched (negative) pairs and knows nothing of
images, text or networks.
"""

import torch
from torch import Tensor


def info_nce(positive: Tensor, candidates: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """InfoNCE of each anchor: `T(x, y) - log sum_k exp T(x, y_k) + log K` (van den Oord et al. 2018, eq. 4).

    The denominator holds the positive and the anchor's own negatives, and K counts both, so that the value is at most
    `log K` and anchors may have different numbers of negatives. Reductions are in float32 at least.

    Args:
        positive: (A,) score of each anchor with its match.
        candidates: (A, K) scores of each anchor with the candidates.
        negative: (A, K) bool, which candidates are mismatched pairs; the positive itself must not be marked.

    Returns:
        The value of each anchor in nats, (A,), and which anchors have a negative at all, (A,) bool; the value of an
        anchor without one is 0 and carries no gradient.
    """
    positive, candidates = at_least_float32(positive), at_least_float32(candidates)
    floor = torch.finfo(candidates.dtype).min / 2
    masked = candidates.masked_fill(~negative, floor)
    log_sum = torch.logsumexp(torch.cat([positive[:, None], masked], dim=1), dim=1)
    count = negative.sum(dim=1)
    values = positive - log_sum + torch.log1p(count.to(positive.dtype))
    valid = count > 0
    return torch.where(valid, values, torch.zeros_like(values)), valid


def at_least_float32(scores: Tensor) -> Tensor:
    """Scores in float32, or in float64 where they are: reductions of less lose hundredths of a nat."""
    return scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
