"""The image network of Liao et al. (MICCAI 2021), built from MONAI's residual block.

Imports PyTorch and MONAI alone: a copy of this file travels with exported weights of the network.
"""

import torch
from monai.networks.nets.resnet import ResNetBlock
from torch import Tensor, nn

FEATURES = 768  # 192 channels in 2 x 2 cells


class PaperResNet(nn.Module):
    """Residual network of six stages, 1.94 million parameters without head, for one-channel images of 256 x 256.

    A 3 x 3 convolution of 8 channels, then stages of two blocks with 8, 16, 32, 64, 128 and 192 channels, each halving
    rows and columns. The map after the fifth stage (128 channels, 8 x 8) holds the local features; the map after the
    sixth (192 channels, 4 x 4), averaged over 2 x 2 cells and flattened, the global ones. Layers have the names of the
    authors' public code; its head is called `fc1`.

    Sides of 193 to 256 pixels work: they give the same maps.

    Args:
        num_classes: outputs of the head `fc`; None for no head.
    """

    def __init__(self, num_classes: int | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.layer1 = _stage(8, 8)
        self.layer2 = _stage(8, 16)
        self.layer3 = _stage(16, 32)
        self.layer4 = _stage(32, 64)
        self.layer5 = _stage(64, 128)
        self.layer6 = _stage(128, 192)
        self.avgpool = nn.AvgPool2d(2)
        self.fc = None if num_classes is None else nn.Linear(FEATURES, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 256, 256) -> global features (B, 768), or logits (B, num_classes) where there is a head."""
        features = self.global_features(self.local_features(x))
        return features if self.fc is None else self.fc(features)

    def local_features(self, x: Tensor) -> Tensor:
        """(B, 1, 256, 256) -> (B, 128, 8, 8)."""
        x = self.act(self.bn1(self.conv1(x)))
        features: Tensor = self.layer5(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return features

    def global_features(self, local_features: Tensor) -> Tensor:
        """(B, 128, 8, 8) -> (B, 768).

        Raises:
            ValueError: the map is of images of another size.
        """
        x = self.layer6(local_features)
        rows, columns = x.shape[2], x.shape[3]
        if rows != 4 or columns != 4:
            raise ValueError(
                "PaperResNet is made for images of 256 x 256 pixels (193 to 256 a side work), whose last map has "
                f"4 x 4 cells, not {rows} x {columns}; set image_size to 256 or use another network"
            )
        return torch.flatten(self.avgpool(x), 1)


def _stage(in_channels: int, channels: int) -> nn.Sequential:
    """Two residual blocks, the first with stride 2 and a projection of its input."""
    projection = nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size=1, stride=2, bias=False), nn.BatchNorm2d(channels)
    )
    return nn.Sequential(
        ResNetBlock(in_channels, channels, spatial_dims=2, stride=2, downsample=projection),
        ResNetBlock(channels, channels, spatial_dims=2),
    )
