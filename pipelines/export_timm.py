"""Which networks of MONAI's are timm's and torchvision's too, tensor by tensor and stride by stride.

MONAI's ResNets have torchvision's keys and geometry under `conv1_t_stride: 2` and `bias_downsample: false`; then one
weights file serves all three, and `config.json` carries what timm reads.
"""

from typing import Any

import torch
from monai.networks import nets
from monai.networks.nets import ResNet
from monai.networks.nets.resnet import ResNetBottleneck
from torch import nn

BLOCKS = {
    (2, 2, 2, 2): "resnet18",
    (3, 4, 6, 3): "resnet34",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}
BOTTLENECKS = BLOCKS | {(3, 4, 6, 3): "resnet50"}


def timm_architecture(network: nn.Module) -> tuple[str, str]:
    """The network's name in timm and torchvision, or the reason why it has none there.

    Returns:
        The name and no reason, or no name and the reason.
    """
    if type(network) is not ResNet:
        return "", f"{type(network).__name__} is no ResNet"
    stages = [network.get_submodule(f"layer{number}") for number in range(1, 5)]
    counts = tuple(len(list(stage.children())) for stage in stages)
    names = BOTTLENECKS if isinstance(stages[0].get_submodule("0"), ResNetBottleneck) else BLOCKS
    if counts not in names:
        return "", f"it has {'-'.join(map(str, counts))} blocks, and no ResNet of theirs has"
    if network.no_max_pool:
        return "", "it has no max pooling after its first convolution (no_max_pool)"
    difference = _first_difference(network, names[counts])
    return ("", difference) if difference else (names[counts], "")


def _first_difference(network: ResNet, name: str) -> str:
    """Between the layers of a ResNet and of the one with torchvision's geometry, head left out."""
    with torch.device("meta"):
        theirs = getattr(nets, name)(spatial_dims=2, n_input_channels=1, conv1_t_stride=2, bias_downsample=False)
    layers, expected = _layers(network), _layers(theirs)
    for layer in expected | layers:
        if layers.get(layer) != expected.get(layer):
            return f"its {layer} is {layers.get(layer, 'missing')}, in theirs {expected.get(layer, 'missing')}"
    return ""


def _layers(network: nn.Module) -> dict[str, str]:
    """What every layer without layers of its own is, in words."""
    leaves = {name: str(module) for name, module in network.named_modules() if not list(module.children())}
    return {name: layer for name, layer in leaves.items() if name != "fc"}


def timm_fields(architecture: str, image_size: int, outputs: int) -> dict[str, Any]:
    """What timm reads of `config.json`.

    Args:
        architecture: of `timm_architecture`.
        image_size: pixels a side.
        outputs: of the head; 0 where there is none.
    """
    return {
        "architecture": architecture,
        "num_classes": outputs,
        "num_features": 512 if architecture in ("resnet18", "resnet34") else 2048,
        "global_pool": "avg",
        "model_args": {"in_chans": 1},
        "pretrained_cfg": {
            "num_classes": outputs,
            "input_size": [1, image_size, image_size],
            "fixed_input_size": False,
            "pool_size": None,
            "mean": [0.0],
            "std": [1.0],
            "interpolation": "box",  # area means, as in training
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }
