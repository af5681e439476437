"""Exported networks need nothing of this project, and give the trained network's outputs in every format."""

import hashlib
import json
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from local_mi.encoders import image_features
from local_mi.errors import ConfigurationError
from made_classifier_run import LABELS, PREPARED_AS, SIZE, TINY, trained_classifier, write_classifier_run, write_metrics
from made_run import write_run
from safetensors.torch import load_file, save_file
from warm_python import WarmPython

from pipelines import export, export_check, export_formats
from pipelines.bundle import pretrained_network
from pipelines.classifier import load_classifier
from pipelines.demo import DemoResult
from pipelines.export import export_run
from pipelines.export_networks import network_description

ALONE = ["README.md", "config.json", "load_model.py", "model.safetensors"]
PAPER = {"_target_": "local_mi.paper_resnet.PaperResNet", "num_classes": "$len(@label_names)"}
DENSENET = {
    "_target_": "monai.networks.nets.DenseNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": "$len(@label_names)",
    "init_features": 8,
    "growth_rate": 4,
    "block_config": [2, 2],
}


@pytest.fixture
def warm_check(
    monkeypatch: pytest.MonkeyPatch, warm_python: WarmPython, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The check of an export, in a process that need not import PyTorch and MONAI first."""
    program = tmp_path_factory.mktemp("check") / "program.py"
    shutil.copyfile(export_check.PROGRAM, program)

    def reload(folders: Sequence[Path], work: Path) -> None:
        done = warm_python.run(program, work, *folders)
        if done.returncode:
            raise ConfigurationError(done.stderr)

    monkeypatch.setattr(export_check, "reload_elsewhere", reload)


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def loaded(folder: Path, elsewhere: Path) -> torch.nn.Module:
    """By the lines that travel with it, from a copy."""
    shutil.copytree(folder, elsewhere)
    network: torch.nn.Module = runpy.run_path(str(elsewhere / "load_model.py"))["load_model"](elsewhere)
    return network


def images(number: int, size: int = SIZE) -> torch.Tensor:
    return torch.rand(number, 1, size, size, generator=torch.Generator().manual_seed(1))


def test_the_lines_that_travel_with_it_load_it_anywhere(demo: DemoResult, tmp_path: Path) -> None:
    """An independent check: the folder copied away, loaded in a fresh isolated process, on images of my own."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(demo.folder / "encoder", folder)
    np.save(tmp_path / "images.npy", images(3, 128).numpy())
    arguments = [str(folder), str(tmp_path / "images.npy"), str(tmp_path / "features.npy")]
    subprocess.run([sys.executable, "-I", str(folder / "load_model.py"), *arguments], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = pretrained_network(demo.folder / "pretrain").image_encoder(images(3, 128)).numpy()
    assert np.abs(np.load(tmp_path / "features.npy") - expected).max() <= 1e-5


def test_the_configuration_says_how_images_were_prepared(demo: DemoResult) -> None:
    config = config_of(demo.folder / "encoder")
    stored = json.loads((demo.folder / "store" / "datalist.json").read_text())["preprocessing"]
    assert config["preprocessing"] == stored
    assert (config["kind"], config["image_size"], config["label_names"]) == ("encoder", 128, None)


@pytest.mark.usefixtures("warm_check")
def test_every_format_gives_the_classifiers_logits_for_any_number_of_images(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run = write_classifier_run(tmp_path / "run")
    encoder, classifier = export_run(run, tmp_path / "out")
    assert classifier.differences.keys() == {"safetensors", "torchscript", "torch-export", "onnx"}
    assert not classifier.left_out
    folder = classifier.folder
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert [[(i.name, i.shape[1:]) for i in session.get_inputs()], session.get_outputs()[0].name] == [
        [("image", [1, SIZE, SIZE])],
        "logits",
    ]
    network = trained_classifier(run)
    for number in (1, 5):
        with torch.no_grad():
            expected = network(images(number))
            torch.testing.assert_close(torch.jit.load(folder / "model.ts")(images(number)), expected)
            torch.testing.assert_close(torch.export.load(folder / "model.pt2").module()(images(number)), expected)
        found = session.run(["logits"], {"image": images(number).numpy()})[0]
        assert np.abs(found - expected.numpy()).max() <= 1e-4 * expected.abs().max()
    with torch.no_grad():  # the encoder is the same network before its head
        torch.testing.assert_close(network.fc(torch.jit.load(encoder.folder / "model.ts")(images(5))), expected)
    refuse_traces_of_the_machine(tmp_path / "out", tmp_path)
    for exported in (encoder, classifier):
        run_the_code_of_the_card(exported.folder)
    config = config_of(folder)
    for name, digest in (config["files"] | {"model.safetensors": config["weights_sha256"]}).items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert {path.name for path in folder.iterdir()} == config["files"].keys() | {"model.safetensors", "config.json"}


def run_the_code_of_the_card(folder: Path) -> None:
    """Every block in a process of its own would take minutes; each has names of its own at least."""
    blocks = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        for block in blocks:
            exec(compile(block, "README.md", "exec"), {})
        patch.delitem(sys.modules, "load_model")


def refuse_traces_of_the_machine(folder: Path, run: Path) -> None:
    """Neither Python's folder nor that of the run or of its data, also inside of archives."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        contents = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        for trace in (sys.prefix, str(run), str(Path(__file__).parents[2]), "site-packages", "/home/me"):
            assert not any(trace.encode() in content for content in contents), f"{trace} in {path.name}"


@pytest.mark.usefixtures("warm_check")
def test_torchscript_holds_what_monai_deploy_reads(tmp_path: Path) -> None:
    run = write_classifier_run(tmp_path / "run")
    exported = export_run(run, tmp_path / "out", ["torchscript"])[1]
    with zipfile.ZipFile(exported.folder / "model.ts") as archive:
        inside = {Path(name).name: name for name in archive.namelist() if "/extra/" in name}
        metadata, inference = (json.loads(archive.read(inside[f"{n}.json"])) for n in ("metadata", "inference"))
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == dict(zip("012", LABELS, strict=True))
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [SIZE, SIZE]
    assert {"preprocessing", "postprocessing", "inferer", "network_def"} <= inference.keys()
    assert inference["label_names"] == LABELS
    assert inference["network_def"] == TINY | {"num_classes": 3}


@pytest.mark.usefixtures("warm_check")
def test_the_papers_network_travels_with_the_file_that_makes_it(tmp_path: Path) -> None:
    run = write_classifier_run(tmp_path / "run", PAPER)
    record = json.loads((run / "models" / "model.json").read_text())
    record["configuration"]["image_size"] = 256
    (run / "models" / "model.json").write_text(json.dumps(record))
    encoder, classifier = export_run(run, tmp_path / "out", ["torchscript"])
    assert sorted(path.name for path in encoder.folder.iterdir()) == sorted([*ALONE, "model.ts", "paper_resnet.py"])
    assert encoder.notes == ["the layout of the encoder is not timm's and torchvision's: PaperResNet is no ResNet"]
    network = trained_classifier(run)
    with torch.no_grad():
        _, pooled = image_features(network, images(2, 256))
        torch.testing.assert_close(loaded(encoder.folder, tmp_path / "e")(images(2, 256)), pooled)
        torch.testing.assert_close(loaded(classifier.folder, tmp_path / "c")(images(2, 256)), network(images(2, 256)))


@pytest.mark.usefixtures("warm_check")
def test_a_densenets_encoder_is_its_features(tmp_path: Path) -> None:
    run = write_classifier_run(tmp_path / "run", DENSENET)
    encoder, _ = export_run(run, tmp_path / "out", ["torchscript"])
    with torch.no_grad():
        local_map, _ = image_features(trained_classifier(run), images(2))
        torch.testing.assert_close(loaded(encoder.folder, tmp_path / "e")(images(2)).relu(), local_map)


@pytest.mark.usefixtures("warm_check")
def test_the_head_of_a_pretrained_encoder_is_left_behind(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **{"image_encoder#feed_forward": True})
    (encoder,) = export_run(run, tmp_path / "out", ["safetensors"])
    network = pretrained_network(run).image_encoder
    assert network.fc is not None
    with torch.no_grad():
        _, pooled = image_features(network, images(2))
        torch.testing.assert_close(loaded(encoder.folder, tmp_path / "e")(images(2)), pooled)


@pytest.mark.usefixtures("warm_check")
def test_a_run_with_both_stages_gives_the_pretrained_encoder(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_classifier_run(tmp_path / "classifier")
    for path in (tmp_path / "classifier" / "models").iterdir():
        shutil.copy(path, run / "models")
    encoder, classifier = export_run(run, tmp_path / "out", ["safetensors"])
    assert config_of(encoder.folder)["provenance"]["workflow"] == "pretrain"
    pretrained, exported = pretrained_network(run).image_encoder.state_dict(), encoder.folder / "model.safetensors"
    assert all(torch.equal(value, pretrained[key]) for key, value in load_file(exported).items())
    assert config_of(classifier.folder)["label_names"] == LABELS


@pytest.mark.usefixtures("warm_check")
def test_temperatures_and_thresholds_travel_if_they_are_of_these_weights(tmp_path: Path) -> None:
    run = write_classifier_run(tmp_path / "run")
    write_metrics(run)
    classifier = export_run(run, tmp_path / "out", ["safetensors"])[1]
    config = config_of(classifier.folder)
    assert config["calibration"]["temperature"] == dict.fromkeys(LABELS, 1.5)
    assert config["calibration"]["threshold"] == {LABELS[0]: 0.25, LABELS[2]: 0.25}
    assert config["preprocessing"] == PREPARED_AS
    assert not any("not evaluated" in note for note in classifier.notes)
    write_metrics(run, weights_sha256="0" * 64)
    again = export_run(run, tmp_path / "out", ["safetensors"])[1]
    assert config_of(again.folder)["calibration"] is None
    assert any(note.startswith("not evaluated: run `cxr-local-mi evaluate STORE RUN` first") for note in again.notes)


@pytest.mark.usefixtures("warm_check")
def test_prediction_takes_what_was_exported_into_a_folder_named_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_classifier_run(tmp_path / "run")
    write_metrics(run)
    monkeypatch.chdir(tmp_path)
    export_run(Path("run"), Path("out"), ["safetensors"])
    classifier = load_classifier(Path("out"))
    assert classifier.label_names == tuple(LABELS)
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE), dtype=np.uint8)
    with torch.no_grad():
        logits = trained_classifier(run)(torch.from_numpy(images.astype(np.float32) / 255)[:, None]).double().numpy()
    found = np.stack([one.probabilities for one in classifier.predict(images)])
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits / 1.5)), atol=1e-5)  # the temperature of all labels
    assert [one.is_present[0] for one in classifier.predict(images)] == (logits[:, 0] >= np.log(0.25 / 0.75)).tolist()


@pytest.mark.parametrize("metrics", [None, [1], [{"label": "a"}], "x"])
def test_damaged_metrics_are_named(tmp_path: Path, metrics: Any) -> None:
    run = write_classifier_run(tmp_path / "run")
    path = write_metrics(run)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": metrics}))
    with pytest.raises(ConfigurationError, match=r"metrics\.json is damaged; run `cxr-local-mi evaluate"):
        export_run(run, tmp_path / "out", ["safetensors"])
    assert not (tmp_path / "out").exists()


def test_a_format_that_cannot_hold_a_network_is_left_out_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MONAI's shortcuts of type A are no modules, and nothing that TorchScript knows."""
    run = write_classifier_run(tmp_path / "run", TINY | {"shortcut_type": "A"})
    with pytest.raises(ConfigurationError, match=r"the encoder as torchscript: cannot hold this network: .*name other"):
        export_run(run, tmp_path / "out", ["torchscript"])
    assert not (tmp_path / "out").exists()
    formats, missing = ["safetensors", "torchscript"], {"onnx": "is not here"}
    monkeypatch.setattr(export, "chosen_formats", lambda asked: (formats, missing))
    _, classifier = export_run(run, tmp_path / "out")
    assert classifier.left_out["onnx"] == "is not here"
    assert classifier.left_out["torchscript"].startswith("cannot hold this network: ")
    assert not (classifier.folder / "model.ts").exists()
    assert classifier.differences == {"safetensors": 0}


@pytest.mark.usefixtures("warm_check")
def test_an_export_that_gives_other_outputs_fails_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_classifier_run(tmp_path / "run")
    export_run(run, tmp_path / "out", ["safetensors"])
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def spoiled(state: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file(state | {"conv1.weight": state["conv1.weight"] + 1e-3}, path, metadata)

    monkeypatch.setattr(export_formats, "save_file", spoiled)
    with pytest.raises(ConfigurationError, match="the encoder as safetensors gives outputs that differ by"):
        export_run(run, tmp_path / "out", ["safetensors"])
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    with pytest.raises(ConfigurationError, match="nothing was written"):
        export_run(run, tmp_path / "new", ["safetensors"])
    assert not (tmp_path / "new").exists()


def test_a_module_of_this_project_in_the_process_is_seen(tmp_path: Path, warm_python: WarmPython) -> None:
    folder, work = tmp_path / "encoder", tmp_path / "work"
    folder.mkdir()
    (work / "encoder").mkdir(parents=True)
    np.save(work / "encoder" / "images.npy", images(3).numpy())
    (folder / "config.json").write_text("{}")
    (folder / "load_model.py").write_text("import local_mi\nload_model = lambda folder: lambda images: images\n")
    program = tmp_path / "program.py"
    shutil.copyfile(export_check.PROGRAM, program)
    done = warm_python.run(program, work, folder)
    assert done.returncode
    assert "modules of this project were loaded: local_mi" in done.stderr


@pytest.mark.usefixtures("warm_check")
def test_an_export_is_replaced_as_a_whole_and_nothing_else_is(tmp_path: Path) -> None:
    run = write_classifier_run(tmp_path / "run")
    folder = tmp_path / "out" / "classifier"
    export_run(run, tmp_path / "out", ["torchscript"])
    export_run(run, tmp_path / "out", ["safetensors"])
    assert sorted(path.name for path in folder.iterdir()) == ALONE
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["classifier", "encoder"]
    (folder / "thesis.txt").write_text("irreplaceable")
    folder.replace(tmp_path / "out" / ".replaced_classifier")  # as a kill leaves it between two steps
    with pytest.raises(ConfigurationError, match="holds something that is no export"):
        export_run(run, tmp_path / "out", ["safetensors"])
    assert sorted(path.name for path in folder.iterdir()) == [*ALONE, "thesis.txt"]
    (tmp_path / "other" / "encoder").mkdir(parents=True)
    (tmp_path / "other" / "encoder" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigurationError, match="holds something that is no export"):
        export_run(run, tmp_path / "other", ["safetensors"])


def test_without_its_packages_onnx_is_left_out_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_formats, "find_spec", lambda name: None if name == "onnxruntime" else name)
    formats, left_out = export_formats.chosen_formats(None)
    assert formats == ["safetensors", "torchscript", "torch-export"]
    assert left_out == {"onnx": "onnxruntime is not installed; pip install 'cxr-local-mi[onnx]'"}
    with pytest.raises(ConfigurationError, match=r"pip install 'cxr-local-mi\[onnx\]'"):
        export_formats.chosen_formats(["onnx"])
    with pytest.raises(ConfigurationError, match="unknown format 'keras'; formats are safetensors, torchscript"):
        export_formats.chosen_formats(["keras"])


@pytest.mark.usefixtures("warm_check")
def test_weights_that_are_damaged_or_could_hold_code_are_not_loaded(tmp_path: Path) -> None:
    run = write_classifier_run(tmp_path / "run")
    folder = export_run(run, tmp_path / "out", ["safetensors"])[1].folder
    weights, config = folder / "model.safetensors", config_of(folder)
    weights.write_bytes(weights.read_bytes()[:-1])
    load_model = runpy.run_path(str(folder / "load_model.py"))["load_model"]
    with pytest.raises(ValueError, match=r"is damaged, or config\.json is of other weights"):
        load_model(folder)
    torch.save({"weights": 1}, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config | {"weights_sha256": digest}))
    with pytest.raises(ValueError, match="is no safetensors file; nothing else is loaded"):
        load_model(folder)


def test_a_folder_that_is_no_run_or_a_damaged_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no run; run `cxr-local-mi pretrain`"):
        export_run(tmp_path, tmp_path / "out")
    run = write_classifier_run(tmp_path / "run")
    (run / "models" / "model.pt").write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match=r"model\.pt has no record model\.json of its own beside it"):
        export_run(run, tmp_path / "out")
    record = json.loads((run / "models" / "model.json").read_text())
    (run / "models" / "model.json").write_text(json.dumps(record | {"sha256": hashlib.sha256(b"damaged").hexdigest()}))
    with pytest.raises(ConfigurationError, match="damaged or not a plain state dict"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("component", "reason"),
    [
        ({"_target_": "local_mi.critics.SeparableCritic"}, "neither of monai.networks.nets"),
        ({"_target_": "torchvision.models.resnet18"}, "neither of monai.networks.nets"),
        (TINY | {"num_classes": 3, "block": "$monai.networks.nets.resnet.ResNetBlock"}, "write `block: basic`"),
    ],
)
def test_a_network_that_others_could_not_make_is_not_exported(component: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{component['_target_']} cannot be exported: .*{reason}"):
        network_description({"network_def": component}, "network_def", "classifier")


@pytest.mark.parametrize("target", ["resnet18", "monai.networks.nets.resnet18", "monai.networks.nets.resnet.resnet18"])
def test_a_network_of_monai_is_described_by_its_name(target: str) -> None:
    """Weights to start from are not fetched again where the network is made elsewhere."""
    component = {"_target_": target, "spatial_dims": 2, "pretrained": "/home/me/weights.pt"}
    assert network_description({"e": component}, "e", "encoder") == {
        "class": "resnet18",
        "arguments": {"spatial_dims": 2, "feed_forward": False},
        "file": None,
        "part": None,
    }
