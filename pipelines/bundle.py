"""Runs the MONAI bundle as a user would: MONAI's own workflow class with the bundle's configuration.

`cxr-local-mi pretrain` and `python -m monai.bundle run --config_file configs/pretrain.yaml` are the same thing; here
the paths are given for the user and errors come out as one sentence.
"""

import json
import logging
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import local_mi
import torch
from local_mi.checkpoints import load_checkpoint, read_record
from local_mi.datalist import read_datalist
from local_mi.errors import ConfigurationError
from local_mi.start import refuse_unknown_keys
from local_mi.weights import read_encoder
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import OptionalImportError

PRETRAINED = "pretrained.pt"
CLASSIFIER = "model.pt"
ENCODER = "image_encoder.safetensors"
CHECKPOINTS = {"pretrain": PRETRAINED, "train": CLASSIFIER}
GIVEN = (
    "bundle_root",
    "dataset_dir",
    "datalist",
    "ckpt_dir",
    "output_dir",
    "checkpoint",
    "encoder_weights",
    "metrics_file",
    "predictions",
)
"""Keys that follow from the store and the run folder; set apart, a command would report on another run's files."""

OF_A_WORKER = re.compile(r"^local_mi\.errors\.ConfigurationError: (.+)$", re.MULTILINE)
"""What a data loader's worker had to say, in the traceback that PyTorch makes the text of its own error."""


def bundle_folder() -> Path:
    """Where the bundle lies: in a checkout around its package, in an installed wheel inside it."""
    package = Path(local_mi.__file__).parent
    installed = package / "bundle"
    return installed if installed.is_dir() else package.parent


def pretrain(store: Path, run: Path, overrides: Mapping[str, Any]) -> Path:
    """Pretrain on a store; returns the image encoder's weights.

    Raises:
        ConfigurationError: the store, a key or the data cannot be used.
    """
    run_workflow([_config("pretrain")], _paths(store, run), overrides)
    return run / "models" / ENCODER


def train(
    store: Path, run: Path, pretrained: Path | None, overrides: Mapping[str, Any], encoder: str = "finetune"
) -> Path:
    """Train the classifier on a store, from encoder weights or from none; returns its weights.

    Args:
        store: the data.
        run: folder of the run.
        pretrained: encoder weights, or None for random ones.
        overrides: configuration keys; without `label_names` among them, the labels are all that the store has.
        encoder: `finetune`, or `frozen`: a linear probe.
    """
    if pretrained is not None:
        read_encoder(str(pretrained))  # before anything is written
    given = _paths(store, run) | {"pretrained": str(pretrained) if pretrained else None}
    if "label_names" not in overrides:
        given["label_names"] = _label_names(store)
    overlays = {"finetune": [], "frozen": [_config("frozen")]}[encoder]
    run_workflow([_config("train"), *overlays], given, overrides)
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
    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder) / f"{stage}.json"
        trained.write_text(json.dumps(run_configuration(run, stage)), encoding="utf-8")
        run_workflow([trained, _config("evaluate")], given, overrides)
    values: dict[str, float | None] = json.loads(metrics.read_text(encoding="utf-8"))
    return values


def inference(
    store: Path, run: Path, overrides: Mapping[str, Any], split: str = "test", name: str = "predictions"
) -> Path:
    """Probabilities of every image of a split by a run's classifier; returns the CSV, `<name>.csv` of the run."""
    trained = run_configuration(run, "train")
    predictions = run / f"{name}.csv"
    given = _paths(store, run) | {"split": split, "predictions": str(predictions)}
    given |= {key: trained[key] for key in ("network_def", "image_size", "views", "label_names")}
    given["preprocessing#transforms"] = trained["train"]["deterministic_transforms"]
    run_workflow([_config("inference")], given, overrides)
    return predictions


def pretrained_network(run: Path) -> Any:
    """The joint network of a pretraining run with its best weights, on the CPU, in evaluation mode.

    Raises:
        ConfigurationError: the run is not there or not whole.
    """
    parser = ConfigParser(run_configuration(run, "pretrain"))
    checkpoint = run / "models" / PRETRAINED
    parser.update({"text_model_dir": str(run / "models" / "text_model"), "device": "cpu"})
    with one_sentence():
        network = parser.get_parsed_content("network_def")
        load_checkpoint(network, str(checkpoint))
    return network.eval()


def run_configuration(run: Path, stage: str) -> dict[str, Any]:
    """The merged configuration that the kept weights of a `pretrain` or `train` run were made with.

    It stands in the weights' record, since a later attempt in the same folder may have had another one and done worse.

    Raises:
        ConfigurationError: the run is not there.
    """
    record = read_record(str(run / "models" / CHECKPOINTS[stage]))
    if record is None or not record.get("configuration"):
        raise ConfigurationError(f"{run} holds no {stage} run; run `cxr-local-mi {stage}` first")
    configuration: dict[str, Any] = record["configuration"]
    return configuration


def run_workflow(configs: Sequence[Path], given: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Run MONAI's ConfigWorkflow over configuration files merged in order, with keys overridden.

    Args:
        configs: files, later ones win.
        given: keys that the command sets.
        overrides: keys that the user sets; they win.

    Raises:
        ConfigurationError: an unknown key, or whatever the bundle says cannot be used.
    """
    if own := sorted(set(overrides) & set(GIVEN)):
        raise ConfigurationError(f"the key '{own[0]}' follows from the store and the run folder; name others instead")
    files = [str(path) for path in configs]
    refuse_unknown_keys(ConfigParser.load_config_files(files), list(overrides))
    folder = bundle_folder() / "configs"
    with one_sentence(), _logs_on_stderr():
        workflow = ConfigWorkflow(
            config_file=files,
            meta_file=str(folder / "metadata.json"),
            logging_file=str(folder / "logging.conf"),
            **dict(given) | dict(overrides),
        )
        configuration = {key: value for key, value in workflow.parser.config.items() if key != "_meta_"}
        workflow.parser["start::configuration"] = json.dumps(configuration)
        workflow.initialize()
        workflow.run()
        workflow.finalize()


@contextmanager
def one_sentence() -> Iterator[None]:
    """Lets the innermost error that people can act on out of MONAI's nested RuntimeErrors."""
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            if said := OF_A_WORKER.findall(str(cause)):
                raise ConfigurationError(said[0]) from None
            if isinstance(cause, ConfigurationError | OSError):
                raise cause from None
            if isinstance(cause, FloatingPointError | torch.OutOfMemoryError | OptionalImportError):
                raise ConfigurationError(str(cause).split("\n", 1)[0]) from None
        raise


@contextmanager
def _logs_on_stderr() -> Iterator[None]:
    """MONAI's loggers write to stdout, which is for results; of an error they log what is raised and printed anyway."""
    for logger in logging.Logger.manager.loggerDict.values():
        for handler in getattr(logger, "handlers", []):
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.setStream(sys.stderr)
                handler.addFilter(_without_traceback)
    with redirect_stdout(sys.stderr):
        yield


def _without_traceback(record: logging.LogRecord) -> bool:
    """Leave the first line of an error."""
    if record.levelno >= logging.ERROR:
        record.msg, record.args = record.getMessage().split("\n", 1)[0], ()
        record.exc_info = record.exc_text = None
    return True


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _config(name: str) -> Path:
    return bundle_folder() / "configs" / f"{name}.yaml"


def _paths(store: Path, run: Path) -> dict[str, Any]:
    if (store / "store.json").is_file() and not (store / "run.json").is_file():
        raise ConfigurationError(f"the store {store} is not complete; run `cxr-local-mi ingest` again")
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
