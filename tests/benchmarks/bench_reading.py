"""DICOM file to a square picture: this project's way beside MONAI's default one, on the same files in the same run.

Prints, for each transfer syntax, images a second on one core as medians over rounds that take turns, their ratios, peak
memory (here and MONAI's), and this project's limit: reading the file and the decoder alone. MONAI's way does less (no
VOI, no polarity, no padding), and is what a user would otherwise write. It is measured twice: with the plugin that
pydicom chooses where all are installed, and with the fastest of them, which a user would have to find out.
"""

import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pydicom
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

sys.path.insert(0, str(Path(__file__).parents[1] / "preprocessing"))
from made_dicom import ENCODERS, encapsulated, made, saved

from preprocessing.codestreams import FAMILIES, decode_frame, decode_rle
from preprocessing.conversion import tune_process
from preprocessing.dicom import file_bytes, image_facts, parse_dicom
from preprocessing.phantoms import DIFFICULTIES, write_phantoms
from preprocessing.preparation import Preparation, prepare_frames
from preprocessing.selection import SelectionPolicy, check_selected

ROWS, COLUMNS, STORED, IMAGES, ROUNDS = 3000, 2500, 512, 2, 7
NOISE = 3.0
"""Standard deviation in 12-bit levels: lossless files of a third of the pixels' size, as clinical ones are."""

EXACT = Preparation("voi", STORED, 8, "area", crop=False, reduced_resolution=False)
REDUCED = Preparation("voi", STORED, 8, "area", crop=False, reduced_resolution=True)

WITHOUT_ENCODER = {
    "1.2.840.10008.1.2.4.50": partial(imagecodecs.jpeg8_encode, level=90),
    "1.2.840.10008.1.2.4.51": partial(imagecodecs.jpeg8_encode, level=90, bitspersample=12),
    "1.2.840.10008.1.2.4.91": partial(
        imagecodecs.jpeg2k_encode, level=60, bitspersample=12, codecformat="j2k", reversible=False
    ),
}
SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
)


def this_project(path: Path, preparation: Preparation = EXACT) -> Any:
    tune_process()
    dataset = parse_dicom(file_bytes(path))
    facts = image_facts(dataset)
    check_selected(dataset, facts, SelectionPolicy())
    return list(prepare_frames(dataset, facts, preparation))


def decoder_alone(path: Path, known: dict[Path, Any] = {}) -> Any:  # noqa: B006 -- read once a process
    """What no way can do without: the file's bytes and its decoder, or a copy of the pixels."""
    if path not in known:
        dataset = pydicom.dcmread(path)
        frame = dataset.PixelData
        if dataset["PixelData"].is_undefined_length:
            frame = next(pydicom.encaps.generate_frames(frame, number_of_frames=1))
        known[path] = dataset.file_meta.TransferSyntaxUID, frame
    syntax, frame = known[path]
    path.read_bytes()
    if syntax not in FAMILIES:
        return None
    if FAMILIES[syntax] == "rle":
        return decode_rle(frame, ROWS, COLUMNS, 16)
    return decode_frame(frame, FAMILIES[syntax], ROWS, COLUMNS)


def monai_fastest(path: Path) -> Any:
    return monai_default(path, fastest=True)


def monai_default(path: Path, made_once: list[Any] = [], *, fastest: bool = False) -> Any:  # noqa: B006 -- made once
    if not made_once:
        import torch
        from monai.data.image_reader import PydicomReader
        from monai.transforms import Compose, LoadImaged, Resized, ScaleIntensityd

        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        if fastest:
            _keep_fastest_plugin(path)
        load = LoadImaged(keys="image", reader=PydicomReader(), ensure_channel_first=True)
        resize = Resized(keys="image", spatial_size=STORED, size_mode="longest", mode="area")
        made_once.append(Compose([load, resize, ScaleIntensityd(keys="image")]))
    return made_once[0]({"image": str(path)})


