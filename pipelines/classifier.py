"""An exported classifier as batch prediction uses it: its network, and all that has to agree with it.

Reads the folder that `export` writes: `config.json` and `model.safetensors`, and no line of code from it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from local_mi.calibration import apply_temperature
from local_mi.errors import ConfigurationError
from monai.networks import nets
from monai.visualize import GradCAM
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from pipelines.classifier_description import ClassifierDescription, network_of, read_description
from pipelines.export_description import CONFIG, WEIGHTS
from preprocessing.preparation import Preparation

CLASSIFIER_FOLDER = "classifier"  # of an export, where that holds the encoder too


@dataclass(frozen=True)
class Prediction:
    """Of one image.

    Args:
        probabilities: (L,) after the temperatures, where the classifier has them.
        is_present: of each label whether it reaches its threshold; None where it has none.
    """

    probabilities: NDArray[np.float64]
    is_present: tuple[bool | None, ...]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network for radiographs, L labels.

    Args:
        network: (B, 1, size, size) in [0, 1] -> logits (B, L).
        label_names: in the order of the outputs.
        image_size: side of the network's images in pixels.
        views: the view positions that it was trained on; None: all.
        preparation: how the images were prepared that it was trained on.
        temperatures: (L,) by which logits are divided; None: probabilities are as the network has them.
        thresholds: (L,) of probabilities before the temperature; NaN where a label has none.
        sha256: of the weights.
        device: where the network is.
    """

    network: nn.Module
    label_names: tuple[str, ...]
    image_size: int
    views: tuple[str, ...] | None
    preparation: Preparation
    temperatures: NDArray[np.float64] | None
    thresholds: NDArray[np.float64]
    sha256: str
    device: torch.device

    def predict(self, images: NDArray[np.unsignedinteger[Any]]) -> list[Prediction]:
        """Predictions of images (B, S, S) as the preparation makes them, of any side S."""
        with torch.no_grad():
            logits = self.network(self._scaled(images))
        raw = torch.sigmoid(logits.double()).cpu().numpy()
        calibrated = raw if self.temperatures is None else apply_temperature(raw, self.temperatures)
        return [Prediction(*of_image) for of_image in zip(calibrated, map(self._decisions, raw), strict=True)]

    def _decisions(self, raw: NDArray[np.float64]) -> tuple[bool | None, ...]:
        pairs = zip(raw, self.thresholds, strict=True)
        return tuple(None if np.isnan(threshold) else bool(value >= threshold) for value, threshold in pairs)

    def digest(self) -> str:
        """SHA-256 of all that decides what is predicted: the weights, and what `config.json` says beside them."""
        calibration = (
            None if self.temperatures is None else self.temperatures.tolist(),
            repr(self.thresholds.tolist()),
        )
        said = (self.sha256, self.label_names, self.image_size, self.views, asdict(self.preparation), calibration)
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def calibrated_threshold(self, label: int) -> float | None:
        """The threshold on the scale of `Prediction.probabilities`."""
        threshold = self.thresholds[label : label + 1]
        if np.isnan(threshold[0]):
            return None
        if self.temperatures is not None:
            threshold = apply_temperature(threshold, self.temperatures[label : label + 1])
        return float(threshold[0])

    def evidence(self, image: NDArray[np.unsignedinteger[Any]], label: int) -> NDArray[np.float32]:
        """Where a label's logit comes from in an image (S, S): (h, w), 0 where nothing speaks for it.

        Grad-CAM (Selvaraju et al., ICCV 2017) of the network's last map.
        """
        found = self._grad_cam.compute_map(self._scaled(image[None]).requires_grad_(), class_idx=label)
        self.network.zero_grad()
        return np.asarray(found[0, 0].detach().cpu(), np.float32)

    @cached_property
    def _grad_cam(self) -> GradCAM:
        """MONAI's hooks stay on the network: made once, and only where evidence is asked for."""
        if isinstance(self.network, nets.DenseNet):  # its rectifier works in place, which hooks before it do not bear
            return GradCAM(self.network, target_layers="class_layers.relu")
        stages = [name for name, _ in self.network.named_children() if name.startswith("layer")]
        if not stages:
            raise ConfigurationError(
                f"heat maps are made of ResNets and DenseNets, and this is a {type(self.network).__name__}; predict "
                "without --maps and --dicom"
            )
        return GradCAM(self.network, target_layers=stages[-1])

    def _scaled(self, images: NDArray[np.unsignedinteger[Any]]) -> Tensor:
        """As training has it: area means to the network's size, values divided by full scale."""
        scaled = torch.from_numpy(images.astype(np.float32)).to(self.device)[:, None]
        if images.shape[-1] != self.image_size:
            scaled = F.interpolate(scaled, (self.image_size, self.image_size), mode="area")
        return scaled / np.iinfo(images.dtype).max


def load_classifier(folder: Path, device: torch.device | None = None) -> Classifier:
    """Load an exported classifier, in evaluation mode.

    Args:
        folder: an export of a training run, or its folder `classifier`.
        device: the first GPU where there is one, else the processor, if None.

    Raises:
        ConfigurationError: no export of a classifier, damaged, of something else than it says, or of images whose
            preparation it does not say.
    """
    if (folder / CLASSIFIER_FOLDER / CONFIG).is_file():
        folder = folder / CLASSIFIER_FOLDER
    described = read_description(folder)
    network = network_of(described.network, folder)
    _load_weights(network, folder / WEIGHTS, described.weights_sha256)
    _check_outputs(network.eval(), described, folder)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on processors
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names, calibration = described.label_names, described.calibration
    temperatures, thresholds = None, dict[str, float]()
    if calibration is not None:
        temperatures = np.array([calibration.temperature.get(name, 1.0) for name in names])
        thresholds = calibration.threshold
    return Classifier(
        network.to(device),
        tuple(names),
        described.image_size,
        None if described.views is None else tuple(described.views),
        Preparation(**described.preprocessing.model_dump()),
        temperatures,
        np.array([thresholds.get(name, np.nan) for name in names]),
        described.weights_sha256,
        device,
    )


def _check_outputs(network: nn.Module, described: ClassifierDescription, folder: Path) -> None:
    size, labels = described.image_size, len(described.label_names)
    try:
        with torch.no_grad():
            outputs = tuple(network(torch.zeros(1, 1, size, size)).shape)
    except RuntimeError:
        outputs = ()
    if outputs != (1, labels):
        raise ConfigurationError(
            f"{folder}: its network does not give {labels} outputs, one for each of `label_names`, for an image of "
            f"{size} pixels a side; export the run again"
        )


def _load_weights(network: nn.Module, path: Path, sha256: str) -> None:
    """Load safetensors, which hold no code; a pickle is refused unread."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}); export the run again") from error
    try:
        state = load(content)
    except SafetensorError as error:
        raise ConfigurationError(f"{path} is no whole safetensors file; export the run again") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ConfigurationError(f"{path} and {CONFIG} are not of one export; export the run again")
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ConfigurationError(
            f"{path} does not fit the network that {CONFIG} describes; export the run again"
        ) from error
