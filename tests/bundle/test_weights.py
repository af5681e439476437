"""Weights are written whole and read without unpickling code; what cannot be read is one clear sentence."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi import weights
from local_mi.checkpoints import keep, load_checkpoint, save_checkpoint
from local_mi.errors import ConfigurationError
from local_mi.paper_resnet import PaperResNet
from local_mi.weights import read_encoder, save_encoder, start_from
from monai.networks.nets import ResNet, resnet18
from safetensors.torch import load_file
from torch import nn


def small_resnet(**settings: Any) -> ResNet:
    defaults = {"spatial_dims": 2, "n_input_channels": 1, "widen_factor": 0.125, "num_classes": 3}
    return resnet18(**(defaults | settings))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return list(left) == list(right) and all(torch.equal(left[key], right[key]) for key in left)


class Executable:
    """Pickled, it creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    network, other = small_resnet(), small_resnet()
    path = str(tmp_path / "new" / "model.pt")
    save_checkpoint(network, path)
    assert not same_weights(network, other)
    load_checkpoint(other, path)
    assert same_weights(network, other)


def test_a_checkpoint_is_a_plain_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(nn.Linear(2, 3).requires_grad_(), str(path))
    state = torch.load(path, weights_only=True)
    assert {key: (type(value), value.requires_grad) for key, value in state.items()} == {
        "weight": (torch.Tensor, False),
        "bias": (torch.Tensor, False),
    }


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"not found: .*gone\.pt; run the training"):
        load_checkpoint(small_resnet(), str(tmp_path / "gone.pt"))
    with pytest.raises(ConfigurationError, match=r"not found: .*gone\.safetensors; run pretraining first, or set"):
        read_encoder(str(tmp_path / "gone.safetensors"))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"weight": x}], ids=["alone", "in a state dict"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, wrap: Any) -> None:
    trace = tmp_path / "executed"
    torch.save(wrap(Executable(trace)), tmp_path / "model.pt")
    with pytest.raises(ConfigurationError, match=r"model\.pt"):
        load_checkpoint(nn.Linear(2, 3), str(tmp_path / "model.pt"))
    assert not trace.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_weights_are_called_damaged(tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(nn.Linear(50, 50), str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ConfigurationError, match="damaged"):
        load_checkpoint(nn.Linear(50, 50), str(path))


@pytest.mark.parametrize("content", [[1, 2], 3.0, "text", None, {"model": {}}, {1: torch.zeros(1)}, {"weight": 3}])
def test_a_file_that_holds_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ConfigurationError, match=r"model\.pt"):
        load_checkpoint(nn.Linear(2, 3), str(tmp_path / "model.pt"))


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=30).map(str.encode))
def test_no_file_whatever_raises_anything_else(garbage: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(garbage)
        with pytest.raises(ConfigurationError):
            load_checkpoint(nn.Linear(2, 3), str(path))
        with pytest.raises(ConfigurationError):
            read_encoder(str(path))


@pytest.mark.parametrize("other", [{"num_classes": 4}, {"n_input_channels": 3}, {"feed_forward": False}])
def test_weights_of_another_architecture_are_refused_as_such(tmp_path: Path, other: dict[str, Any]) -> None:
    path = str(tmp_path / "model.pt")
    save_checkpoint(small_resnet(**other), path)
    with pytest.raises(ConfigurationError, match="do not fit ResNet as configured"):
        load_checkpoint(small_resnet(), path)


def fail_half_way(content: Any, path: str, **_: Any) -> None:
    """As a full disk does."""
    Path(path).write_bytes(b"half")
    raise OSError(28, "No space left on device")


def test_a_failing_write_leaves_the_old_weights_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, checkpoint, encoder = small_resnet(), tmp_path / "model.pt", tmp_path / "image_encoder.safetensors"
    save_checkpoint(network, str(checkpoint))
    save_encoder(network, str(encoder), {})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(torch, "save", fail_half_way)
    monkeypatch.setattr(weights, "save_file", fail_half_way)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(small_resnet(), str(checkpoint))
    with pytest.raises(OSError, match="No space left"):
        save_encoder(small_resnet(), str(encoder), {})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_saving_leaves_no_temporary_file_and_others_may_read(tmp_path: Path) -> None:
    save_checkpoint(nn.Linear(2, 3), str(tmp_path / "model.pt"))
    save_checkpoint(nn.Linear(2, 3), str(tmp_path / "model.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert (tmp_path / "model.pt").stat().st_mode & 0o777 == 0o644


def test_an_encoder_comes_back_with_its_description(tmp_path: Path) -> None:
    path = str(tmp_path / "image_encoder.safetensors")
    network = small_resnet()
    description = {"image_size": 256, "preprocessing": {"preset": "voi"}, "name": "é"}
    save_encoder(network, path, description)
    state, found = read_encoder(path)
    assert found == description
    assert sorted(state) == sorted(key for key in network.state_dict() if not key.startswith("fc."))
    assert all(torch.equal(state[key], network.state_dict()[key]) for key in state)


def test_an_exported_encoder_loads_without_this_package(tmp_path: Path) -> None:
    path = tmp_path / "image_encoder.safetensors"
    network = small_resnet().eval()
    save_encoder(network, str(path), {})
    plain = small_resnet(feed_forward=False).eval()
    plain.load_state_dict(load_file(path), strict=True)
    network.fc = None
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain(image), network(image))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_encoder_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "image_encoder.safetensors"
    save_encoder(small_resnet(), str(path), {})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ConfigurationError, match=r"image_encoder\.safetensors are not a whole safetensors file"):
        read_encoder(str(path))


def test_training_starts_from_encoder_weights_or_from_none(tmp_path: Path) -> None:
    path = str(tmp_path / "image_encoder.safetensors")
    pretrained, network = small_resnet(num_classes=9), small_resnet()
    save_encoder(pretrained, path, {})
    as_it_was = {key: value.clone() for key, value in network.state_dict().items()}
    assert start_from(network, None, {}) is network
    assert all(torch.equal(value, as_it_was[key]) for key, value in network.state_dict().items())
    assert start_from(network, path, {}) is network
    for key, value in network.state_dict().items():
        assert torch.equal(value, as_it_was[key] if key.startswith("fc.") else pretrained.state_dict()[key])


def test_training_starts_from_the_papers_network_whatever_its_memory_format(tmp_path: Path) -> None:
    path = str(tmp_path / "image_encoder.safetensors")
    pretrained, network = PaperResNet(None).to(memory_format=torch.channels_last), PaperResNet(5)
    head = network.fc.weight.detach().clone()
    save_encoder(pretrained, path, {"preprocessing": {"preset": "voi"}})
    start_from(network, path, {"preset": "voi"})
    assert torch.equal(network.fc.weight, head)
    for key, value in pretrained.state_dict().items():
        assert torch.equal(network.state_dict()[key], value)


@pytest.mark.parametrize(("trained", "network"), [(small_resnet(), PaperResNet(5)), (PaperResNet(5), small_resnet())])
def test_encoder_weights_of_another_architecture_are_one_sentence(
    tmp_path: Path, trained: nn.Module, network: nn.Module
) -> None:
    path = str(tmp_path / "image_encoder.safetensors")
    save_encoder(trained, path, {})
    with pytest.raises(ConfigurationError, match=f"do not fit {type(network).__name__}: .* use the network") as refusal:
        start_from(network, path, {})
    assert "\n" not in str(refusal.value)


def test_weights_of_another_preset_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "image_encoder.safetensors")
    save_encoder(small_resnet(), path, {"preprocessing": {"preset": "voi"}})
    start_from(small_resnet(), path, {"preset": "voi"})
    with pytest.raises(ConfigurationError, match=r"prepared as \{'preset': 'voi'\}, and these are .*'percentile'"):
        start_from(small_resnet(), path, {"preset": "percentile"})


def test_weights_of_the_same_preset_are_taken_whatever_the_stored_values_were(tmp_path: Path) -> None:
    path = str(tmp_path / "image_encoder.safetensors")
    save_encoder(small_resnet(), path, {"preprocessing": {"preset": "voi", "range": [0, 255]}})
    start_from(small_resnet(), path, {"preset": "voi"})


@pytest.mark.parametrize("other", [{"label_names": ["B", "A"]}, {"image_size": 512}])
def test_a_checkpoint_of_other_labels_or_sizes_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    """As many outputs in another order would load, and every column would be mislabelled."""
    path, trained = str(tmp_path / "model.pt"), {"label_names": ["A", "B"], "image_size": 256}
    keep(nn.Linear(2, 2), path, {"metric": "auc", "value": 0.5, **trained})
    load_checkpoint(nn.Linear(2, 2), path, trained)
    with pytest.raises(ConfigurationError, match=f"was trained with {next(iter(other))}"):
        load_checkpoint(nn.Linear(2, 2), path, trained | other)


def test_no_refusal_is_longer_than_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(nn.Linear(2, 3), str(path))
    with pytest.raises(ConfigurationError) as refusal:
        load_checkpoint(small_resnet(), str(path))
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
