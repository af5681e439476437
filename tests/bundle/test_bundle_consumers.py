"""What other programs read from the bundle, by the calls that they make.

MONAI's own client for federated learning runs as it is. MONAI Label and MONAI Deploy are not installed here: the calls
of their source (monailabel 0.8.5, tasks/infer/bundle.py and basic_infer.py; monai-deploy-app-sdk 4.0.0,
operators/monai_bundle_inference_operator.py) are made one by one.
"""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLE, RunBundle, write_image
from monai.bundle import ConfigParser, ckpt_export
from monai.data import MetaTensor
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from monai.inferers import SimpleInferer
from monai.transforms import Compose, LoadImaged, MapTransform
from monai.utils import convert_to_dst_type, ensure_tuple, first
from trained_classifier import NAMES, NETWORK, SIZE, trained_classifier


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, run_bundle: RunBundle) -> tuple[Path, Path]:
    return trained_classifier(tmp_path_factory, run_bundle)


@pytest.fixture
def bundle(trained: tuple[Path, Path], tmp_path: Path) -> Path:
    """The bundle with the weights of a small run, its configuration and metadata set to them."""
    folder = tmp_path / BUNDLE.name
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("models", "eval", "local_mi"))
    shutil.copytree(trained[1] / "models", folder / "models")
    for name in ("train", "inference"):
        parser = ConfigParser(ConfigParser.load_config_file(folder / "configs" / f"{name}.yaml"))
        parser.update(NETWORK)
        ConfigParser.export_config_file(parser.config, str(folder / "configs" / f"{name}.yaml"), fmt="yaml")
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = {str(k): name for k, name in enumerate(NAMES)}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def expected(bundle: Path, image: torch.Tensor) -> torch.Tensor:
    """Probabilities (L,) of an image (1, size, size) in [0, 1]."""
    parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / "inference.yaml"))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    with torch.no_grad():
        found: torch.Tensor = torch.sigmoid(network(image[None])[0].double())
    return found


def test_a_round_of_federated_learning(bundle: Path, trained: tuple[Path, Path]) -> None:
    """As NVFlare drives it: global weights in, an epoch, local weights out, and the metrics of global weights."""
    keys = {"dataset_dir": str(trained[0]), "device": "cpu", "num_workers": 0, "batch_size": 8}
    shutil.rmtree(bundle / "models")
    client = MonaiAlgo(
        bundle_root=bundle.name,
        local_epochs=1,
        send_weight_diff=False,
        config_train_filename="configs/train.yaml",
        config_evaluate_filename=["configs/train.yaml", "configs/evaluate.yaml"],
        train_kwargs=dict(keys),
        eval_kwargs=dict(keys),
        best_model_filepath="models/model.pt",
    )
    client.initialize({ExtraItems.CLIENT_NAME: "site-1", ExtraItems.APP_ROOT: str(bundle.parent)})
    weights = {key: value.clone() for key, value in client.get_weights().weights.items()}
    client.train(ExchangeObject(weights=weights, weight_type=WeightType.WEIGHTS))
    after = client.get_weights().weights
    assert after.keys() == weights.keys()
    assert any(not torch.equal(after[key], weights[key]) for key in weights)
    best = client.get_weights({ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL}).weights
    assert best.keys() == weights.keys()
    metrics = client.evaluate(ExchangeObject(weights=after, weight_type=WeightType.WEIGHTS)).metrics
    assert 0 <= metrics["mean_auroc"] <= 1
    client.finalize()


def test_label_reads_the_bundle(bundle: Path, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
    write_image(tmp_path / "a.png", picture)
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    parser.config["bundle_root"] = str(bundle)
    network = parser.get_parsed_content("network_def", instantiate=True)
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True), strict=False)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    key_image, image = next(iter(metadata["network_data_format"]["inputs"].items()))
    key_pred, pred = next(iter(metadata["network_data_format"]["outputs"].items()))
    assert (key_image, key_pred, len(image["spatial_shape"])) == ("image", "pred", 2)
    assert {name.lower(): int(k) for k, name in pred["channel_def"].items()} == {"upper": 0, "lower": 1}
    before = parser.get_parsed_content("preprocessing", instantiate=True)
    data: dict[str, Any] = {"image": str(tmp_path / "a.png")}
    for transform in before.transforms:
        if isinstance(transform, LoadImaged):
            transform._loader.image_only = False
        data = transform(data)
    inferer = parser.get_parsed_content("inferer", instantiate=True)
    with torch.no_grad():
        data[key_pred] = inferer(data[key_image][None], network.eval())[0]
    for transform in parser.get_parsed_content("postprocessing", instantiate=True).transforms:
        data = transform(data)
    wanted = expected(bundle, torch.from_numpy(picture / np.float32(255))[None]).numpy()
    assert data[key_pred].array == pytest.approx(wanted, abs=1e-6), "its writer asks for a MetaTensor"


def without_loaders(compose: Compose) -> Compose:
    """What Deploy leaves of transforms: its operators hand over pictures in memory."""
    disallowed = ("LoadImage", "SaveImage")
    compose.transforms = tuple(t for t in compose.transforms if not any(d in type(t).__name__ for d in disallowed))
    return compose


def test_deploy_reads_the_torchscript_form(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no data lie where the configuration looks for them
    exported = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.yaml"),
    )
    parser = ConfigParser()
    with zipfile.ZipFile(exported) as archive:
        parser.read_meta(f=json.loads(archive.read("model/extra/metadata.json")))
        archive.extractall(members=["model/extra/inference.json"], path=tmp_path / "extracted")
        parser.read_config([tmp_path / "extracted" / "model/extra/inference.json"])
    parser.parse()
    device = parser.get_parsed_content("device")
    inferer = parser.get_parsed_content("inferer")
    assert isinstance(inferer, SimpleInferer)
    before = without_loaders(parser.get_parsed_content("preprocessing"))
    after = without_loaders(parser.get_parsed_content("postprocessing"))
    for transform in (*before.transforms, *after.transforms):
        assert type(transform).__module__.startswith("monai."), "a TorchScript file carries no program code"
    assert isinstance(first(before.transforms), MapTransform)
    picture = np.random.default_rng(0).random((SIZE, SIZE), np.float32)  # (rows, columns), as an Image without metadata
    value = MetaTensor.ensure_torch_and_prune_meta(convert_to_dst_type(picture, dst=picture)[0], {})
    inputs = before({"image": value})
    prepared = inputs.pop("image")
    image = prepared[None].to(device)
    network = torch.jit.load(exported, map_location=device).eval()
    with torch.no_grad():
        pred = ensure_tuple(inferer(inputs=image, network=network))[0]
        outputs = after({"pred": pred, "image": prepared, **inputs})
    assert isinstance(prepared.meta, dict), "what the operator hands on beside every output"
    described = parser["_meta_"]["network_data_format"]["outputs"]["pred"]
    assert described["type"] == "probabilities"
    assert [described["channel_def"][str(number)] for number in range(outputs["pred"].numel())] == NAMES
    assert torch.allclose(outputs["pred"].cpu(), expected(bundle, torch.from_numpy(picture)[None]), atol=1e-6)
