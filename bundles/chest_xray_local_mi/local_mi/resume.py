"""A training run that goes on where it was killed, with the numbers of a run that never was.

A resume point is one file: the states of all that learns or counts, and the random states of every process. What the
data of a step are follows from seed, epoch and step alone (`sampling`), so no loader's state is needed. Points are
removed when the run ends; the weights that it is for are kept elsewhere (`handlers.KeepBest`).
"""

import logging
import pickle
import random
import signal
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist
import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from local_mi.errors import ConfigurationError
from local_mi.files import write_atomically
from local_mi.handlers import ends_accumulation, optimized_parameters, step_of_epoch
from local_mi.termination import Termination

logger = logging.getLogger(__name__)

POINTS_KEPT = 2  # the newest may turn out damaged
PARTS = {"description", "iteration", "epoch_length", "states", "scaler", "random", "with_gradient"}
EXIT_CODE = 128 + signal.SIGTERM  # as shells report a process that SIGTERM ended


class Stateful(Protocol):
    """Network, optimizer, scheduler, handler: what knows its state."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take them back."""


class ResumePoint:
    """Saves resume points while a trainer runs, and lets it go on from the newest good one.

    `run` is the way in. Under data parallelism every process runs it; the first one reads and writes, so that the
    folder need not be shared. The states must be the same on every process, as those of data-parallel training are
    when losses are computed over all processes; random states are kept for each. A point that cannot be written costs
    a warning, not the run. Wall times (`handlers.Throughput`) count from the start of the process.

    Args:
        folder: of the points, which no other run may use.
        states: all that must come back, by name.
        description: what must be equal for a run to go on: plain values that decide the numbers, and no others.
        interval: steps of an epoch between points, rounded up to whole groups of accumulated gradients; None for
            points at the end of epochs alone.
    """

    def __init__(
        self, folder: str, states: Mapping[str, Stateful], description: dict[str, Any], interval: int | None
    ) -> None:
        if interval is not None and interval < 1:
            raise ConfigurationError(f"the interval of resume points is {interval}; set 1 or more steps, or null")
        self.folder = Path(folder)
        self.states = states
        self.description = description
        self.interval = interval
        self._termination = Termination()
        self._stopped = False
        self._first_save = True

    def run(self, engine: SupervisedTrainer) -> None:
        """Run a trainer from the newest good point, or from the start where there is none.

        On SIGTERM the current step, group of accumulated gradients or validation is finished and a point saved.

        Raises:
            SystemExit: 143, after SIGTERM.
            ConfigurationError: see `load`.
        """
        self._stopped = False
        self.attach(engine)  # after all handlers of the configuration: what they change at the same moment is saved
        with self._termination:
            self.load(engine)
            engine.run()
        if self._stopped:
            raise SystemExit(EXIT_CODE)

    def attach(self, engine: SupervisedTrainer) -> None:
        """Save points while a trainer runs; attach after every handler that learns or counts."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)
        engine.add_event_handler(Events.COMPLETED, self._after_run)

    def load(self, engine: SupervisedTrainer) -> None:
        """Take the newest good point, if there is one, into all states and the trainer, before it runs.

        Raises:
            ConfigurationError: no point can be read; or the newest good one is of another description, number of
                processes, length of epoch or architecture, or later than the trainer's last epoch.
        """
        point = _from_first_process(self._newest_good, self._termination.group)
        if point is None:
            return
        self._refuse_other_run(point, engine)
        for name, stateful in self.states.items():
            _load_state(name, stateful, point["states"].get(name), self.folder)
        length = point["epoch_length"]
        progress = {"iteration": point["iteration"], "epoch_length": length, "max_epochs": engine.state.max_epochs}
        engine.load_state_dict(progress)
        for parameter, had_gradient in zip(optimized_parameters(engine), point["with_gradient"], strict=True):
            # A gradient of zeros decays and moves a weight, none leaves it alone.
            parameter.grad = torch.zeros_like(parameter) if had_gradient else None
        own_random = point["random"][idist.get_rank()]
        first = point["iteration"] + 1
        engine.add_event_handler(Events.STARTED, _load_scaler, point["scaler"])  # MONAI makes it when the run starts
        engine.add_event_handler(Events.ITERATION_STARTED(once=first), _set_random_state, own_random)
        if idist.get_rank() == 0:
            epoch, step = divmod(point["iteration"], length)
            logger.info("going on after step %d (epoch %d, step %d)", point["iteration"], epoch + 1, step)

    def _after_iteration(self, engine: SupervisedTrainer) -> None:
        step = step_of_epoch(engine)
        if step == engine.state.epoch_length or not ends_accumulation(engine):
            return
        group = engine.accumulation_steps
        stop = self._termination.agreed()
        if stop or (self.interval is not None and step % (-(-self.interval // group) * group) == 0):
            self._save(engine, stop)

    def _after_epoch(self, engine: SupervisedTrainer) -> None:
        if engine.state.epoch < engine.state.max_epochs:  # the end of the run follows the last one at once
            self._save(engine, self._termination.agreed())

    def _after_run(self, _: SupervisedTrainer) -> None:
        self._termination.settle()
        if idist.get_rank() == 0:
            for path in [*self.folder.glob("resume-*.pt"), *self.folder.glob(".resume-*.pt.*")]:
                path.unlink(missing_ok=True)

    def _save(self, engine: SupervisedTrainer, stop: bool) -> None:
        point = {
            "description": self.description,
            "iteration": engine.state.iteration,
            "epoch_length": engine.state.epoch_length,
            "states": {name: stateful.state_dict() for name, stateful in self.states.items()},
            "scaler": engine.scaler.state_dict() if engine.scaler is not None else None,
            "random": _of_all_processes(_random_state(engine.state.device), self._termination.group),
            "with_gradient": [parameter.grad is not None for parameter in optimized_parameters(engine)],
        }
        saved = idist.get_rank() == 0 and self._write(point)
        if stop:
            self._stopped = True
            engine.terminate(skip_completed=True)  # an exception would be logged with its traceback, as an error
            if saved:
                where = f"step {engine.state.iteration} (epoch {engine.state.epoch})"
                logger.warning("stopped by SIGTERM after %s; the same command goes on from there", where)
            elif idist.get_rank() == 0:
                logger.error(
                    "stopped by SIGTERM without a new resume point; the same command goes on from an older one"
                )

    def _write(self, point: dict[str, Any]) -> bool:
        """Write a point and remove those that it replaces; False, after a warning, where the disk does not let it."""
        path = self.folder / f"resume-{point['iteration']:09d}.pt"
        try:
            for leftover in self.folder.glob(".resume-*.pt.*"):  # of a process that was killed while it wrote
                leftover.unlink(missing_ok=True)
            write_atomically(path, lambda temporary: torch.save(point, temporary))
            if self._first_save:
                _refuse_unreadable(path)
                self._first_save = False
            points = self._points()
            earlier = [other for other in points if other.name <= path.name]
            for other in set(points) - set(earlier[-POINTS_KEPT:]):  # a later one was passed over as damaged
                other.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("resume point %s could not be written (%s); earlier ones stay", path, error.strerror)
            return False
        return True

    def _points(self) -> list[Path]:
        return sorted(self.folder.glob("resume-*.pt"))

    def _newest_good(self) -> dict[str, Any] | None:
        points = self._points()
        for path in reversed(points):
            point = _read_point(path)
            if point is not None:
                return point
            logger.warning("resume point %s is damaged and passed over", path)
        if points:
            raise ConfigurationError(
                f"no resume point in {self.folder} can be read; delete that folder to start afresh"
            )
        return None

    def _refuse_other_run(self, point: dict[str, Any], engine: SupervisedTrainer) -> None:
        way_out = f"name a new run folder, or delete {self.folder} to start afresh"
        processes = len(point["random"])
        if processes != idist.get_world_size():
            raise ConfigurationError(
                f"the unfinished run in {self.folder} has {processes} processes, not {idist.get_world_size()}; start "
                f"as many to go on with it, {way_out}"
            )
        key = first_difference(self.description, point["description"])
        if key is not None:
            raise ConfigurationError(
                f"the unfinished run in {self.folder} has another `{key}`; use its settings to go on with it, {way_out}"
            )
        if point["epoch_length"] != engine.state.epoch_length:
            raise ConfigurationError(
                f"the unfinished run in {self.folder} has {point['epoch_length']} steps in an epoch, not "
                f"{engine.state.epoch_length}; use its data and batch size to go on with it, {way_out}"
            )
        if point["iteration"] >= engine.state.max_epochs * engine.state.epoch_length:
            raise ConfigurationError(
                f"the unfinished run in {self.folder} is past {engine.state.max_epochs} epochs already; raise "
                f"`max_epochs` to go on with it, {way_out}"
            )


def first_difference(now: Any, then: Any, path: str = "") -> str | None:
    """Path (`a#b`) of the first entry of two nested dictionaries that differs, None where they are equal."""
    if not (isinstance(now, dict) and isinstance(then, dict)):
        return None if now == then else path
    missing = object()
    for key in [*now, *(key for key in then if key not in now)]:
        below = f"{path}#{key}" if path else str(key)
        difference = first_difference(now.get(key, missing), then.get(key, missing), below)
        if difference is not None:
            return difference
    return None


def _read_point(path: Path) -> dict[str, Any] | None:
    """A point, or None where a checksum of its archive or anything else says that it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        point = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # of a damaged file, zipfile and torch.load raise whatever they stumble over
        return None
    return point if isinstance(point, dict) and point.keys() == PARTS else None


