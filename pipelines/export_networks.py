"""The networks of a run as they were trained, and how others make the same ones: what `export` writes out."""

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from local_mi import paper_resnet
from local_mi.checkpoints import load_checkpoint, read_record
from local_mi.errors import ConfigurationError
from local_mi.paper_resnet import PaperResNet
from monai.bundle import ConfigParser
from monai.networks import nets
from monai.networks.nets import DenseNet, ResNet
from torch import nn

from pipelines.bundle import CHECKPOINTS, one_sentence, pretrained_network, run_configuration

MONAI_NETWORKS = "monai.networks.nets."
PAPER_NETWORK = f"{paper_resnet.__name__}.{PaperResNet.__name__}"
PAPER_FILE = "paper_resnet.py"
TO_TRAIN_FROM = ("pretrained", "progress")  # arguments of MONAI's classes that fetch weights, which follow anyway

Kind = Literal["encoder", "classifier"]
Stage = Literal["pretrain", "train"]


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network of a run.

    Args:
        kind: `encoder` has no head.
        stage: of the run that trained it.
        network: on the CPU, in evaluation mode: (B, 1, image_size, image_size) -> logits, or features.
        made_of: of `network_description`.
        image_size: pixels a side.
        views: view positions that it was trained on; None: all.
        label_names: of the logits; None of an encoder.
        record: of the checkpoint.
    """

    kind: Kind
    stage: Stage
    network: nn.Module
    made_of: dict[str, Any]
    image_size: int
    views: list[str] | None
    label_names: list[str] | None
    record: dict[str, Any]


def networks_of_run(run: Path) -> list[TrainedNetwork]:
    """The encoder of a run, that of its pretraining where it has one, and the classifier, where it has one.

    Raises:
        ConfigurationError: the run is not there, not whole, or of a network that others could not make.
    """
    has = {stage: (run / "models" / file).is_file() for stage, file in CHECKPOINTS.items()}
    if not any(has.values()):
        raise ConfigurationError(f"{run} holds no run; run `cxr-local-mi pretrain` or `cxr-local-mi train` first")
    found = []
    if has["pretrain"]:
        found.append(_trained(run, "pretrain", "encoder", pretrained_network(run).image_encoder))
    if has["train"]:
        classifier = _classifier(run)
        if not has["pretrain"]:
            found.append(_trained(run, "train", "encoder", classifier))
        found.append(_trained(run, "train", "classifier", classifier))
    return found


def network_description(configuration: dict[str, Any], key: str, kind: Kind) -> dict[str, Any]:
    """How `load_model.py` makes the network that stands under a key of a configuration.

    Returns:
        `class` with its `arguments`, the `file` beside the weights that holds it (None: `monai.networks.nets` does),
        and the `part` of it that is meant (None: all of it).

    Raises:
        ConfigurationError: a network that is neither MONAI's nor the paper's, or is made from something that no JSON
            file can hold.
    """
    component = ConfigParser(configuration).get_parsed_content(key, instantiate=False)
    arguments = {name: value for name, value in component.get_config().items() if name not in TO_TRAIN_FROM}
    target = str(arguments.pop("_target_"))
    name = target.rpartition(".")[2]
    if not _is_known(target, name):
        raise ConfigurationError(
            f"the network {target} cannot be exported: it is neither of {MONAI_NETWORKS}* nor {PAPER_NETWORK}"
        )
    is_densenet = name.lower().startswith("densenet")
    if kind == "encoder" and not is_densenet:
        arguments.pop("num_classes", None)
        arguments |= {"num_classes": None} if target == PAPER_NETWORK else {"feed_forward": False}
    try:
        arguments = json.loads(json.dumps(arguments, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"the network {target} cannot be exported: its arguments are not all numbers, texts and lists; write "
            "`block: basic` rather than a class, for instance"
        ) from error
    part = "features" if kind == "encoder" and is_densenet else None
    file = PAPER_FILE if target == PAPER_NETWORK else None
    return {"class": name, "arguments": arguments, "file": file, "part": part}


def _is_known(target: str, name: str) -> bool:
    of_monai = target == name or target.startswith(MONAI_NETWORKS)
    return target == PAPER_NETWORK or (of_monai and hasattr(nets, name))


def without_head(network: nn.Module) -> nn.Module:
    """The encoder in a network, itself left as it is: a ResNet or the paper's without `fc`, a DenseNet's `features`.

    Raises:
        ConfigurationError: of another class.
    """
    if isinstance(network, DenseNet):
        features: nn.Module = network.features
        return features
    if not isinstance(network, ResNet | PaperResNet):
        raise ConfigurationError(f"the encoder in a {type(network).__name__} is not known; use a ResNet or DenseNet")
    encoder = deepcopy(network)
    encoder.fc = None
    return encoder


def _classifier(run: Path) -> nn.Module:
    configuration = run_configuration(run, "train")
    with one_sentence():
        network: nn.Module = ConfigParser(_on_random_weights(configuration)).get_parsed_content("network_def")
        load_checkpoint(network, str(run / "models" / CHECKPOINTS["train"]))
    return network.eval()


def _on_random_weights(configuration: dict[str, Any]) -> dict[str, Any]:
    network = {key: value for key, value in configuration["network_def"].items() if key not in TO_TRAIN_FROM}
    return configuration | {"network_def": network}


def _trained(run: Path, stage: Stage, kind: Kind, network: nn.Module) -> TrainedNetwork:
    configuration = run_configuration(run, stage)
    parser = ConfigParser(configuration)
    views, names = parser.get_parsed_content("views"), parser.get_parsed_content("label_names")
    key = {"pretrain": "image_encoder", "train": "network_def"}[stage]
    return TrainedNetwork(
        kind=kind,
        stage=stage,
        network=without_head(network) if kind == "encoder" else network,
        made_of=network_description(configuration, key, kind),
        image_size=int(parser.get_parsed_content("image_size")),
        views=None if views is None else [str(view) for view in views],
        label_names=[str(name) for name in names] if kind == "classifier" else None,
        record=read_record(str(run / "models" / CHECKPOINTS[stage])) or {},
    )
