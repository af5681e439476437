"""Batch prediction: its pace beside that of reading and network alone and of plain MONAI, and memory over many files.

`python bench_predict.py pace memory` runs these parts; without arguments both.

`pace`: radiographs of full size, half of them uncompressed, half JPEG lossless; a resnet18 at 256 pixels. Reading alone
is what the workers do, without a network; network alone, what the thread does with images that are there. What plain
MONAI does is less: no VOI, no polarity, no aspect, no table that names the files left out. Medians over rounds that
take turns, from when everything has started to before reading has nothing left to do.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command line has it

import resource
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.networks.nets import resnet18
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized, ScaleIntensityd

sys.path.insert(0, str(Path(__file__).parents[1] / "preprocessing"))
sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
from made_classifier import PREPARATION, write_classifier
from made_dicom import as_bytes, made

from pipelines.classifier import Classifier, load_classifier
from pipelines.predict import AHEAD, PredictionOptions, predict
from pipelines.prediction_reading import ReadingSettings, read_file
from preprocessing.pool import map_isolated
from preprocessing.selection import SelectionPolicy
from preprocessing.sources import find_images

IMAGES, ROUNDS, BATCH = 160, 3, 16
FIRST, LAST = 2 * BATCH, IMAGES - (AHEAD + 1) * BATCH
MANY = 100_000
LABELS = [f"label {number}" for number in range(14)]
NETWORK = {"spatial_dims": 2, "n_input_channels": 1, "conv1_t_stride": 2, "bias_downsample": False, "num_classes": 14}


def full_size(folder: Path) -> Classifier:
    """A resnet18 for images of 512 pixels that it sees at 256, as `train` makes one of a store of the defaults."""
    torch.manual_seed(0)
    description = {"class": "resnet18", "arguments": NETWORK, "file": None, "part": None}
    write_classifier(
        folder,
        resnet18(**NETWORK),
        network=description,
        image_size=256,
        label_names=LABELS,
        calibration=None,
        preprocessing=PREPARATION | {"size": 512},
    )
    return load_classifier(folder, torch.device("cpu"))


def pace(folder: Path) -> None:
    """Images a second: parts, whole, plain MONAI; with one core for each part, and with all cores for both."""
    source = folder / "in"
    _write_radiographs(source)
    classifier = full_size(folder / "model")
    for each in (1, 2):
        _compare(source, folder / "out", classifier, each)
    print(f"peak memory {_peak(resource.RUSAGE_SELF)} MiB, of a worker {_peak(resource.RUSAGE_CHILDREN)} MiB")


def _compare(source: Path, out: Path, classifier: Classifier, each: int) -> None:
    """Print the rates with so many workers and so many threads for the network."""
    torch.set_num_threads(each)
    ways: dict[str, Callable[[], float]] = {
        "reading alone": lambda: _rate(_reading(source, classifier, each)),
        "network alone": lambda: _rate(_network(classifier)),
        "predict": lambda: _predict(source, out, classifier, each),
        "plain MONAI": lambda: _rate(_plain_monai(source, classifier, each)),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            rates[name].append(way())
    found = {name: statistics.median(measured) for name, measured in rates.items()}
    reading, network, whole, monai = found.values()
    print(f"workers that read: {each}, threads of the network: {each}; images a second:")
    print("  " + ", ".join(f"{name} {rate:.1f}" for name, rate in found.items()))
    slower, shared = min(reading, network), 1 / (1 / reading + 1 / network)
    print(f"  predict is {whole / slower:.2f} of the slower part, {whole / shared:.2f} of both in turn on all cores")
    print(f"  predict is {whole / monai:.2f} times as fast as plain MONAI", flush=True)


def _rate(done: Iterator[int]) -> float:
    """Images a second between `FIRST` and `LAST`; `done` yields how many there are."""
    return _between({count: time.perf_counter_ns() for count in done})


def _between(moments: dict[int, int]) -> float:
    first, last = (next(count for count in moments if count >= edge) for edge in (FIRST, LAST))
    return (last - first) / (moments[last] - moments[first]) * 1e9


def _reading(source: Path, classifier: Classifier, workers: int) -> Iterator[int]:
    settings = ReadingSettings(classifier.preparation, SelectionPolicy(), None)
    reading = map_isolated(partial(read_file, settings), find_images(source, ()), workers=workers, time_limit=600)
    with closing(reading):
        yield from (count for count, _ in enumerate(reading, 1))


def _network(classifier: Classifier) -> Iterator[int]:
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 512, 512), dtype=np.uint8)
    for count in range(BATCH, IMAGES + 1, BATCH):
        classifier.predict(images)
        yield count


def _predict(source: Path, out: Path, classifier: Classifier, workers: int) -> float:
    moments: dict[int, int] = {}
    options = PredictionOptions(workers=workers, batch_size=BATCH)
    predict(source, out, classifier, options, lambda done, _: moments.update({done: time.perf_counter_ns()}))
    shutil.rmtree(out)
    return _between(moments)


def _plain_monai(source: Path, classifier: Classifier, workers: int) -> Iterator[int]:
    """What a MONAI user would write."""
    transform = Compose(
        [
            LoadImaged("image", reader="PydicomReader", swap_ij=False),
            EnsureChannelFirstd("image", channel_dim="no_channel"),
            Resized("image", (256, 256), mode="area"),
            ScaleIntensityd("image"),
        ]
    )
    items = [{"image": str(path)} for path in sorted(source.iterdir())]
    loader = DataLoader(Dataset(items, transform), batch_size=BATCH, num_workers=workers)
    count = 0
    with torch.no_grad():
        for batch in loader:
            torch.sigmoid(classifier.network(batch["image"].as_tensor()))
            count += len(batch["image"])
            yield count


def _write_radiographs(folder: Path) -> None:
    folder.mkdir()
    noise = np.random.default_rng(0).normal(0, 6, (3000, 2500))
    slope = np.linspace(500, 3500, 2500)[None] + noise
    for number in range(IMAGES):
        words = np.clip(slope + number, 0, 4095).astype(np.uint16)
        syntax = "1.2.840.10008.1.2.1" if number % 2 else "1.2.840.10008.1.2.4.70"
        dataset = made(words, syntax, BitsStored=12, HighBit=11, SOPInstanceUID=f"1.2.{number}")
        (folder / f"{number:03d}.dcm").write_bytes(as_bytes(dataset))


def memory(folder: Path) -> None:
    """Resident memory of the main process while many small files are predicted, and the time of a later run."""
    words = np.arange(1024, dtype=np.uint16).reshape(32, 32)
    template = as_bytes(made(words, SOPInstanceUID="1.2.1000000", StudyInstanceUID="1.3.1000000"))
    for number in range(MANY):
        path = folder / "in" / f"{number // 1000}" / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(template.replace(b"1000000", b"%d" % (1000000 + number)))
    classifier = load_classifier(write_classifier(folder / "model"), torch.device("cpu"))
    options = PredictionOptions(workers=2, batch_size=64)
    began = time.perf_counter()

    def progress(done: int, total: int | None) -> None:
        if total and done % (MANY // 10) == 0:
            print(f"{done} files: {_resident()} MiB, {time.perf_counter() - began:.0f} s", flush=True)

    predict(folder / "in", folder / "out", classifier, options, progress)
    print(f"with its tables: {time.perf_counter() - began:.0f} s, peak {_peak(resource.RUSAGE_SELF)} MiB")
    began = time.perf_counter()
    again = predict(folder / "in", folder / "out", classifier, options)
    print(f"a later run that finds {again.done} new files: {time.perf_counter() - began:.1f} s")


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def _peak(who: int) -> int:
    return resource.getrusage(who).ru_maxrss // 1024


PARTS = {"pace": pace, "memory": memory}

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # MONAI's reader warns of every radiograph that has no place in space
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as temporary:
            PARTS[name](Path(temporary))