def _refuse_unreadable(path: Path) -> None:
    """Raise TypeError, while it is no loss, where a state holds what PyTorch would not load back."""
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        path.unlink()
        raise TypeError("the states of a resume point must be tensors and plain values") from error


def _load_state(name: str, stateful: Stateful, state: dict[str, Any] | None, folder: Path) -> None:
    try:
        if state is None:
            raise KeyError(name)
        stateful.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"the unfinished run in {folder} has another {name} (architecture or version); use its settings to go on "
            f"with it, name a new run folder, or delete {folder} to start afresh"
        ) from error


def _load_scaler(engine: SupervisedTrainer, state: dict[str, Any] | None) -> None:
    if engine.scaler is not None and state:
        engine.scaler.load_state_dict(state)


def _random_state(device: torch.device) -> dict[str, Any]:
    """States of Python's, NumPy's and PyTorch's global generators, as plain values and tensors."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  the global one is what is to be saved
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _set_random_state(engine: SupervisedTrainer, state: dict[str, Any]) -> None:
    name, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and engine.state.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], engine.state.device)


def _of_all_processes(value: Any, group: Any) -> list[Any]:
    if group is None:
        return [value]
    values: list[Any] = [None] * idist.get_world_size()
    dist.all_gather_object(values, value, group=group)
    return values


def _from_first_process(read: Any, group: Any) -> Any:
    """What the first process reads, on every process; its ConfigurationError too."""
    box: list[Any] = [None]
    if idist.get_rank() == 0:
        try:
            box[0] = read()
        except ConfigurationError as error:
            box[0] = error
    if group is not None:
        dist.broadcast_object_list(box, src=0, group=group)
    if isinstance(box[0], ConfigurationError):
        raise box[0]
    return box[0]
