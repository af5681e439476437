"""The bundle as it leaves this project: complete by itself, and with a run's weights usable without a key."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from local_mi.checkpoints import keep
from local_mi.errors import ConfigurationError
from local_mi.weights import read_encoder
from made_once import made_once
from made_run import write_run
from monai.bundle import ConfigParser, create_workflow, load, verify_net_in_out
from monai.bundle.workflows import ConfigWorkflow
from PIL import Image

from pipelines.bundle import bundle_folder, one_sentence
from pipelines.bundle_copy import NAME, copy_bundle

SETTINGS = {
    "image_size": 64,
    "label_names": ["Edema", "Größe: [1]"],
    "views": ["PA"],
    "network_def#widen_factor": 0.125,
}
HOME = "/home/a.user/records"
IMAGES = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def write_classifier(run: Path, **settings: Any) -> torch.nn.Module:
    """A classifier as `train` leaves it, but for the training: random weights, and the record of how they were made."""
    parser = ConfigParser(ConfigParser.load_config_file(bundle_folder() / "configs" / "train.yaml"))
    parser.update(SETTINGS | {"dataset_dir": HOME, "pretrained": f"{HOME}/e.safetensors"} | settings)
    configuration = json.loads(json.dumps(parser.config))
    torch.manual_seed(0)
    network: torch.nn.Module = parser.get_parsed_content("network_def")
    (run / "models").mkdir(parents=True, exist_ok=True)
    record = {"value": 0.5, "configuration": configuration, "preprocessing": {"preset": "voi"}}
    record |= {key: configuration[key] for key in ("image_size", "label_names")}
    keep(network, str(run / "models" / "model.pt"), record)
    return network.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> Path:
        write_classifier(write_run(folder / "run"))
        return folder / "run"

    return made_once(tmp_path_factory, "run_to_copy", make)


@pytest.fixture(scope="module")
def logits(run: Path) -> torch.Tensor:
    """What the run's classifier says, made from its own record."""
    configuration = json.loads((run / "models" / "model.json").read_text())["configuration"]
    network = ConfigParser(configuration).get_parsed_content("network_def")
    network.load_state_dict(torch.load(run / "models" / "model.pt", weights_only=True))
    return answers(network)


