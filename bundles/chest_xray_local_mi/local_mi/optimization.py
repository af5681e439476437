"""What each part of the joint network is optimised with: groups of parameters and the text encoder's schedule."""

from collections.abc import Iterable
from typing import Any

from torch import nn

TEXT_PREFIX = "text_encoder."


def parameter_groups(
    network: nn.Module,
    learning_rate: float,
    text_learning_rate: float,
    weight_decay: float,
    text_weight_decay: float,
) -> list[dict[str, Any]]:
    """The trainable parameters in four groups for `torch.optim.AdamW`, which is Adam where the weight decay is 0.

    In this order: image encoder, critics and head with and without weight decay, text encoder with and without. None
    decays that has fewer than two dimensions: biases, weights of LayerNorm and batch norm, temperatures. A group may
    be empty, so that a schedule with a function a group fits every network.

    Args:
        network: the plain `LocalMINetwork`, not what wraps it.
        learning_rate: of everything but the text encoder.
        text_learning_rate: of the text encoder.
        weight_decay: of everything but the text encoder.
        text_weight_decay: of the text encoder.
    """
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    text = [parameter for name, parameter in named if name.startswith(TEXT_PREFIX)]
    others = [parameter for name, parameter in named if not name.startswith(TEXT_PREFIX)]
    return [
        *_split_by_decay(others, learning_rate, weight_decay),
        *_split_by_decay(text, text_learning_rate, text_weight_decay),
    ]


def _split_by_decay(
    parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    decaying: list[nn.Parameter] = []
    constant: list[nn.Parameter] = []
    for parameter in parameters:
        (decaying if parameter.ndim >= 2 else constant).append(parameter)
    return [
        {"params": decaying, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": constant, "lr": learning_rate, "weight_decay": 0.0},
    ]


def linear_warmup_decay(step: int, warmup_steps: int, steps: int) -> float:
    """Share of the full learning rate in [0, 1]: from 0 up to 1 at `warmup_steps`, then down to 0 at `steps`.

    For `torch.optim.lr_scheduler.LambdaLR`, where one group warms up and another stays as it is, as in the paper
    (Liao et al., MICCAI 2021); the ready-made schedules of MONAI and transformers move all groups alike.

    Args:
        step: scheduler steps done, from 0.
        warmup_steps: of these.
        steps: of the whole training.
    """
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (steps - step) / max(1, steps - warmup_steps))
