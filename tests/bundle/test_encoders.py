"""Features come out of MONAI's own classes and the paper's network, and weights go back without this package."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from local_mi.encoders import (
    encoder_state,
    feature_sizes,
    idle_parts,
    image_features,
    load_encoder_state,
    refuse_image_size,
)
from local_mi.errors import ConfigurationError
from local_mi.paper_resnet import PaperResNet
from monai.bundle import ConfigParser
from monai.networks.nets import DenseNet, DenseNet121, ResNet, UNet, resnet18, resnet34, resnet50
from torch import Tensor, nn

BUNDLE = Path(__file__).parents[2] / "bundles" / "chest_xray_local_mi"
RESNET = {"spatial_dims": 2, "n_input_channels": 1, "conv1_t_stride": 2, "bias_downsample": False}
STAGE_CHANNELS = (8, 16, 32, 64, 128, 192)  # of the paper


def small_resnet(**settings: object) -> ResNet:
    """A ResNet of the bundle's kind, thin enough for a test."""
    return resnet18(**(RESNET | {"widen_factor": 0.125, "num_classes": 3} | settings))


def small_densenet(classes: int = 3) -> DenseNet:
    return DenseNet(
        spatial_dims=2, in_channels=1, out_channels=classes, init_features=8, growth_rate=4, block_config=(2, 2)
    )


def paper_resnet() -> PaperResNet:
    return PaperResNet(num_classes=3)


def images(size: int = 64) -> Tensor:
    return torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(0))


