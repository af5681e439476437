"""A small classifier that plain `python -m monai.bundle run` has trained, made once for all tests that use it."""

from pathlib import Path

import pytest
from conftest import BUNDLE, TINY, RunBundle, write_store
from made_once import made_once

NAMES = ["Upper", "Lower"]
SIZE = 64
NETWORK = {"image_size": SIZE, "label_names": NAMES, "network_def#widen_factor": 0.125}
"""Keys that a configuration of this bundle needs to make the network."""


def trained_classifier(tmp_path_factory: pytest.TempPathFactory, run_bundle: RunBundle) -> tuple[Path, Path]:
    """Returns the store and the folder of the run, which holds `models/model.pt`."""

    def make(folder: Path) -> tuple[Path, Path]:
        store, run = write_store(folder / "store", studies=24), folder / "run"
        keys = TINY | NETWORK | {"max_epochs": 1, "dataset_dir": store, "ckpt_dir": run / "models", "output_dir": run}
        done = run_bundle("train", bundle_root=BUNDLE, **keys)
        assert done.returncode == 0, done.stderr[-3000:]
        return store, run

    return made_once(tmp_path_factory, "trained_classifier", make)
