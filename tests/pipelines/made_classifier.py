"""An exported classifier for tests of prediction: real files around a small network with random weights."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from monai.networks import nets
from safetensors.torch import save_file

NAMES = ["Edema", "Fracture", "Pleural Effusion"]
NETWORK = {
    "spatial_dims": 2,
    "n_input_channels": 1,
    "conv1_t_stride": 2,
    "bias_downsample": False,
    "widen_factor": 0.125,
    "num_classes": len(NAMES),
}
CALIBRATION = {"temperature": {"Edema": 2.0, "Fracture": 0.5}, "threshold": {"Edema": 0.5, "Pleural Effusion": 0.5}}
PREPARATION = {
    "preset": "voi",
    "size": 96,
    "bit_depth": 8,
    "interpolation": "area",
    "crop": False,
    "reduced_resolution": False,
}


def random_network(seed: int = 0) -> torch.nn.Module:
    """Batch norms as after training, and logits that lie around 0 with a deviation of 1 for smooth pictures."""
    torch.manual_seed(seed)
    network = nets.resnet18(**NETWORK)
    pictures = torch.nn.functional.interpolate(torch.rand(32, 1, 5, 5), (64, 64), mode="bilinear")
    with torch.no_grad():
        network.train()(pictures)
        network.eval()
        logits = network(pictures)
        network.fc.weight.div_(logits.std(dim=0)[:, None])
        network.fc.bias.sub_(logits.mean(dim=0)).div_(logits.std(dim=0))
    return network


def write_classifier(folder: Path, trained: torch.nn.Module | None = None, **described: Any) -> Path:
    """Write `config.json` and `model.safetensors`, with fields of the former set."""
    folder.mkdir(parents=True)
    state = {key: value.contiguous() for key, value in (trained or random_network()).state_dict().items()}
    save_file(state, folder / "model.safetensors")
    description = {
        "kind": "classifier",
        "network": {"class": "resnet18", "arguments": NETWORK, "file": None, "part": None},
        "image_size": 64,
        "views": ["PA", "AP", "UNKNOWN"],
        "label_names": NAMES,
        "preprocessing": PREPARATION,
        "calibration": CALIBRATION,
        "weights_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
    }
    (folder / "config.json").write_text(json.dumps(description | described))
    return folder
