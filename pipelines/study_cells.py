"""The cells of a study: one pretraining, one classifier or one probe of pixels each, in a folder of its own, done once.

A cell's folder holds `cell.json` when it is whole. What the cell was made of (settings, data, weights) stands in it as
a hash, so that a cell of other settings is made again and an equal one is not.
"""

import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from local_mi.checkpoints import read_record
from local_mi.datalist import datalist_hash, read_images, read_labelled, stored_range
from local_mi.errors import ConfigurationError
from local_mi.files import write_json
from local_mi.images import read_image
from local_mi.labels import label_tensor
from local_mi.linear_probe import best_head
from local_mi.predictions import write_predictions
from torch import Tensor
from torch.nn.functional import interpolate

from pipelines.bundle import CHECKPOINTS, ENCODER, inference, pretrain, train

DONE = "cell.json"
VALIDATIONS = 5  # of a finetuned classifier; the best is kept
VIEWS = ("PA", "AP", "UNKNOWN")
PIXELS = 32  # side of the pictures whose pixels are probed
PIXEL_PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
OWN, SHUFFLED = "data", "data_shuffled"
"""Folders with the study's datalists: reports as they are, and each report given to another patient."""


@dataclass(frozen=True)
class Pretraining:
    """An encoder by one objective.

    Args:
        objective: of the bundle's `pretrain.yaml`.
        estimator: of the same.
        candidate: number of the settings that are tried.
        seed: of the run.
        data: `OWN` or `SHUFFLED`.
        repeat: 0, or the number of a repetition that must give the same weights.
    """

    objective: str
    estimator: str
    candidate: int
    seed: int
    data: str = OWN
    repeat: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        reports = "" if self.data == OWN else "-shuffled"
        repeat = f"-repeat{self.repeat}" if self.repeat else ""
        return f"pretrain/{self.objective}-{self.estimator}{reports}-candidate{self.candidate}-seed{self.seed}{repeat}"


@dataclass(frozen=True)
class Classifier:
    """A classifier from an encoder.

    Args:
        initial: the pretraining whose encoder it starts from; None for random weights.
        encoder: `frozen` or `finetune`.
        fraction: of the training patients whose labels it sees.
        candidate: number of the settings that are tried.
        seed: of the run and of the choice of patients.
    """

    initial: Pretraining | None
    encoder: str
    fraction: float
    candidate: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        start = self.initial.name.removeprefix("pretrain/") if self.initial else "image-only"
        return f"classifier/{start}/{self.encoder}-labels{self.fraction:g}-candidate{self.candidate}-seed{self.seed}"


@dataclass(frozen=True)
class PixelProbe:
    """Logistic regressions on the pixels of small pictures: the floor for every encoder.

    Args:
        fraction: of the training patients whose labels it sees.
        seed: of the choice of patients.
    """

    fraction: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"classifier/pixels/labels{self.fraction:g}-seed{self.seed}"


Cell = Pretraining | Classifier | PixelProbe