def randomise_batch_norm(network: nn.Module) -> None:
    """Batch norms as after training; as made they are the identity in eval mode and would hide one that is missing."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
            ):
                nn.init.uniform_(values, low, high)


def plain_paper_maps(state: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """The six stages' maps in evaluation mode, from the description in the paper and PyTorch's functions alone."""

    def convolution(x: Tensor, weight: str, norm: str, stride: int) -> Tensor:
        kernel = state[f"{weight}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, variance, scale, shift = (
            state[f"{norm}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    x, maps = F.relu(convolution(image, "conv1", "bn1", 1)), []
    for stage in range(1, 7):
        for block, stride in ((0, 2), (1, 1)):
            name = f"layer{stage}.{block}"
            y = F.relu(convolution(x, f"{name}.conv1", f"{name}.bn1", stride))
            y = convolution(y, f"{name}.conv2", f"{name}.bn2", 1)
            shortcut = x if block else convolution(x, f"{name}.downsample.0", f"{name}.downsample.1", 2)
            x = F.relu(y + shortcut)
        maps.append(x)
    return maps


def plain_paper_features(last_map: np.ndarray) -> np.ndarray:
    """(B, 192, 4, 4) -> (B, 768): the mean of each 2 x 2 block, channel by channel, row by row."""
    return np.array(
        [
            [
                maps[rows : rows + 2, columns : columns + 2].mean()
                for maps in one
                for rows in (0, 2)
                for columns in (0, 2)
            ]
            for one in last_map
        ]
    )


def test_the_papers_network_is_what_the_paper_describes() -> None:
    """Every layer again in plain PyTorch and NumPy, with the same weights."""
    network, image = paper_resnet().double(), images(256).double()
    randomise_batch_norm(network)
    network.eval()
    with torch.no_grad():
        local_map, pooled = image_features(network, image)
        maps = plain_paper_maps(network.state_dict(), image)
        assert [tuple(x.shape[1:]) for x in maps] == [
            (channels, 128 >> stage, 128 >> stage) for stage, channels in enumerate(STAGE_CHANNELS)
        ]
        torch.testing.assert_close(local_map, maps[4])
        torch.testing.assert_close(pooled, torch.from_numpy(plain_paper_features(maps[5].numpy())))
        torch.testing.assert_close(network(image), F.linear(pooled, network.fc.weight, network.fc.bias))
        network.fc = None
        assert torch.equal(network(image), pooled)


def test_the_papers_network_has_one_million_nine_hundred_forty_four_thousand_parameters() -> None:
    """Convolutions without bias, each with a scale and a shift; the paper says 1.95 million."""
    expected = 3 * 3 * 1 * 8 + 2 * 8
    for before, channels in zip((8, *STAGE_CHANNELS), STAGE_CHANNELS, strict=False):
        expected += 3 * 3 * before * channels + 3 * (3 * 3 * channels * channels) + 1 * 1 * before * channels
        expected += 5 * 2 * channels
    assert expected == 1_944_264
    assert sum(p.numel() for p in PaperResNet(None).parameters()) == expected
    assert sum(p.numel() for p in PaperResNet(4).parameters()) == expected + 768 * 4 + 4


def test_the_papers_network_starts_with_variance_two_over_fan_out() -> None:
    torch.manual_seed(0)
    network = PaperResNet(None)
    for convolution, fan_out in ((network.layer6[0].conv1, 192 * 9), (network.layer6[0].downsample[0], 192)):
        assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)
        assert abs(convolution.weight.mean().item()) < 4 * convolution.weight.std().item() / 128
    assert all(
        bool((module.weight == 1).all()) and bool((module.bias == 0).all())
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d)
    )


@pytest.mark.parametrize("size", [193, 256])
def test_sizes_that_give_the_papers_maps_are_taken(size: int) -> None:
    with torch.no_grad():
        local_map, pooled = image_features(paper_resnet().eval(), images(size))
    assert (local_map.shape, pooled.shape) == ((2, 128, *[-(-size // 32)] * 2), (2, 768))
    refuse_image_size(paper_resnet(), size)


@pytest.mark.parametrize(("size", "cells"), [(128, 2), (192, 3), (257, 5), (512, 8)])
def test_other_sizes_are_refused_by_the_papers_network(size: int, cells: int) -> None:
    message = f"256 x 256 pixels .* not {cells} x {cells}; set image_size"
    for refusing in (image_features, lambda network, image: refuse_image_size(network, image.shape[2])):
        with pytest.raises(ConfigurationError, match=message):
            refusing(paper_resnet().eval(), images(size))
    with pytest.raises(ValueError, match=message):
        paper_resnet().eval()(images(size))


@pytest.mark.parametrize(
    "network",
    [
        small_resnet(),
        small_resnet(no_max_pool=True),
        small_resnet(conv1_t_stride=1, shortcut_type="A"),
        resnet50(**RESNET, widen_factor=0.125, num_classes=3),
    ],
    ids=["basic", "without max pool", "stride 16", "bottleneck"],
)
def test_pooled_resnet_regions_are_the_plain_networks_features(network: ResNet) -> None:
    randomise_batch_norm(network)
    network.eval()
    with torch.no_grad():
        local_map, pooled = image_features(network, images())
        torch.testing.assert_close(local_map.flatten(2).sum(dim=2) / local_map[0, 0].numel(), pooled)
        torch.testing.assert_close(network.fc(pooled), network(images()))
        network.fc = None
        torch.testing.assert_close(pooled, network(images()))


def test_pooled_densenet_regions_are_the_plain_networks_features() -> None:
    network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=3)
    randomise_batch_norm(network)
    network.eval()
    with torch.no_grad():
        local_map, pooled = image_features(network, images())
        torch.testing.assert_close(local_map.flatten(2).sum(dim=2) / local_map[0, 0].numel(), pooled)
        torch.testing.assert_close(network.class_layers.out(pooled), network(images()))


@pytest.mark.parametrize(
    ("make", "size"), [(small_resnet, 64), (small_densenet, 64), (paper_resnet, 256)], ids=["resnet", "dense", "paper"]
)
def test_channels_last_gives_the_same_features_in_the_same_order(make, size: int) -> None:
    network = make().double()
    randomise_batch_norm(network)
    network.eval()
    image = images(size).double()
    with torch.no_grad():
        expected = image_features(network, image)
        network.to(memory_format=torch.channels_last)
        found = image_features(network, image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("make", "size"), [(small_resnet, 64), (small_densenet, 64), (paper_resnet, 256)], ids=["resnet", "dense", "paper"]
)
@pytest.mark.parametrize("pooled", [False, True], ids=["local", "local and pooled"])
def test_gradients_reach_every_encoder_weight_but_those_said_to_be_idle(make, size: int, pooled: bool) -> None:
    network = make().train()
    local_map, features = image_features(network, images(size))
    (local_map.square().mean() + (features.square().mean() if pooled else 0)).backward()
    idle = {id(parameter) for part in idle_parts(network, pooled) for parameter in part.parameters()}
    without = {id(parameter) for parameter in network.parameters() if parameter.grad is None}
    assert without == idle


def test_a_network_without_head_that_pools_its_map_has_no_idle_part() -> None:
    assert idle_parts(small_resnet(feed_forward=False), pooled=False) == []
    assert idle_parts(PaperResNet(None), pooled=True) == []


@pytest.mark.parametrize("workflow", ["pretrain", "train"])
def test_the_configured_encoder_has_stride_32(workflow: str) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLE / "configs" / f"{workflow}.yaml"))
    network = parser.get_parsed_content("image_encoder" if workflow == "pretrain" else "network_def").eval()
    with torch.no_grad():
        assert image_features(network, torch.zeros(1, 1, 256, 256))[0].shape == (1, 512, 8, 8)


@pytest.mark.parametrize(
    ("network", "sizes"),
    [
        (resnet18(**RESNET, feed_forward=False), (512, 512)),
        (resnet34(**RESNET, feed_forward=False), (512, 512)),
        (resnet50(**RESNET, feed_forward=False), (2048, 2048)),
        (DenseNet121(spatial_dims=2, in_channels=1, out_channels=14), (1024, 1024)),
        (PaperResNet(None), (128, 768)),
        (PaperResNet(14).double(), (128, 768)),
    ],
    ids=["resnet18", "resnet34", "resnet50", "densenet121", "paper", "paper with head, float64"],
)
def test_sizes_of_the_features_are_those_of_the_architecture(network: nn.Module, sizes: tuple[int, int]) -> None:
    assert feature_sizes(network) == sizes


@pytest.mark.parametrize("make", [small_resnet, small_densenet, paper_resnet])
def test_sizes_are_told_without_leaving_a_trace(make) -> None:
    network = make().train()
    frozen = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    before, random_state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    feature_sizes(network)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert {module for module in network.modules() if not module.training} == {frozen}
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
    with pytest.raises(ConfigurationError):
        refuse_image_size(network, 2 if isinstance(network, DenseNet) else 0)
    assert {module for module in network.modules() if not module.training} == {frozen}


def test_an_unknown_network_is_refused_with_what_is_known() -> None:
    network = UNet(2, 1, 1, channels=(4, 8), strides=(2,))
    for refusing in (feature_sizes, lambda network: image_features(network, images())):
        with pytest.raises(ConfigurationError, match=r"UNet; use a 2D ResNet or DenseNet .* or .*PaperResNet"):
            refusing(network)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (small_resnet(n_input_channels=3), "ResNet starts with Conv2d of 3 input channels"),
        (small_resnet(spatial_dims=3), "ResNet starts with Conv3d of 1 input channels"),
        (DenseNet(2, 3, 1, block_config=(1,)), "DenseNet starts with Conv2d of 3 input channels"),
    ],
)
def test_a_network_for_other_pictures_is_refused_when_its_sizes_are_asked_for(network: nn.Module, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        feature_sizes(network)


def test_images_that_vanish_on_the_way_are_refused() -> None:
    refuse_image_size(DenseNet121(spatial_dims=2, in_channels=1, out_channels=1), 64)
    with pytest.raises(ConfigurationError, match="DenseNet121 takes no images of 16 x 16 pixels; raise image_size"):
        refuse_image_size(DenseNet121(spatial_dims=2, in_channels=1, out_channels=1), 16)


def test_resnet_state_has_no_head_and_loads_strictly_into_the_headless_class() -> None:
    network = small_resnet()
    randomise_batch_norm(network)
    state = encoder_state(network)
    assert not [key for key in state if key.startswith("fc")]
    headless = small_resnet(feed_forward=False)
    headless.load_state_dict(state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(headless.eval()(images()), image_features(network.eval(), images())[1])


def test_paper_state_has_no_head_and_loads_strictly_into_the_headless_class() -> None:
    network, headless = paper_resnet(), PaperResNet(None)
    state = encoder_state(network)
    headless.load_state_dict(state, strict=True)
    assert set(network.state_dict()) - set(state) == {"fc.weight", "fc.bias"}


def test_densenet_state_loads_strictly_into_features() -> None:
    network = small_densenet(classes=3)
    other = small_densenet(classes=9)
    other.features.load_state_dict(encoder_state(network), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(image_features(network.eval(), images()), image_features(other.eval(), images()))


@pytest.mark.parametrize(
    ("make", "head", "size"),
    [(small_resnet, "fc", 64), (small_densenet, "class_layers", 64), (paper_resnet, "fc", 256)],
)
def test_loading_an_encoder_leaves_the_head_alone(make, head: str, size: int) -> None:
    source, target = make(), make()
    before = {key: value.clone() for key, value in getattr(target, head).state_dict().items()}
    load_encoder_state(target, encoder_state(source))
    for key, value in getattr(target, head).state_dict().items():
        torch.testing.assert_close(value, before[key])
    with torch.no_grad():
        found = image_features(target.eval(), images(size))
        torch.testing.assert_close(found, image_features(source.eval(), images(size)))


def test_weights_go_from_any_number_of_classes_to_any_other() -> None:
    load_encoder_state(small_resnet(num_classes=14), encoder_state(small_resnet(num_classes=2)))
    load_encoder_state(small_resnet(feed_forward=False), encoder_state(small_resnet(num_classes=2)))
    load_encoder_state(PaperResNet(14), encoder_state(PaperResNet(None)))
    load_encoder_state(PaperResNet(None), encoder_state(PaperResNet(14)))


@pytest.mark.parametrize(
    ("target", "source", "tensors"),
    [
        (small_resnet(), small_densenet(), None),
        (small_densenet(), small_resnet(), None),
        (small_resnet(), small_resnet(n_input_channels=3), 1),
        (small_resnet(bias_downsample=True), small_resnet(), 3),
        (paper_resnet(), small_resnet(), None),
        (small_resnet(), paper_resnet(), None),
    ],
    ids=[
        "densenet into resnet",
        "resnet into densenet",
        "other input channels",
        "other keys",
        "resnet into paper",
        "paper into resnet",
    ],
)
def test_another_architecture_is_refused_and_nothing_is_loaded(
    target: nn.Module, source: nn.Module, tensors: int | None
) -> None:
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ConfigurationError, match=f"do not fit {type(target).__name__}") as refusal:
        load_encoder_state(target, encoder_state(source))
    if tensors is not None:
        assert f"{tensors} of " in str(refusal.value)
    for key, value in target.state_dict().items():
        torch.testing.assert_close(value, before[key])


def test_a_refusal_counts_no_more_tensors_than_there_are() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load_encoder_state(small_resnet(), encoder_state(small_densenet()))
    words = str(refusal.value).split(" tensors differ")[0].split()
    assert int(words[-3]) <= int(words[-1])
