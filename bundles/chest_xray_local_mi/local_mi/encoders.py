"""Image encoders: local and global features out of plain `monai.networks.nets` classes and of the paper's network.

The classes stay MONAI's own, so that the weights load into them without this package.
"""

import torch
import torch.nn.functional as F
from monai.networks.nets import DenseNet, ResNet
from torch import Tensor, nn

from local_mi.errors import ConfigurationError
from local_mi.paper_resnet import PaperResNet

HEAD_PREFIX = "fc."  # of a ResNet or PaperResNet: what depends on the number of classes, and nothing else
TRIAL_SIZE = 256  # pixels; the size of the features depends on it in no network here


def image_features(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Local and global features of images.

    Of a ResNet or DenseNet the last map and its mean over the cells; of PaperResNet the map after the fifth stage and
    what the sixth stage and pooling make of it.

    Args:
        network: 2D, with or without head; the head takes no part.
        image: (B, 1, H, W).

    Returns:
        The local map (B, C, h, w) and the pooled features (B, G).

    Raises:
        ConfigurationError: a network whose maps are not known here, or one that takes no images of this size.
    """
    if isinstance(network, PaperResNet):
        return _paper_features(network, image)
    local_map = _last_map(network, image)
    return local_map, local_map.mean(dim=(2, 3))


def _paper_features(network: PaperResNet, image: Tensor) -> tuple[Tensor, Tensor]:
    local_map = network.local_features(image)
    try:
        return local_map, network.global_features(local_map)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _last_map(network: nn.Module, image: Tensor) -> Tensor:
    if isinstance(network, ResNet):
        return _last_resnet_map(network, image)
    if isinstance(network, DenseNet):
        # class_layers starts with the ReLU that DenseNet leaves out of `features`.
        features: Tensor = F.relu(network.features(image))
        return features
    raise ConfigurationError(
        f"no region features are known for {type(network).__name__}; use a 2D ResNet or DenseNet of "
        "monai.networks.nets, or local_mi.paper_resnet.PaperResNet"
    )


def _last_resnet_map(network: ResNet, image: Tensor) -> Tensor:
    x: Tensor = network.act(network.bn1(network.conv1(image)))
    if not network.no_max_pool:
        x = network.maxpool(x)
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
    return x


def feature_sizes(network: nn.Module) -> tuple[int, int]:
    """Channels C of the local map and width G of the pooled features (see `image_features`).

    Raises:
        ConfigurationError: a network whose maps are not known here, or that does not take one-channel pictures.
    """
    convolution = next((module for module in network.modules() if isinstance(module, nn.modules.conv._ConvNd)), None)
    if convolution is not None and (not isinstance(convolution, nn.Conv2d) or convolution.in_channels != 1):
        raise ConfigurationError(
            f"{type(network).__name__} starts with {type(convolution).__name__} of {convolution.in_channels} input "
            "channels; radiographs have two dimensions and one channel: set spatial_dims to 2 and the input channels "
            "to 1"
        )
    return _trial(network, TRIAL_SIZE)


def refuse_image_size(network: nn.Module, image_size: int) -> None:
    """Say at start-up what the first batch would run into.

    Raises:
        ConfigurationError: the network takes no images of this size (pixels a side).
    """
    try:
        _trial(network, image_size)
    except RuntimeError as error:
        raise ConfigurationError(
            f"{type(network).__name__} takes no images of {image_size} x {image_size} pixels; raise image_size or use "
            "a network with fewer strides"
        ) from error


def _trial(network: nn.Module, image_size: int) -> tuple[int, int]:
    """C and G of one black image; modes and batch norms are left as they were."""
    modes = {module: module.training for module in network.modules()}
    parameter = next(network.parameters())
    image = torch.zeros(1, 1, image_size, image_size, dtype=parameter.dtype, device=parameter.device)
    network.eval()
    try:
        with torch.no_grad():
            local_map, pooled = image_features(network, image)
    finally:
        for module, training in modes.items():
            module.training = training
    return local_map.shape[1], pooled.shape[1]


def idle_parts(network: nn.Module, pooled: bool) -> list[nn.Module]:
    """What gets no gradient in pretraining: the head, and a sixth stage that only pooled features need.

    Data-parallel training stops at a parameter that waits in vain for its gradient, so these are to be frozen there.

    Args:
        network: as for `image_features`.
        pooled: whether the loss takes the pooled features.
    """
    head = network.class_layers if isinstance(network, DenseNet) else getattr(network, "fc", None)
    parts = [] if head is None else [head]
    return [*parts, network.layer6] if isinstance(network, PaperResNet) and not pooled else parts


def encoder_state(network: nn.Module) -> dict[str, Tensor]:
    """State of the encoder in the key layout of the plain class: all but `fc`, or `DenseNet.features`."""
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