@dataclass(frozen=True)
class Study:
    """What all cells of a study share.

    Args:
        folder: of the study.
        settings: of its scale (`study.yaml`).
        label_names: what classifiers learn.
    """

    folder: Path
    settings: dict[str, Any]
    label_names: tuple[str, ...]

    def keys(self, cell: Cell) -> dict[str, Any]:
        """Configuration keys of a cell's run."""
        if isinstance(cell, PixelProbe):
            return {
                "pixels": PIXELS,
                "penalties": list(PIXEL_PENALTIES),
                "seed": cell.seed,
                "label_fraction": cell.fraction,
            }
        stage = self.settings["pretrain" if isinstance(cell, Pretraining) else cell.encoder]
        keys: dict[str, Any] = stage["settings"] | stage["candidates"][cell.candidate] | {"seed": cell.seed}
        if isinstance(cell, Pretraining):
            return keys | {"objective": cell.objective, "estimator": cell.estimator}
        epochs = stage.get("epochs", {}).get(cell.fraction)  # fewer labels make an epoch shorter
        length = {"max_epochs": epochs, "val_interval": max(1, epochs // VALIDATIONS)} if epochs else {}
        return keys | length | {"label_fraction": cell.fraction}


def run_cell(study: Study, cell: Cell) -> dict[str, Any]:
    """Do a cell, unless it is done; returns what `cell.json` says.

    Returns:
        `value`, the validation metric that choices are made by, and `seconds`; or `failed`, one sentence, where the
        cell cannot be done: a study goes on without it.
    """
    folder = study.folder / cell.name
    started = time.monotonic()
    try:
        made_of = _made_of(study, cell)
        done = finished(folder, made_of)
        if done is not None:
            return done
        value = _run(study, cell, folder)
    except Exception as error:  # a cell that fails, of whatever reason, must not cost the others
        traceback.print_exc()  # into the worker's log
        known = isinstance(error, ConfigurationError)
        return {"failed": str(error) if known else f"{type(error).__name__}; see {study.folder / 'logs'}"}
    result = {"cell": asdict(cell), "made_of": made_of, "value": value, "seconds": time.monotonic() - started}
    write_json(folder / DONE, result)
    return result


def finished(folder: Path, made_of: str) -> dict[str, Any] | None:
    """What a whole cell says, where it was made of the same; what another one left is removed."""
    try:
        done: dict[str, Any] = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # never begun, or cut short: its runs go on where they stopped
    if done.get("made_of") == made_of:
        return done
    shutil.rmtree(folder)
    return None


def _made_of(study: Study, cell: Cell) -> str:
    """A hash of all that decides a cell."""
    data = cell.data if isinstance(cell, Pretraining) else OWN
    parts: dict[str, Any] = {
        "cell": asdict(cell),
        "keys": study.keys(cell),
        "data": datalist_hash(str(study.folder / data / "datalist.json")),
        "versions": {name: version(name) for name in ("cxr-local-mi", "torch", "monai")},
    }
    if not isinstance(cell, Pretraining):
        parts["label_names"] = study.label_names
    if isinstance(cell, Classifier) and cell.initial is not None:
        encoder = _encoder(study, cell.initial)
        if not encoder.is_file():
            raise ConfigurationError(f"there is no encoder of {cell.initial.name}; its pretraining failed")
        parts["encoder"] = hashlib.sha256(encoder.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _encoder(study: Study, cell: Pretraining) -> Path:
    return study.folder / cell.name / "models" / ENCODER


def _run(study: Study, cell: Cell, folder: Path) -> float:
    if isinstance(cell, PixelProbe):
        return _probe_pixels(study, cell, folder)
    keys = study.keys(cell)
    if isinstance(cell, Pretraining):
        pretrain(study.folder / cell.data, folder, keys)
        return _value(folder, "pretrain")
    encoder = _encoder(study, cell.initial) if cell.initial else None
    store = study.folder / OWN
    train(store, folder, encoder, keys | {"label_names": list(study.label_names)}, cell.encoder)
    value = _value(folder, "train")
    overrides: dict[str, Any] = {key: keys[key] for key in ("batch_size", "num_workers") if key in keys}
    for split in ("validation", "test"):
        inference(store, folder, overrides, split, f"predictions_{split}")
    for what in ("models", "tensorboard"):  # hundreds of classifiers that nobody asks for again
        shutil.rmtree(folder / what, ignore_errors=True)
    return value


def _value(folder: Path, stage: str) -> float:
    record: Mapping[str, Any] = read_record(str(folder / "models" / CHECKPOINTS[stage])) or {}
    return float(record["value"])


def _probe_pixels(study: Study, cell: PixelProbe, folder: Path) -> float:
    datalist = str(study.folder / OWN / "datalist.json")
    stored = stored_range(datalist)

    def known(split: str, fraction: float) -> tuple[Tensor, Tensor]:
        items = read_labelled(datalist, split, VIEWS, study.label_names, patient_fraction=fraction, seed=cell.seed)
        return _pixels(items, stored), torch.stack([label_tensor(item["label"]) for item in items])

    head = best_head(known("training", cell.fraction), known("validation", 1.0), PIXEL_PENALTIES)
    for split in ("validation", "test"):
        items = read_images(datalist, split, VIEWS)  # those without a label too, as inference has them
        probabilities = head.logits(_pixels(items, stored)).sigmoid().tolist()
        rows = [(item["study"], item["file"], row) for item, row in zip(items, probabilities, strict=True)]
        write_predictions(str(folder / f"predictions_{split}.csv"), study.label_names, rows)
    return head.mean_auroc


def _pixels(items: list[dict[str, Any]], stored: tuple[float, float]) -> Tensor:
    """(N, PIXELS * PIXELS) in [0, 1]."""
    rows = []
    for item in items:
        picture = torch.from_numpy(read_image(Path(item["file"]), stored).astype("float32"))[None, None]
        rows.append(interpolate(picture, (PIXELS, PIXELS), mode="area").flatten())
    return (torch.stack(rows) - stored[0]) / (stored[1] - stored[0])
