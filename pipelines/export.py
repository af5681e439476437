"""The networks of a run as files that others load without this project, each format loaded back and compared.

FOLDER/encoder and FOLDER/classifier are complete by themselves and laid out as Hugging Face and timm know it: weights
as safetensors in the key layout of a plain `monai.networks.nets` class, `config.json`, a model card, the few lines that
load it, and the same network as TorchScript, `torch.export` and ONNX. The paper's network is no class of MONAI's, so
the file that makes it from MONAI's blocks lies beside them.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_mi import paper_resnet
from local_mi.errors import ConfigurationError

from pipelines import load_model
from pipelines.export_check import check_exports
from pipelines.export_description import CARD, CONFIG, NOT_EVALUATED, describe, evaluated_metrics, write_config
from pipelines.export_formats import FILES, chosen_formats, write_formats
from pipelines.export_networks import PAPER_FILE, TrainedNetwork, networks_of_run
from pipelines.model_card import write_model_card

LOADER = "load_model.py"
OWN_FILES = frozenset({*FILES.values(), CONFIG, CARD, LOADER, PAPER_FILE})
UNFINISHED, REPLACED = ".unfinished_", ".replaced_"  # how names of folders begin while an export is put in place


@dataclass(frozen=True)
class Exported:
    """An exported network.

    Args:
        folder: where its files are.
        differences: of each format the largest absolute difference between an output of the files, loaded in a fresh
            process without this project, and of the trained network; of timm and torchvision too, where installed.
        left_out: formats that are not there, with the reason.
        notes: what else is to be told.
    """

    folder: Path
    differences: dict[str, float]
    left_out: dict[str, str]
    notes: list[str]


@dataclass(eq=False)
class _Unfinished:
    """An export in a temporary folder, before and after the check."""

    trained: TrainedNetwork
    folder: Path
    metrics: dict[str, Any] | None
    left_out: dict[str, str]
    notes: list[str]
    description: dict[str, Any]
    differences: dict[str, float] = field(default_factory=dict)


def export_run(run: Path, folder: Path, formats: Sequence[str] | None = None, data_licence: str = "") -> list[Exported]:
    """Export the encoder and the classifier of a run, and check every format.

    Args:
        run: folder of a pretraining run, a training run, or both; then the encoder is the pretrained one.
        folder: gets `encoder` and, of a training run, `classifier`; those of an earlier export are replaced as a whole.
        formats: of `safetensors`, which is always written, `torchscript`, `torch-export` and `onnx`; None: all that can
            be written here.
        data_licence: of the data, for the model card.

    Raises:
        ConfigurationError: the run is not there or not whole, the folder holds something else, a format that was asked
            for cannot be written, or one gives other outputs than the trained network; then nothing is written.
    """
    run, folder = run.absolute(), folder.absolute()  # the check runs in another folder
    chosen, missing = chosen_formats(formats)
    networks = networks_of_run(run)
    is_new = not folder.exists()
    for trained in networks:
        _refuse_something_else(folder / trained.kind)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as temporary:
            made, work = Path(temporary) / "made", Path(temporary) / "work"
            made.mkdir()
            work.mkdir()
            unfinished = [_write(trained, run, made, work, chosen) for trained in networks]
            if formats is not None:
                _refuse_left_out(unfinished)
            _check(unfinished, made, work, data_licence)
            return [_put_in_place(export, folder / export.trained.kind, missing) for export in unfinished]
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def _write(trained: TrainedNetwork, run: Path, made: Path, work: Path, formats: Sequence[str]) -> _Unfinished:
    """All files of a network but the model card."""
    target = made / trained.kind
    target.mkdir()
    left_out = write_formats(trained, run, target, formats, work)
    shutil.copyfile(load_model.__file__, target / LOADER)
    if trained.made_of["file"]:
        shutil.copyfile(paper_resnet.__file__, target / PAPER_FILE)
    metrics = evaluated_metrics(trained, run)
    description, notes = describe(trained, run, metrics)
    if trained.kind == "classifier" and metrics is None:
        notes.append(NOT_EVALUATED)
    write_config(target, description, _hashes(target))
    return _Unfinished(trained, target, metrics, left_out, notes, description)


def _refuse_left_out(unfinished: Sequence[_Unfinished]) -> None:
    for export in unfinished:
        for name, reason in export.left_out.items():
            raise ConfigurationError(f"the {export.trained.kind} as {name}: {reason}; name other formats")


def _check(unfinished: Sequence[_Unfinished], made: Path, work: Path, data_licence: str) -> None:
    """Compare, then write the model cards, which tell of it."""
    networks = {export.trained.kind: (export.trained.network, export.trained.image_size) for export in unfinished}
    checked = check_exports(networks, made, work)
    for export in unfinished:
        export.differences, notes = checked[export.trained.kind]
        export.notes += notes
        config = json.loads((export.folder / CONFIG).read_text(encoding="utf-8"))
        write_model_card(export.folder / CARD, export.trained, config, export.metrics, export.differences, data_licence)
        write_config(export.folder, export.description, _hashes(export.folder))
        for path in export.folder.iterdir():
            path.chmod(0o644)  # some of the writers leave their files to their user alone


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _refuse_something_else(target: Path) -> None:
    """Restore what a kill between the two steps of `_put_in_place` left, then let an export alone be replaced."""
    replaced = target.with_name(f"{REPLACED}{target.name}")
    if replaced.is_dir() and not target.exists():
        replaced.replace(target)
    if not target.exists():
        return
    others = sorted(path.name for path in target.iterdir() if path.name not in OWN_FILES) if target.is_dir() else [""]
    if others or not _is_export(target):
        raise ConfigurationError(f"{target} holds something that is no export; name another folder, or empty this one")


def _is_export(target: Path) -> bool:
    if not any(target.iterdir()):
        return True
    try:
        config = json.loads((target / CONFIG).read_text(encoding="utf-8"))
        return bool(config["trained_weights_sha256"] and config["kind"] == target.name)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _put_in_place(export: _Unfinished, target: Path, missing: dict[str, str]) -> Exported:
    """Whole, or as it was: the earlier export keeps another name until the new one stands."""
    replaced = target.with_name(f"{REPLACED}{target.name}")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.replace(replaced)
    export.folder.replace(target)
    shutil.rmtree(replaced, ignore_errors=True)
    return Exported(target, export.differences, missing | export.left_out, export.notes)
