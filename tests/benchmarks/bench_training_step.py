"""A training step of the bundle by its own configuration, and what of it is neither encoders nor objective.

`configs/pretrain.yaml` as MONAI's workflow runs it, with all handlers, TensorBoard and resume points: the paper's image
network, 256 x 256 pixels, batches of 32, the small BERT, and a store of made images and sentences in a temporary
folder. One core computes and one reads. After each epoch the trainer's network, objective and optimizer run the epoch's
batches alone. Variants (channels-last, torch.compile, bf16) are processes of their own that take turns by epochs. The
first epoch, in which code is compiled, is not counted, nor are the first and the last step of the others. A step's time
is processor time, so that other work on the machine does not change it, and the wait for data. On a GPU it is wall
time, batches are larger, and `nvidia-smi` says how busy the GPU is.
"""

import json
import logging
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context, set_start_method
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from ignite.handlers import HandlersTimeProfiler
from local_mi.pairs import prepare_pairs
from monai.bundle import ConfigWorkflow
from transformers.utils.logging import disable_progress_bar

CONFIGURATION = Path(__file__).parents[2] / "bundles" / "chest_xray_local_mi" / "configs" / "pretrain.yaml"
ON_GPU = torch.cuda.is_available()
BATCH_SIZES = (64, 256, 1024) if ON_GPU else (32,)
STEPS, EPOCHS, HELD_OUT = 6, 3, 32
"""Steps of an epoch, epochs of which the first is not counted, and held-out studies."""
WORKERS = max(1, (os.cpu_count() or 2) - 2) if ON_GPU else 1
CLOCK = time.perf_counter if ON_GPU else time.process_time
THREADS = torch.get_num_threads() if ON_GPU else 1
PICTURES, STORED = 128, 512
"""Files in the store, which items share, and their side, which is what ingest makes without being told."""

PLACES = ("right upper zone", "right lower zone", "left upper zone", "left lower zone", "right hilum", "left base")
FINDINGS = ("consolidation", "atelectasis", "a nodule", "interstitial opacity", "an effusion", "scarring", "a mass")
FORMS = ("There is {} in the {}.", "{} is seen in the {}, unchanged.", "No sign of {} in the {}.", "Possible {}, {}.")


