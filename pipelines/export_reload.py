"""A program: loads every format of exported folders, runs it on images, and writes what comes out.

`export_check` runs it by its path in a fresh process, so that it imports nothing of this project; it says so itself if
anything did. `python -P export_reload.py WORK FOLDER...`: for each folder, WORK holds a folder of the same name with
`images.npy`, (3, 1, S, S), and gets in it `FORMAT.npz` with outputs of the first image alone and of all three, or the
reason in `failed.json`.
"""

import importlib
import importlib.util
import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
OURS = ("local_mi", "pipelines", "preprocessing")


def loaders(folder: Path) -> Iterator[tuple[str, Callable[[], Run]]]:
    """What a folder holds, by name, and what loads it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    yield "safetensors", lambda: _of_torch(runpy.run_path(str(folder / "load_model.py"))["load_model"](folder))
    if (folder / "model.ts").exists():
        yield "torchscript", lambda: _of_torch(torch.jit.load(str(folder / "model.ts")))  # type: ignore[no-untyped-call]
    if (folder / "model.pt2").exists():
        yield "torch-export", lambda: _of_torch(torch.export.load(folder / "model.pt2").module())
    if (folder / "model.onnx").exists():
        yield "onnx", lambda: _onnx(folder / "model.onnx")
    if "architecture" in config and importlib.util.find_spec("timm"):
        yield "timm", lambda: _timm(folder)
    if "architecture" in config and importlib.util.find_spec("torchvision"):
        yield "torchvision", lambda: _torchvision(folder, config)


def _of_torch(network: Any) -> Run:
    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            outputs: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
        return outputs

    return run


def _onnx(path: Path) -> Run:
    onnxruntime = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]


def _timm(folder: Path) -> Run:
    timm = importlib.import_module("timm")
    return _of_torch(timm.create_model(f"local-dir:{folder}", pretrained=True).eval())


def _torchvision(folder: Path, config: dict[str, Any]) -> Run:
    from safetensors.torch import load_file

    models = importlib.import_module("torchvision.models")
    network = getattr(models, config["architecture"])(num_classes=config["num_classes"] or 1)
    network.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    if not config["num_classes"]:
        network.fc = torch.nn.Identity()
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return _of_torch(network.eval())


def run_all(folder: Path, work: Path) -> None:
    """Write the outputs of every format of a folder."""
    images = np.load(work / "images.npy")
    failed = {}
    for name, load in loaders(folder):
        try:
            run = load()
            np.savez(work / f"{name}.npz", one=run(images[:1]), all=run(images))
        except Exception as error:  # whatever it is, it is the answer to whether others can load this
            failed[name] = f"{type(error).__name__}: {error}".split("\n", 1)[0]
    (work / "failed.json").write_text(json.dumps(failed), encoding="utf-8")


if __name__ == "__main__":
    for exported in map(Path, sys.argv[2:]):
        run_all(exported, Path(sys.argv[1]) / exported.name)
    if ours := sorted(name for name in sys.modules if name.split(".")[0] in OURS):
        sys.exit("modules of this project were loaded: " + ", ".join(ours))
