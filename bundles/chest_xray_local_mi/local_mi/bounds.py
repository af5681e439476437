"""Lower bounds on mutual information, in nats, as pure functions of scores.

Every function takes the critic's scores of matched (positive) and mismatched (negative) pairs and knows nothing of
images, text or networks. Reductions are in float32 at least, also under autocast.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(positive: Tensor, candidates: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """InfoNCE of each anchor: `T(x, y) - log sum_k exp T(x, y_k) + log K` (van den Oord et al. 2018, eq. 4).

    The denominator holds the positive and the anchor's own negatives, and K counts both, so that the value is at most
    `log K` and anchors may have different numbers of negatives.

    Args:
        positive: (A,) score of each anchor with its match.
        candidates: (A, K) scores of each anchor with the candidates.
        negative: (A, K) bool, which candidates are mismatched pairs; the positive itself must not be marked.

    Returns:
        The value of each anchor in nats, (A,), and which anchors have a negative at all, (A,) bool; the value of an
        anchor without one is 0 and carries no gradient.
    """
    positive, candidates = at_least_float32(positive), at_least_float32(candidates)
    log_sum = torch.logsumexp(torch.cat([positive[:, None], _only(candidates, negative)], dim=1), dim=1)
    count = negative.sum(dim=1)
    values = positive - log_sum + torch.log1p(count.to(positive.dtype))
    valid = count > 0
    return torch.where(valid, values, torch.zeros_like(values)), valid


def donsker_varadhan(positive: Tensor, scores: Tensor, negative: Tensor) -> Tensor:
    """`mean T(x, y) - log mean exp T(x, y')` (Donsker and Varadhan 1983; Belghazi et al. 2018, eq. 2).

    The gradient of the log term is biased in a small batch (`mine` mends that), and so is the value where information
    is high: it may then be far above the truth.

    Args:
        positive: (P,) scores of matched pairs.
        scores: (...) scores of any pairs.
        negative: bool, of the shape of `scores`, which of them are mismatched pairs.

    Returns:
        Scalar in nats; 0 without gradient where no pair is matched, or none mismatched.
    """
    log_mean, defined = _log_mean_exp(scores, negative)
    value = at_least_float32(positive).mean() - log_mean
    return torch.where(defined & (len(positive) > 0), value, torch.zeros_like(value))


def mine(
    positive: Tensor, scores: Tensor, negative: Tensor, log_average: Tensor, decay: float
) -> tuple[Tensor, Tensor]:
    """Donsker-Varadhan with the moving average in the gradient (Belghazi et al. 2018, section 3.2, eq. 12).

    The value is `donsker_varadhan`'s. The gradient of its log term is that of `mean exp T` over the exponential moving
    average of `mean exp T`, with the batch at hand in it.

    Args:
        positive: (P,) scores of matched pairs.
        scores: (...) scores of any pairs.
        negative: bool, of the shape of `scores`, which of them are mismatched pairs.
        log_average: scalar, logarithm of the average so far; NaN where there is none yet.
        decay: weight of the average so far, in [0, 1).

    Returns:
        The value, a scalar in nats, and the logarithm of the new average, detached; 0 and the old one where no pair is
        matched, or none mismatched.
    """
    log_mean, defined = _log_mean_exp(scores, negative)
    defined = defined & (len(positive) > 0)
    batch, so_far = log_mean.detach(), log_average.to(log_mean.dtype)
    weighed = so_far if decay == 0 else torch.logaddexp(so_far + math.log(decay), batch + math.log1p(-decay))
    average = batch if decay == 0 else torch.where(so_far.isnan(), batch, weighed)
    ratio = torch.exp(log_mean - average)
    log_term = batch + ratio - ratio.detach()
    value = at_least_float32(positive).mean() - log_term
    value = torch.where(defined, value, torch.zeros_like(value))
    return value, torch.where(defined, average, so_far).to(log_average.dtype)


def jensen_shannon(positive: Tensor, scores: Tensor, negative: Tensor) -> Tensor:
    """`mean -softplus(-T(x, y)) - mean softplus(T(x, y'))` (Hjelm et al. 2019, eq. 4): stable, but not in nats.

    At most 0, and `-2 log 2` for a critic that says 0 of all pairs.

    Args:
        positive: (P,) scores of matched pairs.
        scores: (...) scores of any pairs.
        negative: bool, of the shape of `scores`, which of them are mismatched pairs.

    Returns:
        Scalar; 0 without gradient where no pair is matched, or none mismatched.
    """
    of_negatives = F.softplus(_only(at_least_float32(scores), negative))  # 0 of all others
    count = negative.sum()
    value = -F.softplus(-at_least_float32(positive)).mean() - of_negatives.sum() / count.clamp(min=1)
    return torch.where((count > 0) & (len(positive) > 0), value, torch.zeros_like(value))


def at_least_float32(scores: Tensor) -> Tensor:
    """Scores in float32, or in float64 where they are: reductions of less lose hundredths of a nat."""
    return scores if scores.dtype in (torch.float32, torch.float64) else scores.float()


def _only(scores: Tensor, chosen: Tensor) -> Tensor:
    """The chosen scores, and a large negative one for all others: a row of nothing but -inf has NaN gradients."""
    return scores.masked_fill(~chosen, torch.finfo(scores.dtype).min / 2)


def _log_mean_exp(scores: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """`log mean exp` over the chosen scores, and whether any is chosen."""
    count = chosen.sum()
    log_sum = torch.logsumexp(_only(at_least_float32(scores), chosen).flatten(), dim=0)
    return log_sum - torch.log(count.clamp(min=1).to(log_sum.dtype)), count > 0
