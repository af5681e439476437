"""The first step of every workflow: refuse what was mistyped, and write down what makes this run.

MONAI accepts an unknown top-level key on the command line in silence and trains on the defaults; here it is refused,
also under plain `python -m monai.bundle run`.
"""

import difflib
import functools
import inspect
import json
import logging
import platform
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fire
import ignite.distributed as idist
from filelock import FileLock, Timeout
from monai.bundle import ConfigParser
from monai.bundle import run as monai_run

from local_mi.checkpoints import read_record
from local_mi.datalist import datalist_hash, described
from local_mi.errors import ConfigurationError
from local_mi.files import write_json

logger = logging.getLogger(__name__)

# Arguments of `monai.bundle run` itself and the keys that its experiment tracking reads.
RUN_ARGUMENTS = frozenset(
    {"run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file"}
    | {"tracking_uri", "experiment_name", "run_name", "save_execute_config"}
)
WITHOUT_EFFECT = frozenset(
    {"imports", "bundle_root", "ckpt_dir", "output_dir", "dataset_dir", "datalist", "checkpoint", "encoder_weights"}
    | {"text_model_dir", "num_workers", "cache_rate", "resume_interval", "mlflow", "experiment", "start"}
)
"""Keys of a configuration that change where a run reads and writes, and how fast, but none of its numbers."""
RECORDED_PACKAGES = ("monai", "torch", "pytorch-ignite", "numpy", "transformers", "tokenizers", "scikit-learn")


def start_run(
    output_dir: str,
    name: str,
    datalist: str,
    seed: int,
    checkpoint: str | None = None,
    description: dict[str, Any] | None = None,
    configuration: str | None = None,
) -> dict[str, Any]:
    """Check the command line, refuse to mix data in one checkpoint, and write down what makes this run.

    Writes `<name>_run.json` (versions, seed, hash of the data) and `<name>_config.json`, the merged configuration,
    which `monai.bundle run --config_file` takes as it is.

    Args:
        output_dir: where the record goes.
        name: of the workflow.
        datalist: the data of the run.
        seed: of the run.
        checkpoint: what this run may write; None for one that only reads.
        description: what the checkpoint's record must agree on with this run, beside the data: labels, image size, ...
        configuration: the merged configuration as JSON text; None reads it from the command line of
            `python -m monai.bundle run`.

    Returns:
        What goes into the record of a checkpoint of this run: `datalist_sha256`, `configuration` and what
        `datalist.described` says of the data.

    Raises:
        ConfigurationError: an unknown key, a missing datalist, a checkpoint that was made of something else, or one
            that another run is writing.
    """
    merged = json.loads(configuration) if configuration is not None else _configuration_of_command_line(sys.argv)
    data_hash = datalist_hash(datalist)
    if checkpoint is not None and idist.get_rank() == 0:
        _lock(Path(checkpoint).parent)
        _refuse_other_run(checkpoint, (description or {}) | {"datalist_sha256": data_hash})
    if idist.get_rank() == 0:
        record = {
            "workflow": name,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": seed,
            "datalist": str(datalist),
            "datalist_sha256": data_hash,
            "processes": idist.get_world_size(),
            "versions": {"python": platform.python_version()} | versions(),
        }
        write_json(Path(output_dir) / f"{name}_run.json", record)
        if merged is not None:
            write_json(Path(output_dir) / f"{name}_config.json", merged)
    return {"datalist_sha256": data_hash, "configuration": merged} | described(datalist)