def write_store(folder: Path, batch: int) -> None:
    """Pictures of noise with a bright spot, as `.npy` of 8 bits, and reports of three to six sentences from lists."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows, columns = np.mgrid[:STORED, :STORED].astype(np.float32)
    for number in range(PICTURES):
        row, column = random.uniform(0, STORED, 2)
        spot = 120 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 40**2))
        picture = np.clip(spot + random.normal(60, 12, spot.shape), 0, 255).astype(np.uint8)
        np.save(folder / "images" / f"{number}.npy", picture)
    items = [_item(number, random) for number in range(STEPS * batch + HELD_OUT)]
    splits = {"training": items[HELD_OUT:], "validation": items[:HELD_OUT], "test": []}
    datalist = {"label_names": [], "preprocessing": {"preset": "voi", "range": [0, 255]}, **splits}
    (folder / "datalist.json").write_text(json.dumps(datalist))


def _item(number: int, random: np.random.Generator) -> dict[str, Any]:
    sentences = [
        str(random.choice(FORMS)).format(random.choice(FINDINGS), random.choice(PLACES))
        for _ in range(random.integers(3, 7))
    ]
    names = {"image": f"images/{number % PICTURES}.npy", "study": f"study {number}", "patient": f"patient {number}"}
    return {**names, "view": "PA", "sentences": sentences}


@dataclass
class Epoch:
    """Seconds of its steps but the first and the last."""

    steps: list[float]
    waiting: float
    """For data in a step; the mean."""
    handlers: dict[str, float]
    """By name, in a step; means over all steps."""
    alone: float
    """Network, objective and optimizer on a batch; the mean. NaN where it was not asked for."""
    logged_wait_share: float
    """Data wait as the run itself logs it, with that for the first batch."""
    busy: float
    """Share of the time in which a GPU computes; NaN without one."""

    @property
    def step(self) -> float:
        return statistics.mean(self.steps)


@dataclass
class Run:
    """What a run took beside its epochs, in seconds, and its peak memory in MiB (on a GPU, of the GPU)."""

    ends: dict[str, float]
    """Handlers at the end of an epoch, by name; of the last epoch."""
    first_wait: float
    """For the first batch of the last epoch."""
    reading: float
    """An image, by the dataset; processor time."""
    collation: float
    """A batch; processor time."""
    peak_mib: float


class Utilisation:
    """How busy a GPU is, in [0, 1], sampled by `nvidia-smi` from making this to `mean`."""

    def __init__(self) -> None:
        query = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
        self.process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True) if ON_GPU else None

    def mean(self) -> float:
        if self.process is None:
            return float("nan")
        self.process.terminate()
        samples = [int(word) for word in self.process.communicate()[0].split() if word.isdigit()]
        return statistics.mean(samples) / 100 if samples else float("nan")


class Turns:
    """Lets a trainer wait for its turn before each epoch, and tells what the epoch took. Attach it last.

    Args:
        connection: gives a word for each epoch to run, and takes an `Epoch` for each.
        alone: whether network, objective and optimizer are timed alone after each epoch.
    """

    def __init__(self, connection: Connection, alone: bool) -> None:
        self.connection = connection
        self.alone = alone
        self.profiler = HandlersTimeProfiler()
        self.started: list[float] = []
        self.batches: list[Any] = []

    def attach(self, trainer: Any) -> None:
        self.profiler.attach(trainer)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start)
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._stamp)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._tell)

    def ends(self) -> dict[str, float]:
        """Seconds of all others' handlers at the end of the last epoch."""
        handlers = self.profiler.event_handlers_times[Events.EPOCH_COMPLETED]
        return {_plain(name): sum(times) for name, times in handlers.items() if not name.startswith("Turns")}

    def _start(self, _: Any) -> None:
        self.connection.recv()
        self.started.clear()
        self.batches.clear()
        self.profiler.dataflow_times.clear()
        for handlers in self.profiler.event_handlers_times.values():
            for times in handlers.values():
                times.clear()
        self.gpu = Utilisation()

    def _stamp(self, _: Any) -> None:
        self.started.append(CLOCK())

    def _keep(self, trainer: Any) -> None:
        self.batches.append(trainer.state.batch)

    def _tell(self, trainer: Any) -> None:
        busy = self.gpu.mean()
        waiting = self.profiler.dataflow_times[1:-1]
        computing = [after - before for before, after in pairwise(self.started[1:])]
        epoch = Epoch(
            steps=computing if ON_GPU else [sum(parts) for parts in zip(computing, waiting, strict=True)],
            waiting=statistics.mean(waiting),
            handlers=self._handlers_of_a_step(),
            alone=seconds_alone(trainer, self.batches[1:-1])
            if self.alone and trainer.state.epoch > 1
            else float("nan"),
            logged_wait_share=trainer.state.metrics["data_wait_share"],
            busy=busy,
        )
        self.connection.send(epoch)

    def _handlers_of_a_step(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for event, handlers in self.profiler.event_handlers_times.items():
            of_epochs = event in (Events.STARTED, Events.EPOCH_STARTED, Events.EPOCH_COMPLETED, Events.COMPLETED)
            for name, times in handlers.items():
                if times and not of_epochs and not name.startswith("Turns"):
                    found[_plain(name)] = found.get(_plain(name), 0.0) + sum(times) / len(self.started)
        return found


def _plain(name: str) -> str:
    return name.split(".")[0]


def seconds_alone(trainer: Any, batches: list[Any]) -> float:
    """Seconds a step of the trainer's network, objective and optimizer on batches that lie ready on the device."""
    device = trainer.state.device
    prepared = [prepare_pairs(batch, device, False) for batch in batches]
    trainer.network.train()
    _synchronise()
    begin = CLOCK()
    for image, pairs, _, text in prepared:
        trainer.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=trainer.amp):
            loss = trainer.loss_function(trainer.network(image, **text), pairs)
        loss.backward()
        trainer.optimizer.step()
    _synchronise()
    return (CLOCK() - begin) / len(prepared)


