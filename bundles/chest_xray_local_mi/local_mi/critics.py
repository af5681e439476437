"""Critics: score an image, or a region of it, with a text.

A critic first projects each side on its own (`project_left` for images, `project_right` for text) and then scores all
pairs of the projections (`score`), so that the expensive part grows with the number of regions and sentences, not of
their pairs.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from local_mi.errors import ConfigurationError

MAX_INVERSE_TEMPERATURE = 100.0  # as in CLIP (Radford et al. 2021, section 2.5): keeps the softmax from collapsing

CHUNK_ELEMENTS = 2**19
"""Hidden values of the concatenation critic that are held at once on a processor: they stay in its cache."""
CUDA_CHUNKS = 256  # times as many on a GPU, which wants large products
KEPT_MASK_BYTES = 2**30
"""Which hidden units are active is kept for the backward pass up to this size, a byte each; else computed again."""
SPARSE_SHARE = 0.25  # of pairs with a gradient: below it only those are computed again


class SeparableCritic(nn.Module):
    """Separable critic: cosine of linear projections over a learned temperature; all pairs are one matrix product.

    Args:
        left_features: width of an image's or region's features.
        right_features: width of a text vector.
        embedding_features: width D of the common space.
        temperature: initial value, above 0; learned in the logarithm.

    Raises:
        ConfigurationError: a temperature that is not above 0.
    """

    def __init__(self, left_features: int, right_features: int, embedding_features: int, temperature: float) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigurationError(f"the critic's temperature is {temperature}; set it above 0")
        self.left_projection = nn.Linear(left_features, embedding_features)
        self.right_projection = nn.Linear(right_features, embedding_features)
        self.log_inverse_temperature = nn.Parameter(torch.tensor(-math.log(temperature)))

    def project_left(self, left: Tensor) -> Tensor:
        """(..., left_features) -> (..., D), unit length."""
        return F.normalize(self.left_projection(left), dim=-1)

    def project_right(self, right: Tensor) -> Tensor:
        """(N, right_features) -> (N, D), unit length."""
        return F.normalize(self.right_projection(right), dim=-1)

    def score(self, left: Tensor, right: Tensor) -> Tensor:
        """Scores of all pairs of projections: (M, D) and (N, D) -> (M, N)."""
        scale = self.log_inverse_temperature.exp().clamp(max=MAX_INVERSE_TEMPERATURE)
        return left @ (scale * right).T


class ConcatenationCritic(nn.Module):
    """A perceptron with two hidden layers on the concatenated pair (Liao et al. 2021: 1024, 512, 1 with ReLU).

    Its first layer is linear in each half of the pair: each side is projected once, and a pair's first hidden layer is
    the sum of two projections.

    Args:
        left_features: width of an image's or region's features.
        right_features: width of a text vector.
        hidden_features: the two hidden widths.

    Raises:
        ConfigurationError: not two widths.
    """

    def __init__(self, left_features: int, right_features: int, hidden_features: Sequence[int]) -> None:
        super().__init__()
        if len(hidden_features) != 2:
            raise ConfigurationError(f"hidden_features is {list(hidden_features)}; write two widths, as [1024, 512]")
        self.left_features = left_features
        self.first = nn.Linear(left_features + right_features, hidden_features[0])
        self.second = nn.Linear(hidden_features[0], hidden_features[1])
        self.last = nn.Linear(hidden_features[1], 1)

    def project_left(self, left: Tensor) -> Tensor:
        """(..., left_features) -> (..., hidden_features[0]): the left half of the first layer, with its bias."""
        return F.linear(left, self.first.weight[:, : self.left_features], self.first.bias)

    def project_right(self, right: Tensor) -> Tensor:
        """(N, right_features) -> (N, hidden_features[0]): the right half of the first layer."""
        return F.linear(right, self.first.weight[:, self.left_features :])

    @torch.compiler.disable
    def score(self, left: Tensor, right: Tensor) -> Tensor:
        """Scores of all pairs of projections: (M, hidden_features[0]) and (N, hidden_features[0]) -> (M, N)."""
        tensors: tuple[Tensor, ...] = (left, right, self.second.weight, self.second.bias)
        tensors += (self.last.weight[0], self.last.bias)
        device = left.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            tensors = tuple(tensor.to(dtype) for tensor in tensors)
        scores: Tensor = _PairScores.apply(*tensors)
        return scores


Critic = SeparableCritic | ConcatenationCritic


def make_critic(
    critic: str,
    left_features: int,
    right_features: int,
    embedding_features: int,
    hidden_features: Sequence[int],
    temperature: float,
) -> Critic:
    """The critic of a name, `separable` or `concatenation`.

    Args:
        critic: its name.
        left_features: width of an image's or region's features.
        right_features: width of a text vector.
        embedding_features: of the separable critic.
        hidden_features: of the concatenation critic.
        temperature: of the separable critic.

    Raises:
        ConfigurationError: unknown critic.
    """
    if critic == "separable":
        return SeparableCritic(left_features, right_features, embedding_features, temperature)
    if critic == "concatenation":
        return ConcatenationCritic(left_features, right_features, hidden_features)
    raise ConfigurationError(f"critic '{critic}' is unknown; choose separable or concatenation")


class _PairScores(torch.autograd.Function):
    """`w3 . relu(W2 relu(u_m + v_n) + b2) + b3` for all pairs (m, n), without holding the hidden layers of all pairs.

    The gradient of a perceptron of this kind needs two matrix products and no value of its second hidden layer, only
    which units are active, a_k: with G_kj = sum over pairs of g a_k h1_j (the first product), the gradients are
    dW2_kj = w3_k G_kj, db2_k = w3_k sum(g a_k), dw3_k = W2_k . G_k + b2_k sum(g a_k), and dh1 = (g a) (w3 * W2) (the
    second). Where only few pairs have a gradient, as below a maximum over regions, only those are computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, left: Tensor, right: Tensor, weight: Tensor, bias: Tensor, last: Tensor, last_bias: Tensor
    ) -> Tensor:
        pairs = len(left) * len(right)
        keeps = any(ctx.needs_input_grad) and pairs * len(weight) <= KEPT_MASK_BYTES
        active = torch.empty(pairs, len(weight), dtype=torch.bool, device=left.device) if keeps else None
        scores = left.new_empty(len(left), len(right))
        for rows in _chunks(left, right):
            hidden = torch.addmm(bias, _first_hidden(left[rows], right), weight.T)
            if active is not None:
                torch.gt(hidden, 0, out=active[rows.start * len(right) : rows.stop * len(right)])
            scores[rows] = (hidden.relu_() @ last + last_bias).view(-1, len(right))
        ctx.active = active
        ctx.save_for_backward(left, right, weight, bias, last)
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        left, right, weight, bias, last = ctx.saved_tensors
        gradient = gradients[0].to(left.dtype)
        sums = _Sums(left, right, weight, last)
        chosen = gradient.nonzero()
        if len(chosen) < SPARSE_SHARE * gradient.numel():
            for part in chosen.split(max(1, _chunk_elements(left) // left.shape[1])):
                m, n = part.unbind(1)
                hidden = (left[m] + right[n]).relu_()
                activity = torch.addmm(bias, hidden, weight.T) > 0
                of_hidden = sums.add(hidden, activity, gradient[m, n])
                sums.left.index_add_(0, m, of_hidden.to(sums.left.dtype))
                sums.right.index_add_(0, n, of_hidden.to(sums.right.dtype))
        else:
            for rows in _chunks(left, right):
                hidden = _first_hidden(left[rows], right)
                span = slice(rows.start * len(right), rows.stop * len(right))
                activity = torch.addmm(bias, hidden, weight.T) > 0 if ctx.active is None else ctx.active[span]
                of_hidden = sums.add(hidden, activity, gradient[rows].flatten()).view(-1, *right.shape)
                sums.left[rows] = of_hidden.sum(dim=1, dtype=sums.left.dtype)
                sums.right += of_hidden.sum(dim=0, dtype=sums.right.dtype)
        parts = (
            sums.left,
            sums.right,
            last[:, None] * sums.products,
            last * sums.activity,
            (weight * sums.products).sum(dim=1) + bias * sums.activity,
            gradients[0].sum(dtype=sums.left.dtype)[None],
        )
        return tuple(part.to(left.dtype) for part in parts)


class _Sums:
    """Sums over pairs that make the gradients of `_PairScores`, in float32 at least."""

    def __init__(self, left: Tensor, right: Tensor, weight: Tensor, last: Tensor) -> None:
        dtype = torch.promote_types(left.dtype, torch.float32)
        self.left = torch.zeros_like(left, dtype=dtype)
        self.right = torch.zeros_like(right, dtype=dtype)
        self.products = torch.zeros_like(weight, dtype=dtype)  # G
        self.activity = torch.zeros_like(last, dtype=dtype)  # sum(g a)
        self._back = last[:, None] * weight  # w3 * W2

    def add(self, hidden: Tensor, activity: Tensor, gradient: Tensor) -> Tensor:
        """Take pairs (p,): first hidden layer (p, H1), activity of the second (p, H2), gradient of the score (p,).

        Returns:
            Gradient of what is added up in the first layer, (p, H1).
        """
        weighed = activity * gradient[:, None]
        self.products += weighed.T @ hidden
        self.activity += weighed.sum(dim=0, dtype=self.activity.dtype)
        passed: Tensor = torch.ops.aten.threshold_backward(weighed @ self._back, hidden, 0)  # ReLU's own
        return passed


def _first_hidden(left: Tensor, right: Tensor) -> Tensor:
    """(m, H) and (N, H) -> (m * N, H)."""
    return (left[:, None] + right[None]).relu_().flatten(0, 1)


def _chunks(left: Tensor, right: Tensor) -> list[slice]:
    rows = max(1, _chunk_elements(left) // max(1, right.numel()))
    return [slice(start, min(start + rows, len(left))) for start in range(0, len(left), rows)]


def _chunk_elements(tensor: Tensor) -> int:
    return CHUNK_ELEMENTS * (CUDA_CHUNKS if tensor.is_cuda else 1)