def decisive_settings(start: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for an unfinished run to go on: its data and its settings but for those in `WITHOUT_EFFECT`.

    Args:
        start: what `start_run` returned.
    """
    configuration = start["configuration"] or {}
    settings = {key: value for key, value in configuration.items() if key not in WITHOUT_EFFECT}
    return {"datalist_sha256": start["datalist_sha256"]} | settings


def unknown_keys(configuration: dict[str, Any], keys: Sequence[str]) -> list[str]:
    """Keys (`a#b` or `a::b`) that a configuration does not have; `+a`, which MONAI merges in files alone, is one.

    Below a component (`_target_`) any argument may be added, since the component itself refuses what it does not know.
    """
    return [key for key in keys if not _is_known(configuration, re.split(r"#|::", key))]


def refuse_unknown_keys(configuration: dict[str, Any], keys: Sequence[str]) -> None:
    """Raise ConfigurationError for the first unknown key, with the key that was probably meant."""
    for key in unknown_keys(configuration, keys):
        near = difflib.get_close_matches(key, _paths(configuration), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"top-level keys are {', '.join(sorted(configuration))}"
        raise ConfigurationError(f"unknown configuration key '{key}'; {hint}")


def parse_command_line(arguments: Sequence[str]) -> dict[str, Any]:
    """What `monai.bundle run` receives from its command line: Fire itself reads it, so every form is understood."""
    received: dict[str, Any] = {}
    signature = inspect.signature(monai_run)

    @functools.wraps(monai_run)  # Fire reads arguments by the signature
    def receive(*values: Any, **named: Any) -> None:
        given = signature.bind_partial(*values, **named).arguments
        files = {key: given[key] for key in ("config_file", "args_file") if given.get(key) is not None}
        received.update(files | given.get("override", {}))

    own_flags = list(arguments).index("--") if "--" in arguments else len(arguments)  # what follows is for Fire alone
    fire.Fire(receive, command=list(arguments[:own_flags]))
    return received


def _configuration_of_command_line(argv: Sequence[str]) -> dict[str, Any] | None:
    """The merged configuration of `python -m monai.bundle run ...`, its keys checked; None for any other program."""
    program = Path(argv[0]).as_posix() if argv else ""
    if not program.endswith("monai/bundle/__main__.py"):
        return None
    given = parse_command_line(argv[2:])
    if "args_file" in given:
        given = ConfigParser.load_config_files(given["args_file"]) | given
    files = given.get("config_file")
    if files is None:
        return None
    configuration: dict[str, Any] = ConfigParser.load_config_files(_file_list(files))
    overrides = {key: value for key, value in given.items() if key not in RUN_ARGUMENTS}
    refuse_unknown_keys(configuration, list(overrides))
    parser = ConfigParser(configuration)
    parser.update(overrides)
    merged: dict[str, Any] = parser.config
    return merged


def _file_list(files: Any) -> list[str]:
    """`config_file` as MONAI takes it: a path, `a,b`, `['a','b']`, or a list."""
    if isinstance(files, str):
        return [part.strip(" '\"") for part in files.strip("[]()").split(",") if part.strip(" '\"")]
    return list(files)


def _is_known(node: Any, path: list[str]) -> bool:
    if not path:
        return True
    if isinstance(node, dict):
        if path[0] in node:
            return _is_known(node[path[0]], path[1:])
        return "_target_" in node and len(path) == 1
    if isinstance(node, list):
        return path[0] in map(str, range(len(node))) and _is_known(node[int(path[0])], path[1:])
    return False


def _paths(node: Any, prefix: str = "") -> list[str]:
    """All key paths of a configuration, `a#b`."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else []
    paths = []
    for key, value in entries:
        path = f"{prefix}#{key}" if prefix else str(key)
        paths += [path, *_paths(value, path)]
    return paths


_locks: dict[Path, FileLock] = {}  # held until the process ends


def _lock(folder: Path) -> None:
    """Let no other process write checkpoints into a folder."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = _locks.setdefault(folder, FileLock(folder / ".lock", timeout=0))
    if not lock.is_locked:
        try:
            lock.acquire()
        except Timeout:
            raise ConfigurationError(
                f"another run is writing to {folder}; wait for it, or name a new run folder"
            ) from None


def _refuse_other_run(checkpoint: str, description: dict[str, Any]) -> None:
    """Validation metrics compare only where data, labels and image size are the same."""
    record = read_record(checkpoint)
    if record is None:
        return
    other = [key for key, value in description.items() if record.get(key) != value]
    if other:
        raise ConfigurationError(
            f"{checkpoint} was trained with another {other[0]}; name a new run folder (`ckpt_dir`), or delete it to "
            "start afresh"
        )
    logger.info("%s of an earlier run is replaced only by a better one (%.4f)", checkpoint, record["value"])


def versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers depend on, by name; for its record."""
    found = {}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
