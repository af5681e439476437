"""The classifier's inference needs the bundle's directory, MONAI, and what the metadata require: nothing else.

Emulated in a fresh process that refuses every other package, so that no second environment is needed.
"""

import csv
import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import BUNDLE, RunBundle, write_image
from packaging.requirements import Requirement
from trained_classifier import NETWORK, trained_classifier

ALONE = """
import importlib.abc, runpy, sys

class NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

refused = set(sys.argv[1].split(","))
sys.path = [path for path in sys.path if path not in sys.argv[2].split(",")]
sys.meta_path.insert(0, NotInstalled())
sys.argv = sys.argv[2:]
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
print("package:", sys.modules["local_mi"].__file__)
"""


def modules_of_others(packages: set[str]) -> set[str]:
    """Top-level modules of all that is installed but for packages and what they require, optional parts left out."""
    found: set[str] = set()
    waiting = {name.lower().replace("_", "-") for name in packages}
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            wanted = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
        needed = {one.name.lower().replace("_", "-") for one in wanted if not one.marker or one.marker.evaluate()}
        waiting |= needed - found
    owners = packages_distributions()
    return {
        module for module, names in owners.items() if not found & {name.lower().replace("_", "-") for name in names}
    }


def test_inference_on_a_folder_of_pictures_needs_monai_and_the_bundle_alone(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, run_bundle: RunBundle
) -> None:
    _, run = trained_classifier(tmp_path_factory, run_bundle)
    required = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["required_packages_version"]
    refused = modules_of_others({"monai", "torch", "numpy", *required})
    assert refused >= {"transformers", "sklearn", "scipy", "safetensors", "polars", "pydicom", "cv2", "tqdm"}
    bundle = tmp_path / "elsewhere" / "bundle"
    shutil.copytree(BUNDLE, bundle, ignore=shutil.ignore_patterns("models", "eval", "__pycache__"))
    picture = np.random.default_rng(0).integers(0, 256, (80, 50)).astype(np.uint8)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write_image(tmp_path / "in" / "b.png", picture)
    upright = np.diag([-1.0, -1.0, 1.0, 1.0])  # first axis to the patient's left, second to posterior
    nibabel.save(nibabel.Nifti1Image(picture.T[:, :, None], upright), tmp_path / "in" / "deep" / "a.nii.gz")
    keys = {"bundle_root": bundle, "dataset_dir": "in", "ckpt_dir": run / "models", "output_dir": "out"} | NETWORK
    words = [str(word) for key, value in (keys | {"num_workers": 0}).items() for word in (f"--{key}", value)]
    ours = ",".join(map(str, (BUNDLE.parents[1], BUNDLE)))
    config = str(bundle / "configs" / "inference.yaml")
    command = [sys.executable, "-P", "-c", ALONE, ",".join(refused), ours, "run", "--config_file", config, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"package: {bundle}" in done.stdout, "the bundle's own, not an installed one"
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["study"], second["study"]) == ("b.png", "deep/a.nii.gz")
    assert float(first["Upper"]) == pytest.approx(float(second["Upper"]), abs=1e-6)
