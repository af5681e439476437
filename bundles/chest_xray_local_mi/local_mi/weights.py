"""Checkpoints and encoder weights: written whole, read without unpickling code."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from local_mi.encoders import encoder_state, load_encoder_state
from local_mi.errors import ConfigurationError
from local_mi.files import write_atomically

if TYPE_CHECKING:
    from local_mi.network import LocalMINetwork


def save_checkpoint(network: nn.Module, path: str) -> None:
    """The network's state as a plain state dict on CPU, in place at once."""
    state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_checkpoint(network: nn.Module, path: str) -> None:
    """Load what `save_checkpoint` wrote, strictly.

    Raises:
        ConfigurationError: missing, damaged, or of another architecture.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"weights not found: {path}; run the training that writes them, or set `ckpt_dir`")
    state = _read_state(path)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ConfigurationError(
            f"weights {path} do not fit {type(network).__name__} as configured; use the configuration of their run"
        ) from error


def refuse_other_architecture(network: nn.Module, path: str) -> None:
    """Raise ConfigurationError where a checkpoint's tensors differ from the network's in name or shape."""
    kept = {key: value.shape for key, value in _read_state(path).items()}
    if kept != {key: value.shape for key, value in network.state_dict().items()}:
        raise ConfigurationError(
            f"{path} holds weights of another architecture; set `ckpt_dir` to a new folder, or delete it to start "
            "afresh"
        )


def _read_state(path: str) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file, torch.load raises whatever it stumbles over
        raise ConfigurationError(f"weights {path} are damaged or not a plain state dict; train again") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ConfigurationError(f"weights {path} are damaged or not a plain state dict; train again")
    return state


def save_encoder(network: nn.Module, path: str, description: dict[str, Any]) -> None:
    """The image encoder's state as safetensors, in the key layout of the plain MONAI class.

    Args:
        network: the plain network, with or without head.
        path: ends in `.safetensors`.
        description: travels in the file's metadata as JSON: network, preprocessing, provenance.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in encoder_state(network).items()}
    metadata = {"format": "pt", "description": json.dumps(description, sort_keys=True)}
    write_atomically(path, lambda temporary: save_file(state, temporary, metadata=metadata))


def export_best(network: "LocalMINetwork", checkpoint: str, path: str, description: dict[str, Any]) -> None:
    """Write the image encoder of the best checkpoint of a pretraining network, on the first process alone."""
    if idist.get_rank() == 0:
        load_checkpoint(network, checkpoint)
        save_encoder(network.image_encoder, path, description)


def read_encoder(path: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State and description of what `save_encoder` wrote.

    Raises:
        ConfigurationError: missing or not safetensors.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"encoder weights not found: {path}; run pretraining first, or set `pretrained`")
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {}).get("description", "{}"))
        return load_file(path), description
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"encoder weights {path} are not a whole safetensors file; export them again"
        ) from error


def start_from(network: nn.Module, pretrained: str | None) -> nn.Module:
    """The network with encoder weights from `pretrained`, or as it is where that is None; the head is left alone."""
    if pretrained is not None:
        load_encoder_state(network, read_encoder(pretrained)[0])
    return network
