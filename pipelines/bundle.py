"""Runs the MONAI bundle as a user would: MONAI's own workflow class with the bundle's configuration.

`cxr-local-mi pretrain` and `python -m monai.bundle run --config_file configs/pretrain.yaml` are the same thing; here
the paths are given for the user and errors come out as one sentence.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import local_mi
from local_mi.datalist import read_datalist
from local_mi.errors import ConfigurationError
from local_mi.handlers import read_record
from local_mi.start import refuse_unknown_keys
from local_mi.weights import load_checkpoint
from monai.bundle import ConfigParser, ConfigWorkflow

PRETRAINED = "pretrained.pt"
CLASSIFIER = "model.pt"


def bundle_folder() -> Path:
    """Where the bundle lies: in a checkout around its package, in an installed wheel inside it."""
    package = Path(local_mi.__file__).parent
    installed = package / "bundle"
    return installed if installed.is_dir() else package.parent


def copy_bundle(folder: Path) -> Path:
    """Copy the bundle (configuration, package, documents, licence) into a new folder, complete by itself.

    Raises:
        ConfigurationError: the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} exists and is not empty; name a new folder for the bundle")
    source = bundle_folder()
    for part in ("configs", "docs"):
        shutil.copytree(source / part, folder / part)
    shutil.copy2(source / "LICENSE", folder / "LICENSE")
    package = Path(local_mi.__file__).parent
    shutil.copytree(package, folder / "local_mi", ignore=shutil.ignore_patterns("__pycache__", "bundle"))
    return folder


def pretrain(store: Path, run: Path, overrides: Mapping[str, Any]) -> Path:
    """Pretrain on a store; returns the image encoder's weights.

    Raises:
        ConfigurationError: the store, a key or the data cannot be used.
    """
    run_workflow([_config("pretrain")], _paths(store, run) | dict(overrides))
    return run / "models" / "image_encoder.safetensors"


def train(store: Path, run: Path, pretrained: Path | None, overrides: Mapping[str, Any]) -> Path:
    """Train the classifier on a store, from encoder weights or from none; returns its weights.

    Without `label_names` among the overrides, the labels are all that the store has.
    """
    given = _paths(store, run) | {"pretrained": str(pretrained) if pretrained else None}
    if "label_names" not in overrides:
        given["label_names"] = _label_names(store)
    run_workflow([_config("train")], given | dict(overrides))
    return run / "models" / CLASSIFIER


def evaluate(store: Path, run: Path, stage: str, overrides: Mapping[str, Any]) -> dict[str, float | None]:
    """Metrics of a run on a held-out split, written to `<stage>_metrics.json` of the run.

    Args:
        store: the data.
        run: folder of the run.
        stage: `pretrain` (retrieval and mutual information) or `train` (area under the ROC curve).
        overrides: configuration keys, for instance `validation_split`.
    """
    metrics = run / f"{stage}_metrics.json"
    given = _paths(store, run) | {"metrics_file": str(metrics), "start#name": f"evaluate_{stage}"}
    run_workflow([_config_of_run(run, stage), _config("evaluate")], given | dict(overrides))
    values: dict[str, float | None] = json.loads(metrics.read_text(encoding="utf-8"))
    return values


def inference(store: Path, run: Path, overrides: Mapping[str, Any]) -> Path:
    """Probabilities of every image of a split by a run's classifier; returns the CSV."""
    record = read_record(str(run / "models" / CLASSIFIER))
    if record is None:
        raise ConfigurationError(f"no classifier in {run / 'models'}; run `cxr-local-mi train` first")
    trained = run_configuration(run, "train")
    given = _paths(store, run) | {key: trained[key] for key in ("network_def", "image_size", "views", "device")}
    given["label_names"] = record["label_names"]
    run_workflow([_config("inference")], given | dict(overrides))
    return run / "predictions.csv"


def pretrained_network(run: Path) -> Any:
    """The joint network of a pretraining run with its best weights, on the CPU, in evaluation mode.

    Raises:
        ConfigurationError: the run is not there or not whole.
    """
    parser = ConfigParser(run_configuration(run, "pretrain"))
    models = run / "models"
    parser.update(
        {
            "ckpt_dir": str(models),
            "text_model": str(models / "text_model"),
            "checkpoint": str(models / PRETRAINED),
            "device": "cpu",
        }
    )
    with one_sentence():
        network = parser.get_parsed_content("network_def")
        load_checkpoint(network, str(models / PRETRAINED))
    return network.eval()


def run_configuration(run: Path, stage: str) -> dict[str, Any]:
    """The merged configuration that a `pretrain` or `train` run was made with.

    Raises:
        ConfigurationError: the run is not there.
    """
    configuration: dict[str, Any] = json.loads(_config_of_run(run, stage).read_text(encoding="utf-8"))
    return configuration


def run_workflow(configs: Sequence[Path], overrides: Mapping[str, Any]) -> None:
    """Run MONAI's ConfigWorkflow over configuration files merged in order, with keys overridden.

    Raises:
        ConfigurationError: an unknown key, or whatever the bundle says cannot be used.
    """
    files = [str(path) for path in configs]
    refuse_unknown_keys(ConfigParser.load_config_files(files), list(overrides))
    folder = bundle_folder() / "configs"
    with one_sentence():
        workflow = ConfigWorkflow(
            config_file=files,
            meta_file=str(folder / "metadata.json"),
            logging_file=str(folder / "logging.conf"),
            **overrides,
        )
        configuration = {key: value for key, value in workflow.parser.config.items() if key != "_meta_"}
        workflow.parser["start::configuration"] = json.dumps(configuration)
        workflow.initialize()
        workflow.run()
        workflow.finalize()


class one_sentence:  # noqa: N801 -- a context manager reads as a phrase
    """Lets a ConfigurationError out of MONAI's nested RuntimeErrors."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raise the innermost ConfigurationError of the chain, if there is one."""
        for cause in _causes(error):
            if isinstance(cause, ConfigurationError):
                raise cause from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _config(name: str) -> Path:
    return bundle_folder() / "configs" / f"{name}.yaml"


def _config_of_run(run: Path, stage: str) -> Path:
    path = run / f"{stage}_config.json"
    if not path.is_file():
        raise ConfigurationError(
            f"{run} holds no {stage} run ({path.name} is missing); run `cxr-local-mi {stage}` first"
        )
    return path


def _paths(store: Path, run: Path) -> dict[str, Any]:
    return {
        "bundle_root": str(bundle_folder()),
        "dataset_dir": str(store),
        "ckpt_dir": str(run / "models"),
        "output_dir": str(run),
    }


def _label_names(store: Path) -> list[str]:
    names: list[str] = read_datalist(str(store / "datalist.json")).get("label_names", [])
    if not names:
        raise ConfigurationError(f"the store {store} has no labels; ingest with --labels TABLE")
    return names
