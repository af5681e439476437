"""The study: is local pretraining worth it? Every arm, classifier and share of labels, tuned alike, in one command.

    tuning       every objective and estimator with every candidate, first seed; the best frozen classifier on all
                 labels, judged on validation, decides. The candidate of `finetune` is chosen likewise, arm by arm.
    pretraining  the chosen candidates with the other seeds; once more with one seed, and with shuffled reports
    classifiers  {image-only, objectives x estimators} x {frozen, finetune} x shares of labels x seeds
    results      `study_results`

Cells (`study_cells`) run in processes of their own, one a device, and are done once: a study that was stopped goes on.
"""

import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from importlib.resources import files
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from local_mi.errors import ConfigurationError
from local_mi.start import versions

from pipelines.phantom_store import Step, make_phantom_store, true_labels
from pipelines.study_cells import SHUFFLED, Cell, Classifier, PixelProbe, Pretraining, Study, run_cell
from pipelines.study_data import learnable_labels, write_study_data
from preprocessing.configuration import IngestConfiguration
from preprocessing.conversion import tune_process
from preprocessing.phantoms import Difficulty

ENCODERS = ("frozen", "finetune")
NAMES = {"infonce": "InfoNCE", "dv": "DV", "mine": "MINE", "jsd": "JSD"}
"""Of estimators, for people."""
REFERENCE = ("local", "infonce")  # of the checks with shuffled reports and with the same seed

OnProgress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Arm:
    """How an encoder came about: by an objective and an estimator, or, None both, not at all."""

    objective: str | None
    estimator: str | None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.objective} {NAMES.get(str(self.estimator), self.estimator)}" if self.objective else "image-only"


@dataclass(frozen=True)
class Outcome:
    """All that a study's cells gave.

    Args:
        study: what they share.
        arms: in the order of the tables.
        chosen: candidate of each arm's pretraining.
        tuned: candidate of each arm's `finetune`.
        cells: what each cell says (`study_cells.run_cell`).
    """

    study: Study
    arms: tuple[Arm, ...]
    chosen: dict[Arm, int]
    tuned: dict[Arm, int]
    cells: dict[Cell, dict[str, Any]]

    def classifier(self, arm: Arm, encoder: str, fraction: float, seed: int) -> Classifier:
        """The cell of the table."""
        candidate = self.tuned[arm] if encoder == "finetune" else 0
        return Classifier(initial_of(arm, self.chosen, seed), encoder, fraction, candidate, seed)


def scale_settings(scale: str) -> dict[str, Any]:
    """What `study.yaml` says of a scale.

    Raises:
        ConfigurationError: there is no such scale.
    """
    scales: dict[str, Any] = yaml.safe_load(files("pipelines").joinpath("study.yaml").read_text(encoding="utf-8"))
    if scale not in scales:
        raise ConfigurationError(f"there is no scale {scale!r}; choose one of {', '.join(scales)}")
    settings: dict[str, Any] = scales[scale]
    return settings


def run_cells_of_study(
    folder: Path, store: Path | None, settings: dict[str, Any], workers: int | None, step: Step
) -> Outcome:
    """Do all cells of a study that are not done yet.

    Args:
        folder: of the study; one that was stopped goes on.
        store: the data; None makes phantoms and their store in the folder.
        settings: of its scale (`scale_settings`).
        workers: processes; None for one a GPU, or one a core where there is none.
        step: entered with the name of each step; gives what is told of progress.

    Raises:
        ConfigurationError: the data cannot be used, or another study runs in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        with lock:
            _prepare_data(folder, store, settings, workers or os.cpu_count() or 1, step)
            study = Study(folder, settings, learnable_labels(folder))
            if not study.label_names:
                raise ConfigurationError(
                    f"no label of {store or folder} is both present and absent in training studies"
                )
            with _workers(folder, workers) as pool:
                return _run(study, pool, step)
    except Timeout:
        raise ConfigurationError(f"another study runs in {folder}; wait for it, or name another folder") from None


def _prepare_data(folder: Path, store: Path | None, settings: dict[str, Any], workers: int, step: Step) -> None:
    if store is not None:
        write_study_data(store, folder, None)
        return
    phantoms, stored = settings["phantoms"], settings["store"]
    if not (folder / "store" / "run.json").is_file():
        fractions = tuple(stored["split_fractions"])
        make_phantom_store(
            folder,
            studies=phantoms["studies"],
            size=phantoms["size"],
            difficulty=Difficulty(**phantoms["difficulty"]),
            configuration=IngestConfiguration(size=stored["size"], split_fractions=fractions, workers=workers),
            step=step,
        )
    write_study_data(folder / "store", folder, true_labels(folder / "phantoms", folder / "store.private"))


def _run(study: Study, pool: ProcessPoolExecutor, step: Step) -> Outcome:
    settings = study.settings
    seeds, fractions = settings["seeds"], settings["label_fractions"]
    first, most = seeds[0], max(fractions)
    pretrained = [
        Arm(objective, estimator) for objective in settings["objectives"] for estimator in settings["estimators"]
    ]
    arms = (Arm(None, None), *pretrained)
    cells: dict[Cell, dict[str, Any]] = {}

    def do(title: str, wanted: Iterable[Cell]) -> None:
        new = [cell for cell in dict.fromkeys(wanted) if cell not in cells]
        with step(f"{title} ({len(new)} cells)") as on_progress:
            cells.update(_run_cells(study, pool, new, on_progress))

    candidates = range(len(settings["pretrain"]["candidates"]))
    tried = {
        arm: [Pretraining(str(arm.objective), str(arm.estimator), k, first) for k in candidates] for arm in pretrained
    }
    do("pretraining, candidates", [cell for of_arm in tried.values() for cell in of_arm])
    judged = {arm: [Classifier(cell, "frozen", most, 0, first) for cell in of_arm] for arm, of_arm in tried.items()}
    do("frozen classifiers that choose", [cell for of_arm in judged.values() for cell in of_arm])
    chosen = {arm: _best(of_arm, cells) for arm, of_arm in judged.items()}

    others = [initial_of(arm, chosen, seed) for arm in pretrained for seed in seeds]
    do("pretraining, all seeds", [*filter(None, others), *check_pretrainings(arms, chosen, first)])
    tuning, tried_rates = settings["tuning_fraction"], range(len(settings["finetune"]["candidates"]))
    rates = {
        arm: [Classifier(initial_of(arm, chosen, first), "finetune", tuning, k, first) for k in tried_rates]
        for arm in arms
    }
    do("finetuned classifiers that choose", [cell for of_arm in rates.values() for cell in of_arm])
    tuned = {arm: _best(of_arm, cells) for arm, of_arm in rates.items()}

    outcome = Outcome(study, arms, chosen, tuned, cells)
    table = [
        outcome.classifier(arm, encoder, fraction, seed)
        for fraction in sorted(fractions, reverse=True)  # the longest first
        for encoder in reversed(ENCODERS)
        for arm in arms
        for seed in seeds
    ]
    floor = [PixelProbe(fraction, seed) for fraction in fractions for seed in seeds]
    controls = [Classifier(cell, "frozen", most, 0, first) for cell in check_pretrainings(arms, chosen, first)]
    do("classifiers", [*table, *floor, *controls])
    return outcome


def initial_of(arm: Arm, chosen: dict[Arm, int], seed: int) -> Pretraining | None:
    """The pretraining that an arm's classifiers start from."""
    if arm.objective is None or arm.estimator is None:
        return None
    return Pretraining(arm.objective, arm.estimator, chosen[arm], seed)


