"""Image encoders: region features out of plain `monai.networks.nets` classes.

The classes stay MONAI's own, so that the weights load into them without this package.
"""

import torch
import torch.nn.functional as F
from monai.networks.nets import DenseNet, ResNet
from torch import Tensor, nn

from local_mi.errors import ConfigurationError

HEAD_PREFIX = "fc."  # of a ResNet: what depends on the number of classes, and nothing else


def feature_map(network: nn.Module, image: Tensor) -> Tensor:
    """The last feature map before pooling: (B, 1, H, W) -> (B, C, h, w).

    Raises:
        ConfigurationError: a network whose last feature map is not known here.
    """
    if isinstance(network, ResNet):
        return _resnet_feature_map(network, image)
    if isinstance(network, DenseNet):
        # class_layers starts with the ReLU that DenseNet leaves out of `features`.
        features: Tensor = F.relu(network.features(image))
        return features
    raise ConfigurationError(
        f"no region features are known for {type(network).__name__}; use a 2D ResNet or DenseNet of monai.networks.nets"
    )


def _resnet_feature_map(network: ResNet, image: Tensor) -> Tensor:
    x: Tensor = network.act(network.bn1(network.conv1(image)))
    if not network.no_max_pool:
        x = network.maxpool(x)
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
    return x


def feature_channels(network: nn.Module) -> int:
    """Channels C of `feature_map`."""
    training = network.training
    network.eval()
    with torch.no_grad():
        channels = feature_map(network, torch.zeros(1, 1, 64, 64)).shape[1]
    network.train(training)
    return int(channels)


def encoder_state(network: nn.Module) -> dict[str, Tensor]:
    """State of the encoder in the key layout of the plain class: a ResNet without its head, or `DenseNet.features`."""
    if isinstance(network, DenseNet):
        return dict(network.features.state_dict())
    return {key: value for key, value in network.state_dict().items() if not key.startswith(HEAD_PREFIX)}


def load_encoder_state(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Load what `encoder_state` gave into a network with or without a head; a head keeps its values.

    Raises:
        ConfigurationError: the weights are of another architecture.
    """
    target = network.features if isinstance(network, DenseNet) else network
    expected = {key: value.shape for key, value in encoder_state(network).items()}
    keys = expected.keys() | state.keys()
    wrong = sorted(key for key in keys if key not in state or expected.get(key) != state[key].shape)
    if wrong:
        raise ConfigurationError(
            f"the encoder weights do not fit {type(network).__name__}: {len(wrong)} of {len(keys)} tensors differ, "
            f"the first is {wrong[0]}; use the network that they were trained with"
        )
    target.load_state_dict(state, strict=False)
