"""Weights of the image encoder as safetensors: written with what describes them, and started from."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from local_mi.encoders import encoder_state, load_encoder_state
from local_mi.errors import ConfigurationError
from local_mi.files import write_atomically


def save_encoder(network: nn.Module, path: str, description: dict[str, Any]) -> None:
    """The image encoder's state as safetensors, in the key layout of the plain MONAI class.

    Args:
        network: the plain network, with or without head.
        path: ends in `.safetensors`.
        description: travels in the file's metadata as JSON: network, preprocessing, provenance.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in encoder_state(network).items()}
    metadata = {"format": "pt", "description": json.dumps(description, sort_keys=True)}
    write_atomically(path, lambda temporary: _save(state, temporary, metadata))


def _save(state: dict[str, Tensor], path: str, metadata: dict[str, str]) -> None:
    """Save, with the error that `torch.save` has for a full disk: `write_atomically` knows no safetensors."""
    try:
        save_file(state, path, metadata=metadata)
    except SafetensorError as error:
        raise RuntimeError(str(error)) from error


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


def start_from(network: nn.Module, pretrained: str | None, preprocessing: dict[str, Any]) -> nn.Module:
    """The network with encoder weights from `pretrained`, or as it is where that is None; the head is left alone.

    Args:
        network: of the architecture that the weights are of.
        pretrained: path of the weights, or None.
        preprocessing: of the images at hand (`datalist.preprocessing_of`).

    Raises:
        ConfigurationError: the weights are missing, do not fit, or are of images prepared by another preset.
    """
    if pretrained is None:
        return network
    state, description = read_encoder(pretrained)
    trained_on = description.get("preprocessing", {})
    if trained_on.get("preset") != preprocessing.get("preset"):
        raise ConfigurationError(
            f"{pretrained} was trained on images prepared as {trained_on}, and these are prepared as {preprocessing}; "
            "ingest with the preset of the weights"
        )
    load_encoder_state(network, state)
    return network