def _synchronise() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def train(folder: Path, name: str, settings: dict[str, Any], alone: bool, connection: Connection) -> None:
    """Run the bundle's pretraining, an epoch for each word from the connection; in a process of its own."""
    set_start_method(None, force=True)  # readers start as in a process that was not spawned
    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    disable_progress_bar()
    run = folder / "runs" / name
    paths = {"dataset_dir": str(folder), "ckpt_dir": str(run / "models"), "output_dir": str(run)}
    network = {"_target_": "local_mi.paper_resnet.PaperResNet", "num_classes": None}
    fixed = {"image_encoder": network, "max_epochs": EPOCHS, "num_workers": WORKERS}
    workflow = ConfigWorkflow(str(CONFIGURATION), workflow_type="train", **paths, **fixed, **settings)
    workflow.initialize()
    turns = Turns(connection, alone)
    turns.attach(workflow.parser.get_parsed_content("train#trainer"))
    workflow.run()
    workflow.finalize()
    reading, collation = seconds_of_reading(workflow.parser.get_parsed_content("train#dataloader"))
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = torch.cuda.max_memory_allocated() / 2**20 if ON_GPU else host / 1024
    connection.send(Run(turns.ends(), turns.profiler.dataflow_times[0], reading, collation, peak))


def seconds_of_reading(loader: Any) -> tuple[float, float]:
    """Seconds of processor time of an image and of putting a batch together, as a worker does them with one thread."""
    rows = next(iter(loader.batch_sampler))[:32]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loader.dataset[rows[0]]
    begin = time.process_time()
    items = [loader.dataset[row] for row in rows]
    read = time.process_time()
    loader.collate_fn(items)
    done = time.process_time()
    torch.set_num_threads(threads)
    return (read - begin) / len(rows), done - read


def measure(folder: Path, variants: dict[str, dict[str, Any]]) -> dict[str, tuple[list[Epoch], Run]]:
    """Epochs of each variant, which took turns; the first, which warms up or compiles, is left out."""
    context = get_context("spawn")
    connections, children = {}, []
    for name, settings in variants.items():
        connections[name], other = context.Pipe()
        child = context.Process(target=train, args=(folder, name, settings, profiled(name), other))
        child.start()
        other.close()  # so that the end of a child that fails is seen
        children.append(child)
    try:
        epochs: dict[str, list[Epoch]] = {name: [] for name in variants}
        for connection in connections.values():  # the first epochs all at once, since they are not counted
            connection.send("go")
        for connection in connections.values():
            connection.recv()
        for _ in range(1, EPOCHS):
            for name, connection in connections.items():
                connection.send("go")
                epochs[name].append(connection.recv())
        return {name: (epochs[name], connection.recv()) for name, connection in connections.items()}
    finally:
        for child in children:
            child.kill()  # it would wait for its readers, which leave SIGTERM alone
            child.join()


def profiled(name: str) -> bool:
    """Whether a variant is shown step by step: on a processor, where time is dear, the first alone."""
    return ON_GPU or name == next(iter(variants()))


def median(epochs: list[Epoch], of: Callable[[Epoch], float]) -> float:
    return statistics.median(of(epoch) for epoch in epochs)


