"""A trained network as files of every format; `export_check` loads them back.

TorchScript and ONNX are made by MONAI's own bundle commands, from a configuration of the network and its state.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from local_mi.errors import ConfigurationError
from local_mi.files import write_json
from monai.bundle import ConfigParser, ckpt_export, onnx_export
from safetensors.torch import save_file

from pipelines.bundle import bundle_folder, run_configuration
from pipelines.export_description import WEIGHTS
from pipelines.export_networks import MONAI_NETWORKS, PAPER_NETWORK, TrainedNetwork
from pipelines.export_traces import strip_onnx, strip_program, strip_torchscript

FILES = {
    "safetensors": WEIGHTS,
    "torchscript": "model.ts",
    "torch-export": "model.pt2",
    "onnx": "model.onnx",
}
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18  # what PyTorch's converter writes without translating between versions
OUTPUT = {"classifier": "logits", "encoder": "features"}
EXAMPLE_BATCH = 2  # a batch of 1 would be taken for a constant
SHORT = 200  # characters of a converter's reason


def chosen_formats(formats: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """Formats to write, and why others are left out; weights as safetensors are always among them.

    Args:
        formats: by name; None: all that can be written here.

    Raises:
        ConfigurationError: an unknown one, or one that needs a package that is not here.
    """
    wanted = list(FILES) if formats is None else [name for name in FILES if name in formats or name == "safetensors"]
    if unknown := sorted(set(formats or ()) - set(FILES)):
        raise ConfigurationError(f"unknown format {unknown[0]!r}; formats are {', '.join(FILES)}")
    missing = [package for package in ONNX_PACKAGES if find_spec(package) is None]
    if "onnx" not in wanted or not missing:
        return wanted, {}
    reason = f"{missing[0]} is not installed; pip install 'cxr-local-mi[onnx]'"
    if formats is not None:
        raise ConfigurationError(f"ONNX cannot be written and checked: {reason}")
    wanted.remove("onnx")
    return wanted, {"onnx": reason}


def write_formats(
    trained: TrainedNetwork, run: Path, folder: Path, formats: Sequence[str], work: Path
) -> dict[str, str]:
    """Write a network in the formats asked for.

    Args:
        trained: the network.
        run: folder of its run.
        folder: that the files go to.
        formats: of `chosen_formats`.
        work: a folder for files on the way.

    Returns:
        Why a format is not there, for those that cannot hold this network.
    """
    _write_weights(trained, folder)
    torch.save(trained.network.state_dict(), work / "state.pt")
    left_out = {}
    for name in formats:
        if name == "safetensors":
            continue
        try:
            with _quiet():
                CONVERTERS[name](trained, run, folder / FILES[name], work)
        except (OSError, ConfigurationError):
            raise
        except Exception as error:  # converters raise whatever they stumble over in a network
            (folder / FILES[name]).unlink(missing_ok=True)
            left_out[name] = f"cannot hold this network: {_first_line(error)}"
    return left_out


def _write_weights(trained: TrainedNetwork, folder: Path) -> None:
    state = {key: value.detach().cpu().contiguous() for key, value in trained.network.state_dict().items()}
    save_file(state, folder / FILES["safetensors"], metadata={"format": "pt"})


def _torchscript(trained: TrainedNetwork, run: Path, path: Path, work: Path) -> None:
    """With `extra/metadata.json` and, of a classifier, `extra/inference.json`, which MONAI Deploy reads."""
    if trained.kind == "classifier":
        configuration = work / "inference.json"
        write_json(configuration, inference_configuration(trained, run))
    else:
        configuration = _network_configuration(trained, work)
    metadata = work / "metadata.json"
    write_json(metadata, network_metadata(trained))
    ckpt_export(
        _network_id(trained),
        filepath=str(path),
        ckpt_file=str(work / "state.pt"),
        meta_file=str(metadata),
        config_file=str(configuration),
    )
    strip_torchscript(path)


def _torch_export(trained: TrainedNetwork, run: Path, path: Path, work: Path) -> None:
    program = torch.export.export(trained.network, (_example(trained),), dynamic_shapes=_dynamic_batch())
    strip_program(program)
    torch.export.save(program, path)


def _onnx(trained: TrainedNetwork, run: Path, path: Path, work: Path) -> None:
    onnx_export(
        _network_id(trained),
        filepath=str(path),
        ckpt_file=str(work / "state.pt"),
        config_file=str(_network_configuration(trained, work)),
        use_trace=True,  # only then are further arguments handed on to PyTorch
        input_shape=list(_example(trained).shape),
        converter_kwargs={
            "input_names": ["image"],
            "output_names": [OUTPUT[trained.kind]],
            "dynamic_shapes": _dynamic_batch(),
            "opset_version": OPSET,
            "external_data": False,  # or MONAI leaves the weights behind among the temporary files
            "verbose": False,
        },
    )
    strip_onnx(path)


CONVERTERS: dict[str, Callable[[TrainedNetwork, Path, Path, Path], None]] = {
    "torchscript": _torchscript,
    "torch-export": _torch_export,
    "onnx": _onnx,
}


def _example(trained: TrainedNetwork) -> torch.Tensor:
    return torch.zeros(EXAMPLE_BATCH, 1, trained.image_size, trained.image_size)


def _dynamic_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch", min=1)},)


def _network_configuration(trained: TrainedNetwork, work: Path) -> Path:
    path = work / "network.json"
    write_json(path, {"network_def": _component(trained), "part": f"$@network_def.{trained.made_of['part']}"})
    return path


def _network_id(trained: TrainedNetwork) -> str:
    return "part" if trained.made_of["part"] else "network_def"


def _component(trained: TrainedNetwork) -> dict[str, Any]:
    made = trained.made_of
    target = PAPER_NETWORK if made["file"] else f"{MONAI_NETWORKS}{made['class']}"
    return {"_target_": target, **made["arguments"]}


def inference_configuration(trained: TrainedNetwork, run: Path) -> dict[str, Any]:
    """The bundle's inference with a run's classifier.

    Its own way of preparing images goes for pictures that are not square too; transforms that the run changed win.
    """
    configs = bundle_folder() / "configs"
    configuration: dict[str, Any] = ConfigParser.load_config_file(configs / "inference.yaml")
    shipped = ConfigParser.load_config_file(configs / "train.yaml")["train"]["deterministic_transforms"]
    transforms = run_configuration(run, "train")["train"]["deterministic_transforms"]
    if transforms != shipped:
        configuration["preprocessing"]["transforms"] = transforms
    given = {"image_size": trained.image_size, "views": trained.views, "label_names": trained.label_names}
    return configuration | given | {"network_def": _component(trained)}


def network_metadata(trained: TrainedNetwork) -> dict[str, Any]:
    """The bundle's metadata with this network's image size and outputs."""
    text = (bundle_folder() / "configs" / "metadata.json").read_text(encoding="utf-8")
    metadata: dict[str, Any] = json.loads(text)
    encoder = metadata.pop("image_encoder_data_format")
    size = [trained.image_size, trained.image_size]
    if trained.kind == "encoder":
        metadata["network_data_format"] = encoder
        with torch.no_grad():
            features = trained.network(_example(trained)).shape
        encoder["outputs"]["features"] |= {"num_channels": features[1], "spatial_shape": [1, *features[1:]]}
    else:
        names = trained.label_names or []
        outputs = metadata["network_data_format"]["outputs"]["pred"]
        outputs |= {"num_channels": len(names), "spatial_shape": [1, len(names)]}
        outputs["channel_def"] = {str(index): name for index, name in enumerate(names)}
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = size
    return metadata


@contextmanager
def _quiet() -> Iterator[None]:
    """Converters tell of their steps on stdout, which is for results, and warn of what is checked afterwards."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _first_line(error: Exception) -> str:
    line = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
    return shorten(line, SHORT)
