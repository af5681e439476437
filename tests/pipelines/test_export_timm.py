"""Where MONAI's ResNets are torchvision's and timm's, exported weights are theirs too; elsewhere it says why not."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from local_mi.paper_resnet import PaperResNet
from made_classifier_run import SIZE, as_after_training
from monai.networks import nets
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.export_timm import timm_architecture, timm_fields

THEIRS: dict[str, Any] = {"spatial_dims": 2, "n_input_channels": 1, "conv1_t_stride": 2, "bias_downsample": False}


class PlainBlock(nn.Module):
    """The basic block of He et al. (2016), with torchvision's names."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        else:
            self.downsample = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (inner + self.downsample(x)).relu()


def plain_resnet18(outputs: int) -> nn.Module:
    """ResNet-18 as torchvision defines it, with one input channel."""
    widths = [64, 64, 128, 256, 512]
    stages = {
        f"layer{k}": nn.Sequential(
            PlainBlock(widths[k - 1], widths[k], 2 if k > 1 else 1), PlainBlock(widths[k], widths[k], 1)
        )
        for k in range(1, 5)
    }
    stem = {"conv1": nn.Conv2d(1, 64, 7, 2, 3, bias=False), "bn1": nn.BatchNorm2d(64), "relu": nn.ReLU()}
    pool = {"maxpool": nn.MaxPool2d(3, 2, 1)}
    head = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(512, outputs)}
    network = nn.Sequential()
    for name, module in (stem | pool | stages | head).items():
        network.add_module(name, module)
    return network.eval()


def test_a_resnet18_of_theirs_takes_the_weights_and_gives_the_same() -> None:
    ours = as_after_training(nets.resnet18(**THEIRS, num_classes=3))
    assert timm_architecture(ours) == ("resnet18", "")
    theirs = plain_resnet18(3)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(theirs(torch.ones(2, 1, 97, 64)), ours(torch.ones(2, 1, 97, 64)))


@pytest.mark.parametrize("outputs", [0, 3])
def test_timm_and_torchvision_load_the_folder(outputs: int, tmp_path: Path) -> None:
    try:
        timm, models = importlib.import_module("timm"), importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:  # a torchvision built for another PyTorch
        pytest.skip(f"timm and torchvision cannot be imported: {error}")
    ours = as_after_training(nets.resnet18(**THEIRS, num_classes=3, feed_forward=bool(outputs)))
    save_file(ours.state_dict(), tmp_path / "model.safetensors")
    config = timm_fields("resnet18", SIZE, outputs) | {"label_names": ["a", "b", "c"][:outputs]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    theirs = models.resnet18(num_classes=3)
    theirs.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    theirs.fc = theirs.fc if outputs else nn.Identity()
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    images = torch.rand(2, 1, SIZE, SIZE)
    with torch.no_grad():
        for other in (loaded, theirs.eval()):
            torch.testing.assert_close(other(images), ours(images))


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_other_depths_are_named(name: str) -> None:
    with torch.device("meta"):
        assert timm_architecture(getattr(nets, name)(**THEIRS, num_classes=5)) == (name, "")


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda: PaperResNet(None), "PaperResNet is no ResNet"),
        (lambda: nets.resnet10(**THEIRS), "it has 1-1-1-1 blocks"),
        (lambda: nets.resnet18(**THEIRS, no_max_pool=True), "no max pooling"),
        (lambda: nets.resnet18(**THEIRS | {"conv1_t_stride": 1}), r"its conv1 is Conv2d\(.*stride=\(1, 1\)"),
        (lambda: nets.resnet18(**THEIRS | {"bias_downsample": True}), r"its layer2\.0\.downsample\.0 is "),
        (lambda: nets.resnet18(**THEIRS, shortcut_type="A"), r"its layer2\.0\.downsample\.0 is missing"),
        (lambda: nets.resnet18(**THEIRS, widen_factor=0.5), "its conv1 is "),
        (lambda: nets.resnet18(**THEIRS, act="elu"), "its act is ELU"),
        (lambda: nets.resnet18(**THEIRS, norm=("group", {"num_groups": 8})), "its bn1 is GroupNorm"),
    ],
)
def test_a_network_that_is_not_theirs_is_not_said_to_be(network: Any, reason: str) -> None:
    with torch.device("meta"):
        architecture, found = timm_architecture(network())
    assert not architecture
    assert re.search(reason, found)
