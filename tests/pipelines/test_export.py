"""The exported encoder needs PyTorch, safetensors and MONAI, and gives the training network's features."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from local_mi import weights
from local_mi.errors import ConfigurationError

from pipelines import export
from pipelines.bundle import pretrained_network
from pipelines.demo import DemoResult


def test_the_lines_that_travel_with_it_load_it_anywhere(demo: DemoResult, tmp_path: Path) -> None:
    """An independent check: the folder copied away, loaded in a fresh isolated process, on images of my own."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(demo.folder / "encoder", folder)
    images = np.random.default_rng(1).random((3, 1, 128, 128), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    arguments = [str(folder), str(tmp_path / "images.npy"), str(tmp_path / "features.npy")]
    subprocess.run([sys.executable, "-I", str(folder / "load_encoder.py"), *arguments], check=True, cwd=tmp_path)
    network = pretrained_network(demo.folder / "pretrain").image_encoder
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    assert np.abs(np.load(tmp_path / "features.npy") - expected).max() <= 1e-5


def test_the_description_says_how_images_were_prepared(demo: DemoResult) -> None:
    description = json.loads((demo.folder / "encoder" / "encoder.json").read_text())
    assert description["preprocessing"]["preset"] == "voi"
    assert description["image_size"] == 128
    assert description["network"]["class"] == "ResNet"


def test_an_export_that_gives_other_features_fails_and_writes_nothing(
    demo: DemoResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(network: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {key: value + 0.01 if key == "conv1.weight" else value for key, value in network.state_dict().items()}

    monkeypatch.setattr(weights, "encoder_state", spoiled)
    with pytest.raises(ConfigurationError, match="features that differ"):
        export.export_encoder(demo.folder / "pretrain", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no pretrain run"):
        export.export_encoder(tmp_path, tmp_path / "out")
