"""Region features come out of MONAI's own classes, and their weights go back into them without this package."""

from pathlib import Path

import pytest
import torch
from local_mi.encoders import encoder_state, feature_channels, feature_map, load_encoder_state
from local_mi.errors import ConfigurationError
from monai.bundle import ConfigParser
from monai.networks.nets import DenseNet, DenseNet121, ResNet, UNet, resnet18

BUNDLE = Path(__file__).parents[2] / "bundles" / "chest_xray_local_mi"


def small_resnet(**settings: object) -> ResNet:
    """A ResNet of the bundle's kind, thin enough for a test."""
    defaults = {"spatial_dims": 2, "n_input_channels": 1, "conv1_t_stride": 2, "bias_downsample": False}
    return resnet18(**(defaults | {"widen_factor": 0.125, "num_classes": 3} | settings))


def small_densenet(classes: int = 3) -> DenseNet:
    return DenseNet(
        spatial_dims=2, in_channels=1, out_channels=classes, init_features=8, growth_rate=4, block_config=(2, 2)
    )


def images(size: int = 64) -> torch.Tensor:
    return torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(0))


def randomise_batch_norm(network: torch.nn.Module) -> None:
    """Batch norms as after training; as made they are the identity in eval mode and would hide one that is missing."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)


@pytest.mark.parametrize(
    "network",
    [small_resnet(), small_resnet(no_max_pool=True), small_resnet(conv1_t_stride=1, shortcut_type="A")],
    ids=["resnet", "without max pool", "stride 16"],
)
def test_pooled_resnet_regions_are_the_plain_networks_features(network: ResNet) -> None:
    randomise_batch_norm(network)
    network.eval()
    with torch.no_grad():
        pooled = feature_map(network, images()).mean(dim=(2, 3))
        torch.testing.assert_close(network.fc(pooled), network(images()))
        network.fc = None
        torch.testing.assert_close(pooled, network(images()))


def test_pooled_densenet_regions_are_the_plain_networks_features() -> None:
    network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=3)
    randomise_batch_norm(network)
    network.eval()
    with torch.no_grad():
        pooled = feature_map(network, images()).mean(dim=(2, 3))
        torch.testing.assert_close(network.class_layers.out(pooled), network(images()))


def test_training_gradients_reach_every_encoder_weight() -> None:
    for network in (small_resnet(feed_forward=False), small_densenet().train()):
        feature_map(network, images()).square().mean().backward()
        without = [name for name, p in network.named_parameters() if p.grad is None and "class_layers" not in name]
        assert without == []


@pytest.mark.parametrize("workflow", ["pretrain", "train"])
def test_the_configured_encoder_has_stride_32(workflow: str) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLE / "configs" / f"{workflow}.yaml"))
    network = parser.get_parsed_content("image_encoder" if workflow == "pretrain" else "network_def").eval()
    with torch.no_grad():
        assert feature_map(network, torch.zeros(1, 1, 256, 256)).shape == (1, 512, 8, 8)


def test_number_of_channels_is_told_without_leaving_a_trace() -> None:
    network = small_resnet().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert feature_channels(network) == 64
    assert feature_channels(small_densenet()) == 8 + 2 * 4 - 8 + 2 * 4
    assert network.training
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key])


def test_an_unknown_network_is_refused_with_what_is_known() -> None:
    network = UNet(2, 1, 1, channels=(4, 8), strides=(2,))
    with pytest.raises(ConfigurationError, match="UNet; use a 2D ResNet or DenseNet"):
        feature_map(network, images())


def test_resnet_state_has_no_head_and_loads_strictly_into_the_headless_class() -> None:
    network = small_resnet()
    randomise_batch_norm(network)
    state = encoder_state(network)
    assert not [key for key in state if key.startswith("fc")]
    headless = small_resnet(feed_forward=False)
    headless.load_state_dict(state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(headless.eval()(images()), feature_map(network.eval(), images()).mean(dim=(2, 3)))


def test_densenet_state_loads_strictly_into_features() -> None:
    network = small_densenet(classes=3)
    other = small_densenet(classes=9)
    other.features.load_state_dict(encoder_state(network), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(feature_map(network.eval(), images()), feature_map(other.eval(), images()))


@pytest.mark.parametrize(("make", "head"), [(small_resnet, "fc"), (small_densenet, "class_layers")])
def test_loading_an_encoder_leaves_the_head_alone(make, head: str) -> None:
    source, target = make(), make()
    before = {key: value.clone() for key, value in getattr(target, head).state_dict().items()}
    load_encoder_state(target, encoder_state(source))
    for key, value in getattr(target, head).state_dict().items():
        torch.testing.assert_close(value, before[key])
    with torch.no_grad():
        torch.testing.assert_close(feature_map(source.eval(), images()), feature_map(target.eval(), images()))


def test_weights_go_from_any_number_of_classes_to_any_other() -> None:
    load_encoder_state(small_resnet(num_classes=14), encoder_state(small_resnet(num_classes=2)))
    load_encoder_state(small_resnet(feed_forward=False), encoder_state(small_resnet(num_classes=2)))


@pytest.mark.parametrize(
    ("target", "source", "tensors"),
    [
        (small_resnet(), small_densenet(), None),
        (small_densenet(), small_resnet(), None),
        (small_resnet(), small_resnet(n_input_channels=3), 1),
        (small_resnet(bias_downsample=True), small_resnet(), 3),
    ],
    ids=["densenet into resnet", "resnet into densenet", "other input channels", "other keys"],
)
def test_another_architecture_is_refused_and_nothing_is_loaded(
    target: torch.nn.Module, source: torch.nn.Module, tensors: int | None
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