def answers(network: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network.eval()(IMAGES)
    return found


def test_the_bare_bundle_is_complete_and_has_no_weights(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()  # empty: is filled
    assert copy_bundle(tmp_path / "out") == tmp_path / "out"
    for name in ("LICENSE", "configs/metadata.json", "configs/inference.yaml", "docs/README.md", "local_mi/start.py"):
        assert (tmp_path / "out" / name).is_file()
    assert not (tmp_path / "out" / "models").exists()
    shipped = (bundle_folder() / "configs" / "inference.yaml").read_bytes()
    assert (tmp_path / "out" / "configs" / "inference.yaml").read_bytes() == shipped
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing temporary is left"


@pytest.mark.parametrize("name", ["full", "there.zip", "file"])
def test_what_is_there_is_not_overwritten(name: str, tmp_path: Path) -> None:
    target = tmp_path / name
    if name == "full":
        target.mkdir()
        (target / "mine").touch()
    else:
        target.write_text("mine")
    with pytest.raises(ConfigurationError, match="exists and is not empty"):
        copy_bundle(target)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_without_weights_is_one_clear_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="neither a classifier nor a pretrained encoder"):
        copy_bundle(tmp_path / "out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_fit_their_record_do_not_travel(run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    with (broken / "models" / "model.pt").open("ab") as file:
        file.write(b"0")
    with pytest.raises(ConfigurationError, match="has no record"):
        copy_bundle(tmp_path / "out", broken)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def copied(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a zip with the run's weights, unpacked as MONAI does it."""
    folder = tmp_path_factory.mktemp("copied")
    archive = copy_bundle(folder / "elsewhere" / "bundle.zip", run)
    with zipfile.ZipFile(archive) as file:
        assert {name.split("/")[0] for name in file.namelist()} == {NAME}
        file.extractall(folder)
    return folder / NAME


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_monai_loads_the_copy_without_a_key(kind: str, copied: Path, logits: torch.Tensor) -> None:
    network = load(NAME, workflow_type=kind, bundle_dir=copied.parent, source="github", device="cpu")
    assert torch.equal(answers(network), logits)


def test_monai_takes_the_zip_where_it_would_download_it(run: Path, logits: torch.Tensor, tmp_path: Path) -> None:
    version = json.loads((bundle_folder() / "configs" / "metadata.json").read_text())["version"]
    copy_bundle(tmp_path / f"{NAME}_v{version}.zip", run)
    network = load(
        NAME, version=version, bundle_dir=tmp_path, source="github", repo="of/no/one", device="cpu", progress=False
    )
    assert torch.equal(answers(network), logits)


def test_workflows_of_the_copy_run_without_a_key_but_the_data(
    copied: Path, logits: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = (IMAGES[0, 0].numpy() * 255).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(picture).save(tmp_path / "in" / "a.png")
    monkeypatch.chdir(copied)  # as the documents say: from the bundle's directory
    where = {
        "dataset_dir": str(tmp_path / "in"),
        "output_dir": str(tmp_path / "out"),
        "device": "cpu",
        "num_workers": 0,
    }
    workflow = create_workflow(config_file="configs/inference.yaml", workflow_type="infer", **where)
    assert isinstance(workflow, ConfigWorkflow)
    assert workflow.check_properties() == []
    workflow.run()
    header, row = (tmp_path / "out" / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert header == "study,image,Edema,Größe: [1]"
    expected = torch.sigmoid(logits[0].double()).tolist()
    assert [float(cell) for cell in row.split(",")[2:]] == pytest.approx(expected, abs=1e-3), "but for 8 bits"


def test_weights_of_the_copy_refuse_a_store_of_another_preset(copied: Path, tmp_path: Path) -> None:
    item = {"image": "a.npy", "study": "s", "patient": "p", "view": "PA"}
    np.save(tmp_path / "a.npy", np.zeros((64, 64), np.uint8))
    (tmp_path / "datalist.json").write_text(json.dumps({"preprocessing": {"preset": "raw"}, "test": [item]}))
    keys = {"dataset_dir": str(tmp_path), "bundle_root": str(copied), "output_dir": str(tmp_path), "device": "cpu"}
    config = str(copied / "configs" / "inference.yaml")
    with pytest.raises(ConfigurationError, match=r"trained with preprocessing \{'preset': 'voi'\}"), one_sentence():
        create_workflow(config_file=config, workflow_type="infer", **keys).run()


def test_the_metadata_of_the_copy_are_those_of_its_weights(copied: Path, run: Path) -> None:
    configs = copied / "configs"
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.yaml"),
        device="cpu",
    )
    metadata = json.loads((configs / "metadata.json").read_text(encoding="utf-8"))
    image = metadata["network_data_format"]["inputs"]["image"]
    assert (image["spatial_shape"], image["num_channels"], image["preprocessing"]) == ([64, 64], 1, {"preset": "voi"})
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "Edema", "1": "Größe: [1]"}
    features = metadata["image_encoder_data_format"]["outputs"]["features"]
    state, _ = read_encoder(str(copied / "models" / "image_encoder.safetensors"))
    assert features["num_channels"] == state["layer4.1.bn2.weight"].shape[0]
    assert "shipped" not in metadata["data_source"]


def test_the_metadata_of_the_copy_are_valid(copied: Path, shared_data: Path) -> None:
    schema = json.loads((shared_data.parent / "schemas" / "meta_schema_20240725.json").read_text())
    jsonschema.validate(json.loads((copied / "configs" / "metadata.json").read_text(encoding="utf-8")), schema)


def test_no_place_of_the_machine_travels(copied: Path) -> None:
    for path in copied.rglob("*.*"):
        if path.is_file():
            assert HOME.encode() not in path.read_bytes(), path.name


def test_comments_stay_and_json_says_the_same(copied: Path) -> None:
    for name in ("train", "inference", "pretrain"):
        text = (copied / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
        assert text.startswith("# ")
        as_json = json.loads((copied / "configs" / f"{name}.json").read_text(encoding="utf-8"))
        assert as_json == ConfigParser.load_config_file(copied / "configs" / f"{name}.yaml")


def test_transforms_that_a_run_was_given_travel_too(tmp_path: Path) -> None:
    resize = {"_target_": "Resized", "keys": "image", "spatial_size": [64, 64], "mode": "bilinear"}
    write_classifier(tmp_path / "run", **{"train#deterministic_transforms#2": resize})
    copy_bundle(tmp_path / "out", tmp_path / "run")
    inference = ConfigParser.load_config_file(tmp_path / "out" / "configs" / "inference.yaml")
    assert inference["preprocessing"]["transforms"][2] == resize
