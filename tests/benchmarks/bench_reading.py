"""DICOM file to a square picture: this project's way beside MONAI's default one, on the same files in the same run.

`make bench` prints images a second on one core as medians over rounds, their ratio, and each way's peak memory. MONAI's
way does less (no VOI, no polarity, no padding), and is what a user would otherwise write.
"""

import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import pydicom
import torch
from monai.data.image_reader import PydicomReader
from monai.transforms import Compose, LoadImaged, Resized, ScaleIntensityd
from pydicom.uid import UID

from preprocessing.dicom import image_facts, read_dicom, stored_values
from preprocessing.geometry import fit_square
from preprocessing.phantoms import DIFFICULTIES, write_phantoms
from preprocessing.rendering import render

SIZE, STORED, STUDIES, ROUNDS = 1536, 512, 24, 5
Measured = dict[str, tuple[float, int]]  # by transfer syntax: images a second, and peak memory in MiB


def this_project(path: Path) -> Any:
    dataset = read_dicom(path)
    picture = render(dataset, stored_values(dataset)[0], "voi")
    return fit_square(picture.pixels, STORED, image_facts(dataset).pixel_aspect)


def monai_default(path: Path, transform: list[Any] = []) -> Any:  # noqa: B006 -- made once a process
    if not transform:
        transform.append(
            Compose(
                [
                    LoadImaged(keys="image", reader=PydicomReader(), ensure_channel_first=True),
                    Resized(keys="image", spatial_size=STORED, size_mode="longest", mode="area"),
                    ScaleIntensityd(keys="image"),
                ]
            )
        )
    return transform[0]({"image": str(path)})


def measure(way: Callable[[Path], Any], files: dict[str, list[Path]]) -> Measured:
    """Run in a process of its own, so that peak memory is this way's."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    measured = {}
    for syntax, paths in files.items():
        way(paths[0])
        rounds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            for path in paths:
                way(path)
            rounds.append(len(paths) / (time.perf_counter() - started))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        measured[syntax] = (statistics.median(rounds), peak)
    return measured


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "phantoms"
        write_phantoms(folder, studies=STUDIES, size=SIZE, seed=0, difficulty=DIFFICULTIES["medium"], workers=2)
        files: dict[str, list[Path]] = defaultdict(list)
        for path in sorted((folder / "dicom").rglob("*.dcm")):
            files[UID(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID).name].append(path)
        results = []
        for way in (this_project, monai_default):
            with get_context("spawn").Pool(1) as pool:
                results.append(pool.apply(measure, (way, dict(files))))
    ours, theirs = results
    print(f"{SIZE} pixels, 12-bit, to {STORED}; images a second on one core (peak MiB), median of {ROUNDS} rounds")
    print(f"{'transfer syntax':<50}{'files':>6}{'here':>14}{'MONAI':>14}{'ratio':>8}")
    for syntax in sorted(files):
        (rate, peak), (other_rate, other_peak) = ours[syntax], theirs[syntax]
        print(
            f"{syntax:<50}{len(files[syntax]):>6}{rate:>8.1f} ({peak}){other_rate:>8.1f} ({other_peak})"
            f"{rate / other_rate:>8.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
