"""Checkpoints and their records: written whole, read without unpickling code, the best one kept across runs.

`model.pt` is a plain state dict; `model.json` beside it says how good it is, what it is of, and what made it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from local_mi.errors import ConfigurationError
from local_mi.files import write_atomically, write_json


def save_checkpoint(network: nn.Module, path: str) -> None:
    """The network's state as a plain state dict on CPU, in place at once."""
    state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_checkpoint(network: nn.Module, path: str, description: dict[str, Any] | None = None) -> None:
    """Load what `save_checkpoint` wrote, strictly.

    Args:
        network: of the same architecture.
        path: of the checkpoint.
        description: what the checkpoint's record, where it has one, must agree on: the same number of outputs does not
            make them the same labels.

    Raises:
        ConfigurationError: missing, damaged, of another architecture, or of something else.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"weights not found: {path}; run the training that writes them, or set `ckpt_dir`")
    record = _valid_record(record_path(path)) or {}
    for key, value in (description or {}).items():
        if key in record and record[key] != value:
            raise ConfigurationError(f"{path} was trained with {key} {record[key]}, not {value}; set `{key}` to that")
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
            f"{path} holds weights of another architecture; name a new run folder (`ckpt_dir`), or delete it "
            "to start afresh"
        )


def record_path(checkpoint: str) -> Path:
    """Where the record of a checkpoint lies: `model.pt` has `model.json` beside it."""
    return Path(checkpoint).with_suffix(".json")


def read_record(checkpoint: str) -> dict[str, Any] | None:
    """The record of a checkpoint, or None where there is no such checkpoint.

    Raises:
        ConfigurationError: there are weights, and no record that says how good they are and of what data.
    """
    if not Path(checkpoint).is_file():
        return None
    digest = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
    for path in (record_path(checkpoint), _next_record_path(checkpoint)):
        record = _valid_record(path)
        if record is not None and record["sha256"] == digest:
            return record
    raise ConfigurationError(
        f"{checkpoint} has no record {record_path(checkpoint).name} of its own beside it, so it cannot be told whether "
        "a run is better; move the weights away, or set `ckpt_dir` to a new folder"
    )


def keep(network: nn.Module, checkpoint: str, record: dict[str, Any]) -> None:
    """Write weights and record so that a kill at any moment leaves a pair that belongs together.

    The new record waits under another name until the weights are in place; the hash tells whose weights they are.
    """
    weights = Path(checkpoint).with_name(f".{Path(checkpoint).name}.next")
    save_checkpoint(network, str(weights))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    write_json(_next_record_path(checkpoint), record | {"sha256": digest})
    weights.replace(checkpoint)
    _next_record_path(checkpoint).replace(record_path(checkpoint))


def _read_state(path: str) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file, torch.load raises whatever it stumbles over
        raise ConfigurationError(f"weights {path} are damaged or not a plain state dict; train again") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ConfigurationError(f"weights {path} are damaged or not a plain state dict; train again")
    return state


def _next_record_path(checkpoint: str) -> Path:
    return Path(checkpoint).with_suffix(".next.json")


def _valid_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {**record, "value": float(record["value"]), "sha256": str(record["sha256"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
