"""Loads model.safetensors of its folder with PyTorch, safetensors and MONAI alone, and runs it.

As a module: `from load_model import load_model; network = load_model("FOLDER")`.
As a program: `python load_model.py FOLDER images.npy outputs.npy`, images float32 (N, 1, rows, columns) in [0, 1].
"""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from monai.networks import nets
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn


def load_model(folder: str | Path) -> nn.Module:
    """The network in evaluation mode: (N, 1, rows, columns) in [0, 1] -> logits or features, as config.json says.

    Raises:
        ValueError: the weights are no safetensors file, or not those that config.json is of.
    """
    config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    made = config["network"]
    networks = _module_beside(Path(folder) / made["file"]) if made["file"] else nets
    network: nn.Module = getattr(networks, made["class"])(**made["arguments"])
    if made["part"]:
        network = getattr(network, made["part"])
    network.load_state_dict(_weights(Path(folder) / "model.safetensors", config["weights_sha256"]), strict=True)
    return network.eval()


def _weights(path: Path, sha256: str) -> dict[str, Tensor]:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path} is damaged, or config.json is of other weights; copy the whole folder again")
    try:
        state: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file; nothing else is loaded, since it could hold code") from error
    return state


def _module_beside(path: Path) -> ModuleType:
    """The network's own file, where its class is none of MONAI's."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    model, images, outputs = sys.argv[1:]
    with torch.no_grad():
        np.save(outputs, load_model(model)(torch.from_numpy(np.load(images))).numpy())