def _keep_fastest_plugin(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    times = {}
    for plugin in decoder.available_plugins if decoder.is_encapsulated else ():
        started = time.perf_counter()
        try:
            decoder.as_array(dataset, decoding_plugin=plugin)
            times[plugin] = time.perf_counter() - started
        except RuntimeError:  # one that cannot, as GDCM 12-bit JPEG
            times[plugin] = float("inf")
    for plugin in sorted(times, key=times.__getitem__)[1:]:
        decoder.remove_plugin(plugin)


@dataclass
class Way:
    """One way in a process of its own, so that peak memory is this way's."""

    function: Callable[[Path], Any]
    paths: list[Path]

    def __post_init__(self) -> None:
        self.pool = get_context("spawn").Pool(1)
        self.rates: list[float] = []
        self.pool.apply(_time, (self.function, self.paths))

    def round(self) -> None:
        seconds, self.peak = self.pool.apply(_time, (self.function, self.paths))
        self.rates.append(len(self.paths) / seconds)

    def rate(self) -> float:
        return statistics.median(self.rates)


def _time(function: Callable[[Path], Any], paths: list[Path]) -> tuple[float, int]:
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):  # GDCM decodes with all cores that it finds
        os.sched_setaffinity(0, {0})
    started = time.perf_counter()
    for path in paths:
        function(path)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def write_files(folder: Path) -> dict[str, list[Path]]:
    """Twelve-bit phantoms in every syntax, by syntax."""
    write_phantoms(folder / "phantoms", studies=IMAGES, size=1024, seed=0, difficulty=DIFFICULTIES["medium"], workers=1)
    pictures = sorted((folder / "phantoms" / "dicom").rglob("*.dcm"))[:IMAGES]
    random, files = np.random.default_rng(0), {}
    for syntax in SYNTAXES:
        files[syntax] = [saved(folder, _image(path, syntax, random), f"{syntax}_{path.name}") for path in pictures]
    return files


def _image(path: Path, syntax: str, random: np.random.Generator) -> Any:
    from preprocessing.readers import read_square  # brings MONAI and PyTorch, which no way here should have to carry

    picture = cv2.resize(read_square(path, 1024), (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)
    words = np.clip(3600 * picture + 200 + random.normal(0, NOISE, picture.shape), 0, 4095).astype(np.uint16)
    bits = 12
    if syntax.endswith(".50"):
        words, bits = (words >> 4).astype(np.uint8), 8
    header = {
        "PhotometricInterpretation": "MONOCHROME1",
        "WindowCenter": 2 ** (bits - 1),
        "WindowWidth": 2**bits * 0.9,
        "BitsStored": bits,
        "HighBit": bits - 1,
    }
    if syntax in ENCODERS or syntax not in WITHOUT_ENCODER:
        return made(words, syntax, **header)
    dataset = made(words, **header)
    dataset.file_meta.TransferSyntaxUID = syntax
    return encapsulated(dataset, [WITHOUT_ENCODER[syntax](words)])


def measure(syntax: str, paths: list[Path]) -> None:
    functions = (this_project, monai_default, monai_fastest, decoder_alone)
    ours, theirs, fastest, limit = (Way(function, paths) for function in functions)
    ways = [ours, theirs, fastest, limit]
    if syntax.endswith((".90", ".91", ".201")):
        ways.append(Way(partial(this_project, preparation=REDUCED), paths))
    for _ in range(ROUNDS):
        for way in ways:
            way.round()
    for way, name in zip((ours, *ways[4:]), ("", ", reduced"), strict=False):
        print(
            f"| {UID(syntax).name}{name} | {way.rate():.1f} | {theirs.rate():.1f} | {fastest.rate():.1f} "
            f"| {way.rate() / theirs.rate():.2f} | {way.rate() / fastest.rate():.2f} "
            f"| {limit.rate():.1f} | {way.peak}, {theirs.peak} |",
            flush=True,
        )
    for way in ways:
        way.pool.terminate()


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        with get_context("spawn").Pool(1) as pool:  # not here: a process hands its peak memory down to its children
            files = pool.apply(write_files, (Path(temporary),))
        print(f"{ROWS} x {COLUMNS}, 12-bit, to {STORED}; images a second on one core, medians of {ROUNDS} rounds\n")
        print("| transfer syntax | here | MONAI | MONAI, fastest plugin | ratio | ratio | decoder alone | peak MiB |")
        print("|---|---|---|---|---|---|---|---|")
        for syntax, paths in files.items():
            measure(syntax, paths)


if __name__ == "__main__":
    sys.exit(main())
