"""A tiny store that the bundle can train on: a bright square in one of the cells, and a sentence that says which."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from warm_python import WarmPython

BUNDLE = Path(__file__).parents[2] / "bundles" / "chest_xray_local_mi"
CELLS = ("right upper", "left upper", "right lower", "left lower")
TINY = {
    "image_size": "64",
    "max_epochs": "2",
    "batch_size": "16",
    "num_workers": "0",
    "device": "cpu",
}


def write_image(path: Path, picture: np.ndarray) -> None:
    """Writes an integer array as `.npy`, or by OpenCV as PNG or whatever else the name ends in."""
    if path.suffix == ".npy":
        np.save(path, picture)
    else:
        assert cv2.imwrite(str(path), picture)


def write_store(
    folder: Path, studies: int = 96, size: int = 64, seed: int = 0, image_format: str = "npy", bit_depth: int = 8
) -> Path:
    """Studies with a square in one or two of four cells; two labels (upper, lower); splits 2/3, 1/6, 1/6.

    The pictures of 16 bits are those of 8: 257 * 255 is 65535.
    """
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    lists: dict[str, list[dict[str, object]]] = {"training": [], "validation": [], "test": []}
    for k in range(studies):
        cells = sorted(random.choice(4, size=random.integers(1, 3), replace=False).tolist())
        picture = random.integers(0, 60, (size, size))
        for cell in cells:
            row, column = size // 8 + size // 2 * (cell // 2), size // 8 + size // 2 * (cell % 2)
            picture[row : row + size // 4, column : column + size // 4] += 150
        image = f"images/i{k}.{image_format}"
        write_image(folder / image, picture.astype(np.uint8) if bit_depth == 8 else (picture * 257).astype(np.uint16))
        item = {
            "image": image,
            "study": f"s{k}",
            "patient": f"p{k}",
            "view": "PA",
            "sentences": [f"There is an opacity in the {CELLS[cell]} zone." for cell in cells],
            "label": [int(min(cells) < 2), int(max(cells) >= 2), None if k % 3 else 1],
        }
        lists["training" if k % 6 < 4 else "validation" if k % 6 == 4 else "test"].append(item)
    preprocessing = {"preset": "voi", "size": size, "range": [0, 2**bit_depth - 1]}
    content = {"label_names": ["Upper", "Lower", "Rare"], "preprocessing": preprocessing, **lists}
    (folder / "datalist.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "store")


RunBundle = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run_bundle(warm_python: WarmPython) -> RunBundle:
    """Runs plain `python -m monai.bundle run` as a user would, from a folder of choice; `launcher`: a fresh Python."""

    def run(
        *configs: str,
        cwd: Path = BUNDLE,
        launcher: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        **overrides: object,
    ) -> "subprocess.CompletedProcess[str]":
        folder = "configs" if cwd == BUNDLE else str(BUNDLE / "configs")
        files = [f"{folder}/{name}.yaml" for name in configs]
        arguments = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
        words = ["monai.bundle", "run", "--config_file", str(files), *arguments]
        if not launcher:
            return warm_python.run(*words, cwd=cwd, env=env)
        command = [sys.executable, *launcher, *words]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)

    return run