def print_profile(name: str, batch: int, epochs: list[Epoch], run: Run) -> None:
    step, alone = median(epochs, lambda e: e.step), median(epochs, lambda e: e.alone)
    waiting = median(epochs, lambda e: e.waiting)
    by_handler = {handler: statistics.median(e.handlers[handler] for e in epochs) for handler in epochs[0].handlers}
    handlers = sum(by_handler.values())
    rows = {
        "encoders, objective, backward, optimizer, alone": alone,
        "waiting for data": waiting,
        "handlers": handlers,
        **{f"- {handler}": value for handler, value in sorted(by_handler.items(), key=lambda row: -row[1])[:4]},
        "the rest": step - alone - waiting - handlers,
        "whole step": step,
    }
    print(f"\nA step of B {batch}, {name}, medians of {len(epochs)} epochs\n\n| part | ms | share |\n|---|---|---|")
    for part, value in rows.items():
        print(f"| {part} | {1e3 * value:.1f} | {100 * value / step:.1f} % |")
    other = median(epochs, lambda e: 1 - e.alone / e.step)
    print(f"\nEverything else {100 * other:.1f} %; wanted: under 10 %.")
    print(f"Data wait that the run logs, with the first batch of an epoch: {100 * epochs[-1].logged_wait_share:.1f} %.")
    busy = (batch * run.reading + run.collation) / step / WORKERS
    print(
        f"Reading and transforms {1e3 * run.reading:.1f} ms an image, collation {1e3 * run.collation:.1f} ms a batch: "
        f"{100 * busy:.0f} % of each worker's time. First batch of an epoch {run.first_wait:.2f} s."
    )
    ends = ", ".join(
        f"{handler} {value:.2f}" for handler, value in sorted(run.ends.items(), key=lambda row: -row[1])[:4]
    )
    print(f"End of an epoch, s: {ends} ({HELD_OUT} held-out studies).")


def print_variants(batch: int, found: dict[str, tuple[list[Epoch], Run]]) -> None:
    unit = "of the GPU" if ON_GPU else "of the process"
    print(f"\n| B {batch} | pairs/s | ratio | GPU busy | peak MiB {unit} |")
    print("|---|---|---|---|---|")
    steps = {
        name: statistics.median(step for epoch in epochs for step in epoch.steps) for name, (epochs, _) in found.items()
    }
    first = batch / next(iter(steps.values()))
    for name, (epochs, run) in found.items():
        rate = batch / steps[name]
        busy = f"{100 * median(epochs, lambda e: e.busy):.0f} %" if ON_GPU else ""
        print(f"| {name} | {rate:,.1f} | {rate / first:.2f} | {busy} | {run.peak_mib:,.0f} |")


def variants() -> dict[str, dict[str, Any]]:
    """Settings by name; the others are compared with the first."""
    if ON_GPU:
        bf16 = {"bf16": True}
        return {
            "float32": {"bf16": False},
            "bf16": bf16,
            "bf16, not channels-last": bf16 | {"channels_last": False},
            "bf16, compiled": bf16 | {"compile": True},
        }
    return {"as configured": {}, "not channels-last": {"channels_last": False}, "compiled": {"compile": True}}


def main() -> None:
    chosen = variants()
    if shutil.which("g++") is None:
        print("torch.compile is left out, since there is no g++ for the code that it writes")
        chosen = {name: settings for name, settings in chosen.items() if "compile" not in settings}
    where = torch.cuda.get_device_name() if ON_GPU else f"{THREADS} thread"
    print(f"Paper's network, 256 x 256, small BERT; {where}, {WORKERS} workers, PyTorch {torch.__version__}")
    for batch in BATCH_SIZES:
        with tempfile.TemporaryDirectory() as folder:
            write_store(Path(folder), batch)
            settings = {name: given | {"batch_size": batch} for name, given in chosen.items()}
            found = measure(Path(folder), settings)
        for name, (epochs, run) in found.items():
            if profiled(name):
                print_profile(name, batch, epochs, run)
        print_variants(batch, found)


if __name__ == "__main__":
    main()
