"""The bundle as MONAI's own command line runs it, and the traps that MONAI sets for it."""

import csv
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from conftest import BUNDLE, TINY, RunBundle, write_store
from local_mi.weights import read_encoder
from monai.bundle import ConfigParser, ConfigWorkflow
from warm_python import WarmPython

LABELS = "['Upper','Lower']"


@pytest.fixture(scope="module")
def pretrained(store: Path, run_bundle: RunBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run by plain `python -m monai.bundle run` from the bundle's directory."""
    out = tmp_path_factory.mktemp("run")
    done = run_bundle("pretrain", **paths(store, out), **TINY)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def paths(store: Path, out: Path) -> dict[str, str]:
    return {"dataset_dir": str(store), "ckpt_dir": str(out / "models"), "output_dir": str(out)}


def configuration(*names: str) -> dict[str, Any]:
    merged: dict[str, Any] = ConfigParser.load_config_files(
        [str(BUNDLE / "configs" / f"{name}.yaml") for name in names]
    )
    return merged


def test_pretraining_writes_weights_record_and_configuration(pretrained: Path) -> None:
    state, description = read_encoder(str(pretrained / "models" / "image_encoder.safetensors"))
    assert state["conv1.weight"].shape == (64, 1, 7, 7)
    assert description["preprocessing"] == {"preset": "voi"}
    record = json.loads((pretrained / "pretrain_run.json").read_text())
    assert record["seed"] == 0
    assert (
        record["versions"]["torch"] == torch.__version__.split("+")[0]
        or record["versions"]["torch"] == torch.__version__
    )
    merged = json.loads((pretrained / "pretrain_config.json").read_text())
    assert merged["image_size"] == 64, "the overrides of the command line belong to the record"


def test_the_classifier_trains_evaluates_and_predicts(store: Path, pretrained: Path, run_bundle: RunBundle) -> None:
    common = paths(store, pretrained) | TINY | {"label_names": LABELS}
    encoder = pretrained / "models" / "image_encoder.safetensors"
    trained = run_bundle("train", pretrained=str(encoder), **common)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert json.loads((pretrained / "models" / "model.json").read_text())["label_names"] == ["Upper", "Lower"]
    common.pop("max_epochs")
    evaluated = run_bundle("train", "evaluate", **common)
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    metrics = json.loads((pretrained / "metrics.json").read_text())
    assert 0 <= metrics["mean_auroc"] <= 1
    without_transformers = (
        "import runpy, sys; sys.modules['transformers'] = None; "
        "sys.argv = sys.argv[1:]; runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)"
    )
    predicted = run_bundle("inference", launcher=("-c", without_transformers), **common)
    assert predicted.returncode == 0, predicted.stderr[-3000:]
    with (pretrained / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    test_items = json.loads((store / "datalist.json").read_text())["test"]
    assert [row["study"] for row in rows] == [item["study"] for item in test_items]
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("Upper", "Lower"))


def test_an_unknown_key_on_the_command_line_is_refused(store: Path, tmp_path: Path, run_bundle: RunBundle) -> None:
    done = run_bundle("pretrain", **paths(store, tmp_path), **TINY, dataset_dri="/nowhere")
    assert done.returncode != 0
    assert "unknown configuration key 'dataset_dri'; did you mean 'dataset_dir'?" in done.stderr
    assert not (tmp_path / "models").exists(), "nothing is trained or written"


def test_the_bundle_runs_from_another_folder_without_being_installed(
    store: Path, tmp_path: Path, warm_python: WarmPython
) -> None:
    copied = tmp_path / "elsewhere" / "bundle"
    shutil.copytree(BUNDLE, copied, ignore=shutil.ignore_patterns("models", "eval", "__pycache__"))
    without_install = tmp_path / "without_install.py"
    without_install.write_text(
        "import runpy, sys\n"
        f"sys.path = [p for p in sys.path if p not in ({str(BUNDLE.parents[1])!r}, {str(BUNDLE)!r})]\n"
        "runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)\n"
    )
    out = tmp_path / "out"
    overrides = paths(store, out) | TINY | {"bundle_root": str(copied), "max_epochs": "1"}
    words = [word for key, value in overrides.items() for word in (f"--{key}", value)]
    file = f"{copied}/configs/pretrain.yaml"
    done = warm_python.run(without_install, "run", "--config_file", file, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "models" / "pretrained.pt").is_file()


def by_torchrun(run_bundle: RunBundle, workflow: str, **overrides: str) -> list["subprocess.CompletedProcess[str]"]:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")
    return [run_bundle(workflow, "multi_gpu", launcher=launcher, **overrides)]


def by_their_environment(
    run_bundle: RunBundle, workflow: str, **overrides: str
) -> list["subprocess.CompletedProcess[str]"]:
    """As torchrun does it, without the seconds that it takes to import itself and the rest twice."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda rank: run_bundle(workflow, "multi_gpu", env=meeting | rank, **overrides), ranks))


@pytest.mark.parametrize(
    ("workflow", "start"), [("pretrain", by_torchrun), ("train", by_their_environment)], ids=["pretrain", "train"]
)
def test_two_gloo_processes_finish(
    workflow: str,
    start: Callable[..., list["subprocess.CompletedProcess[str]"]],
    store: Path,
    tmp_path: Path,
    run_bundle: RunBundle,
) -> None:
    overrides = paths(store, tmp_path) | TINY | {"max_epochs": "1"}
    overrides.pop("device")
    if workflow == "train":
        overrides["label_names"] = LABELS
    for done in start(run_bundle, workflow, **overrides):
        assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / f"{workflow}_run.json").read_text())["processes"] == 2
    name = "pretrained.pt" if workflow == "pretrain" else "model.pt"
    state = torch.load(tmp_path / "models" / name, weights_only=True)
    assert not any(key.startswith("module.") for key in state)
    # One process evaluates what several trained, also with the configuration of several.
    overrides.pop("max_epochs")
    evaluated = run_bundle(workflow, "multi_gpu", "evaluate", **overrides)
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]


def test_a_checkpoint_of_other_data_is_not_continued(pretrained: Path, tmp_path: Path, run_bundle: RunBundle) -> None:
    other = write_store(tmp_path / "other", seed=1)
    before = (pretrained / "models" / "pretrained.pt").read_bytes()
    done = run_bundle("pretrain", **paths(other, pretrained), **TINY)
    assert done.returncode != 0
    assert "was trained with another datalist_sha256" in done.stderr
    assert (pretrained / "models" / "pretrained.pt").read_bytes() == before


def workflow(name: str, store: Path, out: Path, kind: str, **overrides: Any) -> ConfigWorkflow:
    folder = BUNDLE / "configs"
    given = paths(store, out) | {"image_size": 64, "device": "cpu", "num_workers": 0, "bundle_root": str(BUNDLE)}
    return ConfigWorkflow(
        config_file=str(folder / f"{name}.yaml"), logging_file=False, workflow_type=kind, **given, **overrides
    )


@pytest.mark.parametrize(
    ("name", "kind", "overrides"),
    [
        ("pretrain", "train", {}),
        ("train", "train", {"label_names": ["Upper", "Lower"]}),
        ("inference", "infer", {"label_names": ["Upper", "Lower"]}),
    ],
)
def test_the_properties_that_monai_asks_of_a_workflow_are_there(
    name: str, kind: str, overrides: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    made = workflow(name, store, tmp_path, kind, **overrides)
    made.initialize()
    assert made.check_properties() == []


@pytest.mark.parametrize("names", [("train", "evaluate"), ("pretrain", "evaluate")])
def test_the_evaluation_overlay_keeps_the_properties(
    names: tuple[str, ...], store: Path, pretrained: Path, tmp_path: Path
) -> None:
    merged = configuration(*names) | paths(store, pretrained) | {"image_size": 64, "device": "cpu", "num_workers": 0}
    merged |= {"bundle_root": str(BUNDLE)} | ({"label_names": ["Upper", "Lower"]} if "train" in names else {})
    file = tmp_path / "merged.yaml"
    file.write_text(yaml.safe_dump(merged))
    made = ConfigWorkflow(
        config_file=str(file), meta_file=str(BUNDLE / "configs" / "metadata.json"), logging_file=False
    )
    made.initialize()
    assert made.check_properties() == []


def test_metadata_validates_against_the_newest_schema(shared_data: Path) -> None:
    schema = json.loads((shared_data.parent / "schemas" / "meta_schema_20240725.json").read_text())
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    jsonschema.validate(metadata, schema)
    assert metadata["version"] in metadata["changelog"]


def test_metadata_describes_the_network_of_inference() -> None:
    merged = configuration("inference")
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["network_data_format"]
    parser = ConfigParser(merged)
    network = parser.get_parsed_content("network_def").eval()
    shape = metadata["inputs"]["image"]["spatial_shape"]
    assert shape == [merged["image_size"]] * 2
    output = network(torch.zeros(1, metadata["inputs"]["image"]["num_channels"], *shape))
    assert output.shape == (1, metadata["outputs"]["pred"]["num_channels"])
    assert list(metadata["outputs"]["pred"]["channel_def"].values()) == merged["label_names"]


def test_what_the_workflows_share_is_the_same_in_each() -> None:
    pretrain, train, inference = (configuration(name) for name in ("pretrain", "train", "inference"))
    headless = {key: value for key, value in train["network_def"].items() if key != "num_classes"}
    assert pretrain["image_encoder"] == {**headless, "feed_forward": False}
    assert inference["network_def"] == train["network_def"]
    deterministic = pretrain["train"]["deterministic_transforms"]
    assert train["train"]["deterministic_transforms"] == deterministic
    *before, typed = deterministic
    assert typed.pop("track_meta") is False, "in training metadata would only cost time"
    assert inference["preprocessing"]["transforms"] == [*before, typed]
    assert train["train"]["random_transforms"] == pretrain["train"]["random_transforms"]
    for key in ("image_size", "views", "validation_split", "batch_size"):
        assert train[key] == pretrain[key]
    assert train["label_names"] == inference["label_names"]


def test_every_image_is_read_by_a_named_reader() -> None:
    lists = [configuration(name)["train"]["deterministic_transforms"] for name in ("pretrain", "train")]
    for transforms in (*lists, configuration("inference")["preprocessing"]["transforms"]):
        assert transforms[0]["reader"]["_target_"] == "local_mi.images.GreyImageReader"


def test_no_configuration_depends_on_the_working_directory() -> None:
    for path in sorted((BUNDLE / "configs").glob("*.yaml")):
        assert not re.search(r"%[\w./]", path.read_text()), (
            f"{path.name}: a macro resolves against the working directory"
        )
        assert "import local_mi" not in path.read_text(), "imports run before MONAI adds the bundle to the path"


def test_every_rank_synchronises_before_a_handler_is_built() -> None:
    initialize = configuration("pretrain", "multi_gpu")["initialize"]
    started = next(k for k, step in enumerate(initialize) if "init_process_group" in step)
    assert initialize[started + 1] == "$idist.sync()"
