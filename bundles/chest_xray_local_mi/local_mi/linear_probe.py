"""A classifier's head on a frozen encoder: the linear probe, solved to its optimum instead of trained by steps.

The encoder stays as it is, batch norms in evaluation mode, so that an image's pooled features never change: they are
computed once, and the head is a logistic regression a label, with the loss that `finetune` has and a penalty on the
weights of standardised features. The penalty is the one whose head does best on the validation split.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import DenseNet
from torch import Tensor, nn

from local_mi.checkpoints import keep, read_record
from local_mi.encoders import image_features
from local_mi.errors import ConfigurationError
from local_mi.metrics import mean_auroc
from local_mi.objectives import masked_binary_cross_entropy

logger = logging.getLogger(__name__)

STEPS = 200  # of L-BFGS at most; it stops earlier where the gradient vanishes
HISTORY = 10  # of its steps; PyTorch's 100 takes longer than the loss


def classifier_head(network: nn.Module) -> nn.Linear:
    """The last layer of a classifier, from pooled features to a logit a label.

    Raises:
        ConfigurationError: there is none.
    """
    head = network.class_layers.out if isinstance(network, DenseNet) else getattr(network, "fc", None)
    if not isinstance(head, nn.Linear):
        raise ConfigurationError(f"{type(network).__name__} has no linear head to fit; use a network with one")
    return head


def pooled_features(
    network: nn.Module, batches: Iterable[dict[str, Any]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pooled features (N, G) of images and their labels (N, L), on the CPU, in the order of the batches.

    Args:
        network: on the device; in evaluation mode afterwards.
        batches: with `image` (B, 1, H, W) and `label` (B, L).
        device: to compute on.
    """
    network.eval()
    features, labels = [], []
    with torch.inference_mode():
        for batch in batches:
            features.append(image_features(network, batch["image"].to(device))[1].float().cpu())
            labels.append(batch["label"])
    return torch.cat(features).clone(), torch.cat(labels).clone()


def fit_head(
    features: Tensor, labels: Tensor, penalty: float, positive_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weights (L, G) and biases (L,) of the regularised logistic regressions, by L-BFGS in double precision.

    Minimises the mean masked cross-entropy plus `penalty` / 2 times the squared weights of standardised features, over
    the labels: a convex problem, so that neither seed nor learning rate has a say.

    Args:
        features: (N, G).
        labels: (N, L), targets in [0, 1], -1 or NaN.
        penalty: above 0.
        positive_weight: (L,), see `labels.positive_weight`.
    """
    features, labels = features.double(), labels.double()
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0)
    scale = torch.where(deviation > 1e-8 * (1 + mean.abs()), 1 / deviation, 0.0)  # a constant feature has no weight
    standardised = (features - mean) * scale
    weight = torch.zeros(labels.shape[1], features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(labels.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=STEPS,
        history_size=HISTORY,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = standardised @ weight.T + bias
        value = masked_binary_cross_entropy(logits, labels, positive_weight)
        value = value + penalty / 2 * (weight**2).sum() / len(weight)
        value.backward()
        return value

    optimizer.step(loss)
    folded = (weight * scale).detach()
    return folded, bias.detach() - folded @ mean


@dataclass(frozen=True)
class FittedHead:
    """The head of the penalty that did best on validation.

    Args:
        weight: (L, G).
        bias: (L,).
        penalty: its own.
        mean_auroc: on validation.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    mean_auroc: float

    def logits(self, features: Tensor) -> Tensor:
        """(N, L) in double precision, of features (N, G)."""
        return features.double() @ self.weight.T + self.bias


def best_head(
    training: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    penalties: Sequence[float],
    positive_weight: Tensor | None = None,
) -> FittedHead:
    """The head whose penalty gives the best mean AUROC on validation; of equal ones, the most regular.

    Args:
        training: features (N, G) and targets (N, L).
        validation: the same of the validation split.
        penalties: to try.
        positive_weight: (L,), see `labels.positive_weight`.

    Raises:
        ConfigurationError: a penalty that is not above 0, features that are not finite, or a mean AUROC that is
            undefined.
    """
    if not penalties or not all(isinstance(penalty, int | float) and penalty > 0 for penalty in penalties):
        raise ConfigurationError(f"`penalties` is {penalties!r}; write a list of numbers above 0")
    if not (training[0].isfinite().all() and validation[0].isfinite().all()):
        raise ConfigurationError("the encoder gives features that are not finite; its weights are damaged or diverged")
    best: FittedHead | None = None
    for penalty in sorted(penalties, reverse=True):
        head = FittedHead(*fit_head(*training, penalty, positive_weight), penalty, math.nan)
        score = mean_auroc(head.logits(validation[0]), validation[1])
        if math.isfinite(score) and (best is None or score > best.mean_auroc):
            best = replace(head, mean_auroc=score)
    if best is None:
        raise ConfigurationError(
            "the mean AUROC is undefined on the validation split, so no penalty can be chosen; it needs patients with "
            "and without at least one of the labels"
        )
    return best


def fit_probe(
    network: nn.Module,
    training: Iterable[dict[str, Any]],
    validation: Iterable[dict[str, Any]],
    device: torch.device,
    positive_weight: Tensor | None,
    penalties: Sequence[float],
    checkpoint: str,
    record: dict[str, Any],
) -> None:
    """Fit the network's head to pooled features and save the whole classifier, unless a better one is there.

    Args:
        network: the classifier; its head is replaced.
        training: batches as for `pooled_features`, of images without augmentation.
        validation: the same.
        device: for the encoder.
        positive_weight: see `best_head`.
        penalties: see `best_head`.
        checkpoint: path of the weights.
        record: of the checkpoint.

    Raises:
        ConfigurationError: see `best_head`; or the network has no head.
    """
    head = classifier_head(network)
    fitted = best_head(
        pooled_features(network, training, device),
        pooled_features(network, validation, device),
        penalties,
        positive_weight,
    )
    with torch.no_grad():
        head.weight.copy_(fitted.weight)
        head.bias.copy_(fitted.bias)
    logger.info("penalty %g, mean AUROC on validation %.4f", fitted.penalty, fitted.mean_auroc)
    earlier = read_record(checkpoint)
    if earlier is not None and earlier["value"] >= fitted.mean_auroc:
        logger.info("%s keeps the weights of mean_auroc %.4f", Path(checkpoint).name, earlier["value"])
        return
    keep(network, checkpoint, {"metric": "mean_auroc", "value": fitted.mean_auroc, "penalty": fitted.penalty} | record)
