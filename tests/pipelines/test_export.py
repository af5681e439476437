"""The exported encoder needs PyTorch, safetensors and MONAI, and gives the training network's features."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from local_mi import weights
from local_mi.encoders import image_features
from local_mi.errors import ConfigurationError
from monai.bundle import ConfigParser
from warm_python import WarmPython

from pipelines import export
from pipelines.bundle import pretrained_network
from pipelines.demo import DemoResult

FILES = ["encoder.json", "encoder.safetensors", "load_encoder.py"]
PAPER = {"_target_": "local_mi.paper_resnet.PaperResNet", "num_classes": None}
DENSENET = {
    "_target_": "monai.networks.nets.DenseNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "init_features": 8,
    "growth_rate": 4,
    "block_config": [2, 2],
}


def loaded_elsewhere(exported: Path, folder: Path) -> torch.nn.Module:
    """By the lines that travel with it, from a copy; `write_export` has shown that they need nothing of ours."""
    shutil.copytree(exported, folder)
    encoder: torch.nn.Module = runpy.run_path(str(folder / "load_encoder.py"))["load_encoder"](folder)
    return encoder


def trained(configuration: dict[str, Any]) -> Any:
    """A network of a configuration, its batch norms as after training."""
    network = ConfigParser(configuration).get_parsed_content("image_encoder")
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


@pytest.fixture
def warm_check(
    monkeypatch: pytest.MonkeyPatch, warm_python: WarmPython, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The check of an export, in a process that need not import PyTorch and MONAI first."""
    script = tmp_path_factory.mktemp("check") / "check.py"
    script.write_text(export._CHECK)

    def features(folder: Path) -> np.ndarray:
        done = warm_python.run(
            script, folder / "load_encoder.py", folder, folder / "images.npy", folder / "features.npy"
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return np.load(folder / "features.npy")

    monkeypatch.setattr(export, "_features_in_fresh_process", features)


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


@pytest.mark.usefixtures("warm_check")
def test_the_papers_network_travels_with_the_file_that_makes_it(tmp_path: Path) -> None:
    configuration = {"image_encoder": PAPER}
    network = trained(configuration)
    description = {"image_size": 256, "network": export.network_description(configuration)}
    exported = export.write_export(network, description, tmp_path / "out")
    assert sorted(path.name for path in exported.folder.iterdir()) == [*FILES, "paper_resnet.py"]
    images = torch.rand(2, 1, 256, 256)
    with torch.no_grad():
        found = loaded_elsewhere(exported.folder, tmp_path / "elsewhere")(images)
        _, pooled = image_features(network, images)
    assert found.shape == (2, 768)
    torch.testing.assert_close(found, pooled)


@pytest.mark.usefixtures("warm_check")
def test_a_densenet_is_exported_as_its_features_over_an_earlier_export(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for file in (*FILES, "paper_resnet.py"):
        (tmp_path / "out" / file).write_text("of an earlier export")
    configuration = {"image_encoder": DENSENET}
    network = trained(configuration)
    description = {"image_size": 64, "network": export.network_description(configuration)}
    exported = export.write_export(network, description, tmp_path / "out")
    assert sorted(path.name for path in exported.folder.iterdir()) == FILES
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        found = loaded_elsewhere(exported.folder, tmp_path / "elsewhere")(images)
        local_map, _ = image_features(network, images)
    torch.testing.assert_close(found.relu(), local_map)


@pytest.mark.parametrize("target", ["local_mi.critics.SeparableCritic", "torchvision.models.resnet18"])
def test_a_network_that_others_could_not_make_is_not_exported(target: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{target} cannot be exported"):
        export.network_description({"image_encoder": {"_target_": target}})


@pytest.mark.parametrize("target", ["resnet18", "monai.networks.nets.resnet18"])
def test_a_network_of_monai_is_described_by_its_name(target: str) -> None:
    assert export.network_description({"image_encoder": {"_target_": target, "spatial_dims": 2}}) == {
        "class": "resnet18",
        "arguments": {"spatial_dims": 2},
        "file": None,
        "part": None,
    }


def test_the_description_says_how_images_were_prepared(demo: DemoResult) -> None:
    description = json.loads((demo.folder / "encoder" / "encoder.json").read_text())
    assert description["preprocessing"]["preset"] == "voi"
    assert description["image_size"] == 128
    assert description["network"]["class"] == "ResNet"


@pytest.mark.usefixtures("warm_check")
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
