"""Ingest as a whole: scaling over workers, kills, memory over many files, and what a later run costs.

`python bench_ingest.py scaling kills memory` runs these parts; without arguments all of them, which takes half an hour.
"""

import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "preprocessing"))
from made_archive import environment, result, write_image
from made_dicom import as_bytes, made

from preprocessing.configuration import IngestConfiguration
from preprocessing.ingest import ingest

KILLS, MANY, ROUNDS = 200, 100_000, 5
IMAGES, STARTED = 60, 6
"""Of the scaling: images, and how many of them are done when all workers have started."""

RUN = """
import sys
from pathlib import Path
from preprocessing.configuration import IngestConfiguration
from preprocessing.ingest import ingest

if __name__ == "__main__":
    source, store, key = map(Path, sys.argv[1:])
    ingest(source, store, key=key, configuration=IngestConfiguration(size=48, workers=2))
"""


def scaling(folder: Path) -> None:
    """Images a second with one worker and with two, uncompressed and JPEG-lossless radiographs of full size."""
    noise = np.random.default_rng(0).normal(0, 6, (3000, 2500))
    slope = np.linspace(500, 3500, 2500)[None] + noise
    for number in range(IMAGES):
        words = np.clip(slope + number, 0, 4095).astype(np.uint16)
        syntax = "1.2.840.10008.1.2.1" if number % 2 else "1.2.840.10008.1.2.4.70"
        dataset = made(words, syntax, BitsStored=12, HighBit=11, SOPInstanceUID=f"1.2.{number}")
        (folder / "in").mkdir(exist_ok=True)
        (folder / "in" / f"{number}.dcm").write_bytes(as_bytes(dataset))
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for workers, found in rates.items():
            moments: list[float] = []
            ingest(
                folder / "in",
                folder / "out",
                configuration=IngestConfiguration(workers=workers),
                on_progress=lambda done, total, moments=moments: moments.append(time.perf_counter()),  # type: ignore[misc]
            )
            found.append((IMAGES - STARTED) / (moments[-1] - moments[-1 - IMAGES + STARTED]))
            shutil.rmtree(folder / "out")
            shutil.rmtree(folder / "out.private")
    one, two = (statistics.median(found) for found in rates.values())
    print(f"images a second with one worker {one:.1f}, with two {two:.1f}: {two / one:.2f} times")


def kills(folder: Path) -> None:
    """Kill a run at a random moment, run again, compare with an undisturbed run: time and again."""
    key, script, source = folder / "the.key", folder / "run.py", folder / "in"
    key.write_text("ab" * 32, encoding="ascii")
    key.chmod(0o600)
    script.write_text(RUN, encoding="utf-8")
    for number in range(60):
        write_image(source / f"{number % 7}" / f"{number}.dcm", number, PatientID=f"P{number // 3}")
    started = time.monotonic()
    subprocess.run([sys.executable, script, source, folder / "expected", key], check=True, env=environment())
    longest, expected = time.monotonic() - started, result(folder / "expected")
    moments, killed, equal = random.Random(0), 0, 0
    for number in range(1, KILLS + 1):
        command = [sys.executable, script, source, folder / "out", key]
        with subprocess.Popen(command, start_new_session=True, env=environment()) as run:
            try:
                run.wait(moments.uniform(0.2, longest))
            except subprocess.TimeoutExpired:
                os.kill(run.pid, signal.SIGKILL)
                killed += 1
        subprocess.run(command, check=True, env=environment())
        equal += result(folder / "out") == expected
        if number % 20 == 0:
            print(
                f"{number} rounds: {killed} runs killed before their end, {equal} equal to an undisturbed one",
                flush=True,
            )
        shutil.rmtree(folder / "out")
        shutil.rmtree(folder / "out.private")


def memory(folder: Path) -> None:
    """Resident memory while files are converted, and the time of a later run that finds a few new ones."""
    template = as_bytes(
        made(
            np.arange(1024, dtype=np.uint16).reshape(32, 32),
            SOPInstanceUID="1.2.1000000",
            StudyInstanceUID="1.3.1000000",
            PatientID="P1000000",
        )
    )
    for number in range(MANY):
        path = folder / "in" / f"{number // 1000}" / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(template.replace(b"1000000", b"%d" % (1000000 + number)))
    configuration = IngestConfiguration(size=32, workers=2)
    started = time.perf_counter()

    def progress(done: int, total: int | None) -> None:
        if total and done % (MANY // 20) == 0:
            print(f"{done} files: {_resident()} MiB, {time.perf_counter() - started:.0f} s", flush=True)

    ingest(folder / "in", folder / "out", configuration=configuration, on_progress=progress)
    peaks = [resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"whole run {time.perf_counter() - started:.0f} s; peak {peaks[0]} MiB, of a worker {peaks[1]} MiB")
    for new in (0, 100):
        for number in range(MANY, MANY + new):
            (folder / "in" / f"new {number}.dcm").write_bytes(template.replace(b"1000000", b"%d" % (1000000 + number)))
        started = time.perf_counter()
        summary = ingest(folder / "in", folder / "out", configuration=configuration)
        print(f"a later run with {summary.converted} new files: {time.perf_counter() - started:.1f} s")


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


PARTS = {"scaling": scaling, "kills": kills, "memory": memory}

if __name__ == "__main__":
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as temporary:
            PARTS[name](Path(temporary))
