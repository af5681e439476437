"""Copies the MONAI bundle out, bare or with the weights of a run, as a folder or as the zip that MONAI's loader takes.

With a run, the configuration and the metadata of the copy are those of its weights, so that `monai.bundle run`, `load`,
`create_workflow` and `verify_net_in_out` need no key on their command line.
"""

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import local_mi
import yaml
from local_mi.checkpoints import load_checkpoint, read_record, record_path
from local_mi.encoders import feature_sizes
from local_mi.errors import ConfigurationError
from local_mi.files import write_json
from local_mi.weights import read_encoder
from monai.bundle import ConfigParser

from pipelines.bundle import CLASSIFIER, ENCODER, GIVEN, bundle_folder, run_configuration

NAME = "chest_xray_local_mi"
OF_THE_RUN = ("image_size", "views", "label_names", "network_def")
"""Keys of `train.yaml` and `inference.yaml` that the weights of a classifier were made with."""
OF_THE_MACHINE = (*GIVEN, "pretrained", "text_model", "text_model_dir", "mlflow")
"""Keys of a run's configuration that name places on its machine."""
WHOSE_DATA = "the radiographs of those who trained the weights; ask them for the terms of use"


def copy_bundle(target: Path, run: Path | None = None) -> Path:
    """Copy the bundle (configuration, package, documents, licence) out, complete by itself, all at once.

    Args:
        target: a new or empty folder, or a new file that ends in `.zip`: one folder of the bundle's name.
        run: whose weights travel, the classifier's and the pretrained encoder's, as far as there are any; None for no
            weights.

    Returns:
        The target.

    Raises:
        ConfigurationError: the target is there already and not an empty folder, or the run holds no whole weights.
    """
    if target.exists() and (not target.is_dir() or target.suffix == ".zip" or any(target.iterdir())):
        raise ConfigurationError(f"{target} exists and is not empty; name a new folder or .zip file for the bundle")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle_") as temporary:
        made = Path(temporary) / NAME
        _copy_files(made)
        if run is not None:
            _add_weights(made, run)
        if target.suffix == ".zip":
            made = _zipped(made)
        made.replace(target)
    return target


def _copy_files(folder: Path) -> None:
    source, package = bundle_folder(), Path(local_mi.__file__).parent
    for part in ("configs", "docs"):
        shutil.copytree(source / part, folder / part)
    shutil.copy2(source / "LICENSE", folder / "LICENSE")
    shutil.copytree(package, folder / "local_mi", ignore=shutil.ignore_patterns("__pycache__", "bundle"))


def _add_weights(folder: Path, run: Path) -> None:
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    kept = [(CLASSIFIER, _add_classifier), (ENCODER, _add_encoder)]
    present = [add for name, add in kept if (run / "models" / name).is_file()]
    if not present:
        raise ConfigurationError(f"{run} holds neither a classifier nor a pretrained encoder; train one first")
    (folder / "models").mkdir()
    for add in present:
        add(folder, run / "models", metadata)
    write_json(folder / "configs" / "metadata.json", metadata | {"data_source": WHOSE_DATA})


def _add_classifier(folder: Path, models: Path, metadata: dict[str, Any]) -> None:
    """The classifier and its record, the configurations that make it, and what the metadata say of it."""
    trained = run_configuration(models.parent, "train")
    record = read_record(str(models / CLASSIFIER)) or {}
    weights = folder / "models" / CLASSIFIER
    shutil.copyfile(models / CLASSIFIER, weights)
    shipped = ConfigParser.load_config_file(folder / "configs" / "train.yaml")
    write_json(record_path(str(weights)), record | {"configuration": _without_places(trained, shipped)})
    read_record(str(weights))  # refuses weights that a run has replaced meanwhile
    load_checkpoint(ConfigParser(trained).get_parsed_content("network_def"), str(weights))
    changes = {key: trained[key] for key in OF_THE_RUN}
    _rewrite(folder, "train", changes)
    transforms = trained["train"]["deterministic_transforms"]
    if transforms != shipped["train"]["deterministic_transforms"]:
        changes["preprocessing"] = {"_target_": "Compose", "transforms": transforms}
    _rewrite(folder, "inference", changes)
    _describe_image(metadata["network_data_format"], trained["image_size"], record.get("preprocessing", {}))
    _describe_labels(metadata["network_data_format"]["outputs"]["pred"], trained["label_names"])


def _add_encoder(folder: Path, models: Path, metadata: dict[str, Any]) -> None:
    """The encoder's weights, and what the metadata say of them."""
    trained = run_configuration(models.parent, "pretrain")
    description = read_encoder(str(models / ENCODER))[1]
    shutil.copyfile(models / ENCODER, folder / "models" / ENCODER)
    network = ConfigParser(trained).get_parsed_content("image_encoder")
    _, width = feature_sizes(network)
    described = metadata["image_encoder_data_format"]
    _describe_image(described, trained["image_size"], description.get("preprocessing", {}))
    described["outputs"]["features"] |= {"num_channels": width, "spatial_shape": [1, width]}
    _rewrite(folder, "pretrain", {key: trained[key] for key in ("image_size", "image_encoder")})


def _describe_image(described: dict[str, Any], size: int, preprocessing: Mapping[str, Any]) -> None:
    described["inputs"]["image"] |= {"spatial_shape": [size, size], "preprocessing": dict(preprocessing)}


def _describe_labels(described: dict[str, Any], names: list[str]) -> None:
    described |= {
        "num_channels": len(names),
        "spatial_shape": [1, len(names)],
        "channel_def": {str(number): name for number, name in enumerate(names)},
    }


def _without_places(configuration: Mapping[str, Any], shipped: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration with the shipped values where it names places on its machine, users among them."""
    return dict(configuration) | {key: shipped[key] for key in OF_THE_MACHINE if key in shipped}


def _rewrite(folder: Path, name: str, changes: Mapping[str, Any]) -> None:
    """Set top-level keys of a configuration, its comments kept; and write it as JSON for `monai.bundle.load`."""
    path = folder / "configs" / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    for key, value in changes.items():
        block = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=120)
        pattern = rf"^{key}:.*\n(?:[ -].*\n)*"
        text, found = re.subn(pattern, block.replace("\\", r"\\"), text, flags=re.MULTILINE)
        if found != 1:
            raise ConfigurationError(f"{path.name} of the bundle has {found} keys {key}, not one; install it again")
    path.write_text(text, encoding="utf-8")
    write_json(path.with_suffix(".json"), ConfigParser.load_config_file(path))


def _zipped(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            file.write(path, path.relative_to(folder.parent))
    return archive
