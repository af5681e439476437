"""The commands of `python -m monai.bundle` on a trained classifier, from a folder that is not the bundle's.

`run` of every workflow is in test_workflows.py.
"""

import json
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from conftest import BUNDLE, RunBundle
from monai.bundle import ConfigParser, create_workflow
from trained_classifier import NAMES, NETWORK, SIZE, trained_classifier
from warm_python import WarmPython

CONFIGS = BUNDLE / "configs"
IMAGES = torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
Command = Callable[..., str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, run_bundle: RunBundle) -> tuple[Path, Path]:
    return trained_classifier(tmp_path_factory, run_bundle)


@pytest.fixture
def command(warm_python: WarmPython, tmp_path: Path) -> Command:
    """Runs a command of MONAI's in a folder of its own; returns what it says."""

    def run(name: str, **arguments: object) -> str:
        words = [word for key, value in arguments.items() for word in (f"--{key}", str(value))]
        done = warm_python.run("monai.bundle", name, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def logits(trained: tuple[Path, Path]) -> torch.Tensor:
    parser = ConfigParser(ConfigParser.load_config_file(CONFIGS / "inference.yaml"))
    parser.update(NETWORK)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(trained[1] / "models" / "model.pt", weights_only=True))
    with torch.no_grad():
        found: torch.Tensor = network.eval()(IMAGES)
    return found


def test_verify_metadata_without_a_network(command: Command, shared_data: Path, tmp_path: Path) -> None:
    schema = shared_data.parent / "schemas" / "meta_schema_20240725.json"
    (tmp_path / "schema.json").write_bytes(schema.read_bytes())
    said = command("verify_metadata", meta_file=CONFIGS / "metadata.json", filepath=tmp_path / "schema.json")
    assert "metadata is verified with no error" in said


def test_no_name_of_the_metadata_is_one_that_monai_renames() -> None:
    """`optional_packages_version` would replace `required_packages_version` as MONAI reads the file."""
    parser = ConfigParser()
    parser.read_meta(str(CONFIGS / "metadata.json"))
    written = json.loads((CONFIGS / "metadata.json").read_text())
    assert parser["_meta_"] == written
    assert not set(written["required_packages_version"]) & set(written["training_packages_version"])


def test_verify_net_in_out_of_the_shipped_configuration(command: Command) -> None:
    files = {"meta_file": CONFIGS / "metadata.json", "config_file": CONFIGS / "inference.yaml"}
    assert "verified with no error" in command("verify_net_in_out", net_id="network_def", device="cpu", **files)


def test_ckpt_export(command: Command, trained: tuple[Path, Path], logits: torch.Tensor, tmp_path: Path) -> None:
    """TorchScript with the configuration and the metadata inside, and the same answers."""
    files = {"meta_file": CONFIGS / "metadata.json", "config_file": CONFIGS / "inference.yaml"}
    weights = trained[1] / "models" / "model.pt"
    command("ckpt_export", net_id="network_def", filepath=tmp_path / "model.ts", ckpt_file=weights, **files, **NETWORK)
    extra = {"metadata.json": "", "inference.json": ""}
    network = torch.jit.load(tmp_path / "model.ts", _extra_files=extra)
    with torch.no_grad():
        assert torch.equal(network(IMAGES), logits)
    assert json.loads(extra["inference.json"])["network_def"]["_target_"] == "monai.networks.nets.resnet18"
    assert json.loads(extra["metadata.json"])["name"] == "chest_xray_local_mi"


def test_onnx_export_with_any_number_of_images(
    command: Command, trained: tuple[Path, Path], logits: torch.Tensor, tmp_path: Path
) -> None:
    names = {"input_names": ["image"], "output_names": ["logits"], "dynamic_axes": {"image": {0: "images"}}}
    command(
        "onnx_export",
        net_id="network_def",
        filepath=tmp_path / "model.onnx",
        ckpt_file=trained[1] / "models" / "model.pt",
        config_file=CONFIGS / "inference.yaml",
        input_shape=[2, 1, SIZE, SIZE],
        converter_kwargs=names,
        **NETWORK,
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"image": IMAGES.numpy()})
    assert torch.allclose(torch.from_numpy(found), logits, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("train", "train"), ("train", "training"), ("inference", "evaluation")])
def test_workflows_are_made_from_another_folder(
    name: str, kind: str, trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, run = trained
    monkeypatch.chdir(tmp_path)
    where = {"bundle_root": str(BUNDLE), "dataset_dir": str(store), "ckpt_dir": str(run / "models")}
    keys = NETWORK | where | {"output_dir": str(tmp_path), "device": "cpu", "num_workers": 0}
    workflow = create_workflow(
        config_file=str(CONFIGS / f"{name}.yaml"), workflow_type=kind, logging_file=False, **keys
    )
    assert workflow.check_properties() == []
    assert workflow.network_def(IMAGES).shape == (3, len(NAMES))
