"""The image encoder as a file that PyTorch, safetensors and MONAI load without this project.

Writes `encoder.safetensors` (weights in the key layout of a plain `monai.networks.nets` class), `encoder.json` (which
class with which arguments, how images were prepared, a hash) and `load_encoder.py` (the few lines that load it). The
paper's network is no class of MONAI's, so the file that makes it from MONAI's blocks is copied beside them. Those very
lines are then run in a fresh process, and their features are compared with the training network's.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from local_mi import paper_resnet
from local_mi.errors import ConfigurationError
from local_mi.files import write_json
from local_mi.weights import read_encoder, save_encoder
from monai.bundle import ConfigParser
from torch import nn

from pipelines.bundle import ENCODER, pretrained_network, run_configuration

TOLERANCE = 1e-5  # largest difference of a feature that is rounding, not another network
CHECKED_IMAGES = 4
MONAI_NETWORKS = "monai.networks.nets."
PAPER_NETWORK = f"{paper_resnet.__name__}.{paper_resnet.PaperResNet.__name__}"
PAPER_FILE = "paper_resnet.py"
EXPORTED = ("encoder.safetensors", "encoder.json", "load_encoder.py", PAPER_FILE)

LOAD_ENCODER = '''"""Loads encoder.safetensors with PyTorch, safetensors and MONAI alone, and computes features.

As a module: `from load_encoder import load_encoder; encoder = load_encoder("FOLDER")`.
As a program: `python load_encoder.py FOLDER images.npy features.npy`, images float32 (N, 1, rows, columns) in [0, 1].
"""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import torch
from monai.networks import nets
from safetensors.torch import load_file


def load_encoder(folder):
    """The encoder in evaluation mode: (N, 1, rows, columns) in [0, 1] -> features."""
    weights = Path(folder) / "encoder.safetensors"
    description = json.loads((Path(folder) / "encoder.json").read_text())
    if hashlib.sha256(weights.read_bytes()).hexdigest() != description["weights_sha256"]:
        raise ValueError(f"{weights} and encoder.json are not of one export")
    made = description["network"]
    module = _module_beside(folder, made["file"]) if made["file"] else nets
    network = getattr(module, made["class"])(**made["arguments"])
    if made["part"]:
        network = getattr(network, made["part"])
    network.load_state_dict(load_file(weights), strict=True)
    return network.eval()


def _module_beside(folder, file):
    """The network's own file, where its class is none of MONAI's."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, Path(folder) / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    folder, images, features = sys.argv[1:]
    with torch.no_grad():
        np.save(features, load_encoder(folder)(torch.from_numpy(np.load(images))).numpy())
'''

# Run instead of the program itself, to show that no line of this project took part.
_CHECK = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
ours = sorted(name for name in sys.modules if name.split(".")[0] in ("local_mi", "pipelines", "preprocessing"))
if ours:
    sys.exit("modules of this project were loaded: " + ", ".join(ours))
"""


@dataclass(frozen=True)
class ExportedEncoder:
    """What `export_encoder` wrote.

    Args:
        folder: with `encoder.safetensors`, `encoder.json`, `load_encoder.py` and, for the paper's network,
            `paper_resnet.py`.
        difference: largest absolute difference between a feature of the file, loaded in a fresh process without this
            project, and of the training network.
    """

    folder: Path
    difference: float


def export_encoder(run: Path, folder: Path) -> ExportedEncoder:
    """Export the image encoder of a pretraining run and check the export.

    Args:
        run: folder of the pretraining run.
        folder: where the files go; made if needed, files of an earlier export are replaced.

    Raises:
        ConfigurationError: the run is not there, or the exported file gives other features.
    """
    network = pretrained_network(run).image_encoder
    description = read_encoder(str(run / "models" / ENCODER))[1]
    made_of = network_description(run_configuration(run, "pretrain"))
    return write_export(network, description | {"network": made_of}, folder)


def network_description(configuration: dict[str, Any]) -> dict[str, Any]:
    """How `load_encoder.py` makes the network of a pretraining configuration.

    Returns:
        `class` with its `arguments`, the `file` beside the weights that holds it (None: `monai.networks.nets` does),
        and the `part` of it that is the encoder (None: all of it).

    Raises:
        ConfigurationError: a network that is neither MONAI's nor the paper's.
    """
    component = ConfigParser(configuration).get_parsed_content("image_encoder", instantiate=False)
    arguments = dict(component.get_config())
    target = str(arguments.pop("_target_"))
    name = target.rpartition(".")[2]
    if target == PAPER_NETWORK:
        return {"class": name, "arguments": arguments, "file": PAPER_FILE, "part": None}
    if target not in (name, f"{MONAI_NETWORKS}{name}"):
        raise ConfigurationError(
            f"the encoder {target} cannot be exported: it is neither of {MONAI_NETWORKS}* nor {PAPER_NETWORK}"
        )
    part = "features" if name.lower().startswith("densenet") else None
    return {"class": name, "arguments": arguments, "file": None, "part": part}


def write_export(network: nn.Module, description: dict[str, Any], folder: Path) -> ExportedEncoder:
    """Export a network and check the export.

    Args:
        network: as trained, in evaluation mode.
        description: `network` (see `network_description`), `image_size`, and what else is to be told.
        folder: where the files go.

    Raises:
        ConfigurationError: the exported file gives other features; then nothing is written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export_") as temporary:
        made = Path(temporary)
        _write_files(made, network, description)
        difference = _largest_difference(made, network, int(description["image_size"]))
        if not difference <= TOLERANCE:
            raise ConfigurationError(
                f"the exported encoder gives features that differ by {difference:.2g} from the training network's, "
                f"more than {TOLERANCE:g}; nothing was written to {folder}"
            )
        folder.mkdir(exist_ok=True)
        for file in EXPORTED:
            if (made / file).exists():
                (made / file).replace(folder / file)
            else:
                (folder / file).unlink(missing_ok=True)
    return ExportedEncoder(folder, difference)


def _write_files(folder: Path, network: nn.Module, description: dict[str, Any]) -> None:
    weights = folder / "encoder.safetensors"
    save_encoder(network, str(weights), description)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    write_json(folder / "encoder.json", description | {"weights_sha256": digest})
    (folder / "load_encoder.py").write_text(LOAD_ENCODER, encoding="utf-8")
    if description["network"]["file"]:
        shutil.copyfile(str(paper_resnet.__file__), folder / PAPER_FILE)


def _largest_difference(folder: Path, network: nn.Module, size: int) -> float:
    """Largest difference of a feature between a fresh process and here, on random images."""
    images = np.random.default_rng(0).random((CHECKED_IMAGES, 1, size, size), dtype=np.float32)
    part = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))["network"]["part"]
    encoder = getattr(network, part) if part else network
    with torch.no_grad():
        expected = encoder(torch.from_numpy(images)).numpy()
    np.save(folder / "images.npy", images)
    found = _features_in_fresh_process(folder)
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")


def _features_in_fresh_process(folder: Path) -> np.ndarray[Any, Any]:
    names = ("load_encoder.py", "", "images.npy", "features.npy")
    arguments = [str(folder / name) if name else str(folder) for name in names]
    result = subprocess.run(
        [sys.executable, "-P", "-c", _CHECK, *arguments], capture_output=True, text=True, check=False
    )
    if result.returncode:
        last = result.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ConfigurationError(f"the exported encoder cannot be loaded by PyTorch and MONAI alone: {last[0]}")
    features: np.ndarray[Any, Any] = np.load(folder / "features.npy")
    return features