def reference_arm(arms: Sequence[Arm]) -> Arm | None:
    """The arm that is run again, and on shuffled reports: local InfoNCE, or else the first that is pretrained."""
    pretrained = [arm for arm in arms if arm.objective]
    return next(
        (arm for arm in pretrained if (arm.objective, arm.estimator) == REFERENCE), next(iter(pretrained), None)
    )


def check_pretrainings(arms: Sequence[Arm], chosen: dict[Arm, int], seed: int) -> list[Pretraining]:
    """Repetition with the same seed, then pretraining on shuffled reports; none without a pretrained arm."""
    arm = reference_arm(arms)
    cell = initial_of(arm, chosen, seed) if arm else None
    return [] if cell is None else [replace(cell, repeat=1), replace(cell, data=SHUFFLED)]


def _best(tried: Sequence[Cell], cells: dict[Cell, dict[str, Any]]) -> int:
    """Number of the candidate with the best value; the first where all failed."""
    values = [cells[cell].get("value", float("-inf")) for cell in tried]
    return values.index(max(values))


def _run_cells(
    study: Study, pool: ProcessPoolExecutor, cells: Sequence[Cell], on_progress: OnProgress
) -> dict[Cell, dict[str, Any]]:
    running = {pool.submit(run_cell, study, cell): cell for cell in cells}
    results: dict[Cell, dict[str, Any]] = {}
    on_progress(0, len(cells))
    try:
        for future in as_completed(running):
            results[running[future]] = future.result()
            on_progress(len(results), len(cells))
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BrokenProcessPool as error:
        raise ConfigurationError(
            f"a worker of the study died, perhaps for want of memory (see {study.folder / 'logs'}); the same command "
            "goes on, with fewer --workers if need be"
        ) from error
    return {cell: results[cell] for cell in cells}


def _workers(folder: Path, workers: int | None) -> ProcessPoolExecutor:
    """One process a device; on processors, one a core with one thread."""
    devices = _visible_gpus()
    number = workers or len(devices) or os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    places: Queue[str] = context.Queue()
    for k in range(number):
        places.put(devices[k % len(devices)] if devices else "")
    (folder / "logs").mkdir(exist_ok=True)
    return ProcessPoolExecutor(number, context, _start_worker, (places, str(folder / "logs")))


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(k) for k in range(torch.cuda.device_count())]


def _start_worker(places: "Queue[str]", logs: str) -> None:
    """Give a process its device, one thread, and a log file in place of the terminal."""
    place = places.get()
    if place:
        os.environ["CUDA_VISIBLE_DEVICES"] = place  # before CUDA is first asked for
    multiprocessing.set_start_method(None, force=True)  # a data loader's workers would else be spawned as this one was
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    tune_process()
    log = os.open(Path(logs) / f"worker-{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(log, stream)


def _end_with_parent() -> None:
    """A worker whose study was killed would else wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def provenance(outcome: Outcome) -> dict[str, Any]:
    """What made the study: settings, versions, and every tuning value that a choice was made by."""
    cells = {cell.name: result.get("value", result.get("failed")) for cell, result in outcome.cells.items()}
    return {
        "settings": outcome.study.settings,
        "label_names": list(outcome.study.label_names),
        "versions": versions(),
        "chosen": {arm.name: candidate for arm, candidate in outcome.chosen.items()},
        "tuned": {arm.name: candidate for arm, candidate in outcome.tuned.items()},
        "validation_values": json.loads(json.dumps(cells)),
        "seconds_of_cells": sum(result.get("seconds", 0.0) for result in outcome.cells.values()),
    }
