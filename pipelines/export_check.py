"""Whether an export keeps its promise: every format loaded in a fresh process without this project, and compared."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from local_mi.errors import ConfigurationError
from numpy.typing import NDArray
from torch import nn

from pipelines.export_networks import Kind

PROGRAM = Path(__file__).with_name("export_reload.py")
BATCH = 3  # and a batch of 1: the number of images must not be fixed
ROUNDING = 1e-5  # of the largest output: the same operations in another process, possibly of more threads
REORDERED = 1e-4  # ONNX Runtime merges convolutions with batch norms, which rounds weights anew
TOLERANCES = {"onnx": REORDERED}
OTHERS = ("timm", "torchvision")  # where these cannot load the weights, it may be their version


def check_exports(
    networks: Mapping[Kind, tuple[nn.Module, int]], folder: Path, work: Path
) -> dict[Kind, tuple[dict[str, float], list[str]]]:
    """Load exported folders in a fresh process and compare their outputs on random images with the trained networks'.

    Args:
        networks: as trained, with the side of their images in pixels, by the name of the folder.
        folder: that holds the folders.
        work: a folder for what is compared.

    Returns:
        By the name of the folder: of each format the largest absolute difference, and notes on what was not compared.

    Raises:
        ConfigurationError: a format cannot be loaded without this project, or gives other outputs.
    """
    expected = {name: _outputs(*network, work / name) for name, network in networks.items()}
    reload_elsewhere([folder / name for name in networks], work)
    return {name: _compare(name, work / name, outputs) for name, outputs in expected.items()}


def reload_elsewhere(folders: Sequence[Path], work: Path) -> None:
    """Run `export_reload.py` in a process that has no folder of this project's on its path, and imports none.

    Raises:
        ConfigurationError: it fails, or a module of this project took part.
    """
    command = [sys.executable, "-P", str(PROGRAM), str(work), *map(str, folders)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work)
    if result.returncode:
        last = result.stderr.strip().splitlines()[-1:] or [f"it ended with {result.returncode}"]
        raise ConfigurationError(f"the export cannot be loaded without this project: {last[0]}")


def _outputs(network: nn.Module, size: int, work: Path) -> dict[str, NDArray[np.float32]]:
    """Of a batch of 1 and of `BATCH` images, which are left in `work`."""
    work.mkdir()
    images = np.random.default_rng(0).random((BATCH, 1, size, size), dtype=np.float32)
    np.save(work / "images.npy", images)
    with torch.no_grad():
        outputs = {"one": network(torch.from_numpy(images[:1])), "all": network(torch.from_numpy(images))}
    return {name: output.numpy() for name, output in outputs.items()}


def _compare(name: str, work: Path, expected: dict[str, NDArray[np.float32]]) -> tuple[dict[str, float], list[str]]:
    failed = json.loads((work / "failed.json").read_text(encoding="utf-8"))
    for format_name, reason in failed.items():
        if format_name not in OTHERS:
            raise ConfigurationError(f"the {name} as {format_name} cannot be loaded without this project: {reason}")
    scale = max(float(np.abs(output).max()) for output in expected.values())
    differences = {}
    for path in sorted(work.glob("*.npz")):
        difference = differences[path.stem] = _largest_difference(path, expected)
        tolerance = TOLERANCES.get(path.stem, ROUNDING) * scale
        if not difference <= tolerance:
            raise ConfigurationError(
                f"the {name} as {path.stem} gives outputs that differ by {difference:.2g} from the trained network's, "
                f"more than {tolerance:.2g}; nothing was written"
            )
    return differences, [f"{other} did not load the {name} here: {reason}" for other, reason in failed.items()]


def _largest_difference(path: Path, expected: dict[str, NDArray[np.float32]]) -> float:
    with np.load(path) as found:
        if any(found[name].shape != output.shape for name, output in expected.items()):
            return float("inf")
        return max(float(np.abs(found[name] - output).max()) for name, output in expected.items())
