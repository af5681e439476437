"""What `config.json` of an exported classifier says, checked: it may come from anywhere."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from local_mi.errors import ConfigurationError
from local_mi.paper_resnet import PaperResNet
from monai.networks import nets
from monai.networks.nets import DenseNet, ResNet
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator
from torch import nn

from pipelines.export_description import CONFIG
from pipelines.export_networks import TO_TRAIN_FROM
from preprocessing.preparation import INTERPOLATIONS
from preprocessing.rendering import PRESETS

Text = Annotated[str, Field(min_length=1, strict=True)]
Side = Annotated[int, Field(ge=32, le=8192, strict=True)]
Flag = Annotated[bool, Field(strict=True)]


def _one_of(known: tuple[str, ...], value: str) -> str:
    if value not in known:
        raise ValueError(f"is none of {', '.join(known)}")
    return value


class Calibration(BaseModel):
    """By label; thresholds are of probabilities before the temperature."""

    temperature: dict[Text, Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    threshold: dict[Text, Annotated[float, Field(ge=0, le=1)]]


class PreparedAs(BaseModel):
    """The fields of `preprocessing.preparation.Preparation`."""

    preset: Annotated[str, AfterValidator(partial(_one_of, tuple(PRESETS)))]
    size: Side
    bit_depth: Literal[8, 16]
    interpolation: Annotated[str, AfterValidator(partial(_one_of, INTERPOLATIONS))]
    crop: Flag
    reduced_resolution: Flag


class Network(BaseModel):
    """See `export_networks.network_description`."""

    class_: Text = Field(alias="class")
    arguments: dict[str, Any]
    file: Text | None


class ClassifierDescription(BaseModel):
    """What prediction needs of `config.json`."""

    kind: Literal["classifier"]
    network: Network
    image_size: Side
    views: list[Text] | None
    label_names: Annotated[list[Text], Field(min_length=1)]
    calibration: Calibration | None
    preprocessing: PreparedAs
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        if len(set(self.label_names)) < len(self.label_names):
            raise ValueError("label_names has a name twice")
        return self


def read_description(folder: Path) -> ClassifierDescription:
    """Read `config.json`.

    Raises:
        ConfigurationError: it is not there, or not that of a classifier for images whose preparation is known.
    """
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{folder} holds no exported classifier ({CONFIG} cannot be read); run `cxr-local-mi export RUN "
            "FOLDER` first"
        ) from error
    try:
        return ClassifierDescription.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ConfigurationError(
            f"{path}: {place}: {first['msg']}; ingest, train and export again with this version"
        ) from None


def network_of(made: Network, folder: Path) -> nn.Module:
    """The network that is described, with random weights.

    No class but ResNets, DenseNets and the paper's network is made, and no argument is given that fetches weights:
    what stands in the file is made before anything is known of the weights.

    Raises:
        ConfigurationError: it is none of these, or its arguments are none of such a network.
    """
    classes = {PaperResNet.__name__: PaperResNet} if made.file else vars(nets)
    name = made.class_
    known = made.file or name.lower().startswith(("resnet", "densenet"))
    try:
        if not known or not set(TO_TRAIN_FROM).isdisjoint(made.arguments):
            raise ValueError(name)
        network = classes[name](**made.arguments)
        if not isinstance(network, ResNet | DenseNet | PaperResNet):
            raise TypeError(name)
    except Exception as error:  # whatever a network raises of arguments that it cannot be made with
        raise ConfigurationError(
            f"{folder / CONFIG}: the network {name} cannot be made as it is described; export the run again"
        ) from error
    return network
