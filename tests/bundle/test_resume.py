"""A run killed or stopped anywhere and started again gives the numbers of a run that never was, bit for bit."""

import logging
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from ignite.engine import Events
from ignite.metrics import Average
from local_mi.errors import ConfigurationError
from local_mi.handlers import BatchPosition, GradientClipping, KeepBest, TrainingFigures
from local_mi.resume import ResumePoint, _read_point, first_difference
from local_mi.sampling import EpochBatches, EpochDataset, ignore_termination
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import LrScheduleHandler, StatsHandler, ValidationHandler
from monai.transforms import Compose, EnsureTyped, RandAffined, RandGaussianNoised, ScaleIntensityd
from torch import Tensor, nn

EPOCHS, STEPS = 3, 5  # 20 items in batches of 4; gradients of 2 steps are accumulated, so the groups are 2, 2 and 1
FORK = multiprocessing.get_context("fork")  # a spawned interpreter takes seconds to import


class Objective(nn.Module):
    """Squared error beside a moving average that takes part in the loss, as MINE's does."""

    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.tensor(math.nan))
        self.figures: dict[str, Tensor] = {}

    def forward(self, prediction: Tensor, label: Tensor) -> Tensor:
        error = (prediction.squeeze(1) - label).square().mean()
        of_all = idist.all_reduce(error.detach().clone()) / idist.get_world_size()
        old = torch.where(self.average.isnan(), of_all, self.average)
        self.average = 0.9 * old + 0.1 * of_all
        self.figures = {"error": of_all}
        return error * self.average


class Noise(nn.Module):
    """Noise of all three global generators, and a weight that gets no gradient in most steps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if random.random() < 0.2:
            x = x * self.weight
        return x * (1 + random.random() / 10 + np.random.rand() / 10 + torch.rand(1) / 10)  # noqa: NPY002


@dataclass
class Program:
    """A training run with everything that has a state; `deaths` adds what kills it."""

    folder: Path
    workers: int = 0
    interval: int | None = 1
    learning_rate: float = 0.01
    width: int = 4
    steps: int = STEPS
    epochs: int = EPOCHS
    processes: int = 1
    on_start: Callable[[SupervisedTrainer, int], None] = lambda trainer, rank: None
    round: int = 0

    def parts(self, rank: int) -> tuple[SupervisedTrainer, ResumePoint, dict[str, Any]]:
        torch.manual_seed(7)
        values = np.random.default_rng(0).random((4 * self.steps, 1, 8, 8), dtype=np.float32)
        items = [{"image": value, "label": np.float32(value.mean()), "item": k} for k, value in enumerate(values)]
        augmentation = [
            ScaleIntensityd("image", minv=0, maxv=1),
            RandAffined("image", prob=1.0, rotate_range=0.3, translate_range=[1, 1], padding_mode="zeros"),
            RandGaussianNoised("image", prob=0.5, std=0.1),
            EnsureTyped("image", track_meta=False),
        ]
        batches = EpochBatches(len(items), 4 // self.processes, 3, rank, self.processes)
        network = nn.Sequential(
            nn.Conv2d(1, self.width, 3), nn.BatchNorm2d(self.width), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3)
        )
        network.extend([Noise(), nn.Linear(36 * self.width, 1)])
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        objective = Objective()
        evaluator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=DataLoader(items[:6], batch_size=3),
            network=network,
            key_val_metric={"score": Average(lambda output: output["pred"].mean())},
            decollate=False,
        )
        keep_best = KeepBest(network, evaluator, "score", str(self.folder / "model.pt"), {})
        figures = TrainingFigures(objective)
        trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=self.epochs,
            train_data_loader=DataLoader(
                EpochDataset(items, Compose(augmentation), seed=3, cache_rate=1.0),
                batch_sampler=batches,
                num_workers=self.workers,
                worker_init_fn=ignore_termination,
                generator=torch.Generator(),
            ),
            network=nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)
            if self.processes > 1
            else network,
            optimizer=optimizer,
            loss_function=objective,
            accumulation_steps=2,
            train_handlers=[
                StatsHandler(iteration_log=False, output_transform=lambda output: output["loss"]),
                BatchPosition(batches),
                GradientClipping(0.5),
                LrScheduleHandler(schedule, print_lr=False, epoch_level=False),
                figures,
                ValidationHandler(1, evaluator),
                keep_best,
            ],
            decollate=False,
        )
        stateful = {"network": network, "optimizer": optimizer, "schedule": schedule, "objective": objective}
        resume_point = ResumePoint(
            str(self.folder / "resume"),
            {**stateful, "figures": figures, "keep_best": keep_best},
            {"learning_rate": self.learning_rate, "optimisation": {"accumulation": 2}},
            self.interval,
        )
        return trainer, resume_point, {**stateful, "evaluator": evaluator}

    def __call__(self, rank: int = 0) -> None:
        if self.processes > 1:
            store = dist.FileStore(str(self.folder / f"store-{os.getppid()}-{self.round}"), self.processes)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=self.processes)
        trainer, resume_point, parts = self.parts(rank)
        torch.manual_seed(100 + rank)
        np.random.seed(100 + rank)  # noqa: NPY002
        random.seed(100 + rank)
        self.on_start(trainer, rank)
        resume_point.run(trainer)
        evaluator = parts.pop("evaluator")
        result = {name: part.state_dict() for name, part in parts.items()}
        result["metrics"] = {**trainer.state.metrics, **evaluator.state.metrics}
        result["random"] = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        torch.save(result, self.folder / f"result-{rank}.pt")

    def in_process_of_its_own(self, rank: int) -> None:
        logging.basicConfig(force=True)  # to stderr, not to pytest
        self(rank)

    def run(self) -> list[int]:
        """Run in processes of its own; their exit codes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.round += 1
        processes = [FORK.Process(target=self.in_process_of_its_own, args=(rank,)) for rank in range(self.processes)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return [process.exitcode or 0 for process in processes]

    def result(self, rank: int = 0) -> dict[str, Any]:
        result: dict[str, Any] = torch.load(self.folder / f"result-{rank}.pt", weights_only=False)
        kept = torch.load(self.folder / "model.pt", weights_only=True)
        return {**result, "kept": kept, "record": (self.folder / "model.json").read_text()}


def die_at(step: int, number: int = signal.SIGKILL, event: Any = Events.ITERATION_COMPLETED, of: int = 0) -> Any:
    """A signal to the process itself at an event of a step or epoch, before the resume point of that moment."""

    def install(trainer: SupervisedTrainer, rank: int) -> None:
        if rank == of:
            trainer.add_event_handler(event(once=step), lambda: os.kill(os.getpid(), number))

    return install


def assert_equal(found: Any, expected: Any, path: str = "") -> None:
    """Bit-for-bit equality of nested states."""
    assert type(found) is type(expected), path
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in expected:
            assert_equal(found[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), path
        for k, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal(one, other, f"{path}/{k}")
    elif isinstance(expected, Tensor):
        assert torch.equal(found, expected), path
    else:
        assert found == expected, path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Without workers and with no point within an epoch: neither may change a number."""
    program = Program(tmp_path_factory.mktemp("whole"), interval=None)
    assert program.run() == [0]
    assert names(program.folder / "resume") == []  # a finished run leaves nothing, and starts afresh when repeated
    return program.result()


@settings(max_examples=3, deadline=None, phases=[Phase.generate])  # to shrink an example would take minutes
@given(st.lists(st.integers(1, EPOCHS * STEPS), min_size=1, max_size=2), st.sampled_from([None, 1, 3]))
def test_killed_at_any_steps_and_resumed_is_uninterrupted(
    uninterrupted: dict[str, Any], steps: list[int], interval: int | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for step in sorted(steps):
            program = Program(Path(folder), interval=interval, on_start=die_at(step))
            assert program.run() == [-signal.SIGKILL]
        program = Program(Path(folder), interval=interval)
        assert program.run() == [0]
        assert_equal(program.result(), uninterrupted)


def test_killed_with_workers_and_resumed_is_uninterrupted(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    assert Program(tmp_path, workers=2, on_start=die_at(8)).run() == [-signal.SIGKILL]
    program = Program(tmp_path, workers=2)
    assert program.run() == [0]
    assert_equal(program.result(), uninterrupted)


@pytest.mark.parametrize(
    ("event", "number"),
    [
        (IterationEvents.BACKWARD_COMPLETED, 4),
        (Events.GET_BATCH_COMPLETED, 8),
        (Events.EPOCH_COMPLETED, 1),  # weights may have been kept, and no point saved yet
        (Events.COMPLETED, 1),
    ],
)
def test_killed_at_any_moment_and_resumed_is_uninterrupted(
    uninterrupted: dict[str, Any], tmp_path: Path, event: Any, number: int
) -> None:
    reached = 0

    def install(trainer: SupervisedTrainer, _: int) -> None:
        def count() -> None:
            nonlocal reached
            reached += 1
            if reached == number:
                os.kill(os.getpid(), signal.SIGKILL)

        trainer.add_event_handler(event, count)

    assert Program(tmp_path, on_start=install).run() == [-signal.SIGKILL]
    program = Program(tmp_path)
    assert program.run() == [0]
    assert_equal(program.result(), uninterrupted)


def test_killed_while_a_point_is_written_and_resumed_is_uninterrupted(
    uninterrupted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def write_half(content: Any, path: str) -> None:
        save(content, path)
        if "resume-000000007" in path:
            truncate(Path(path))
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(torch, "save", write_half)
    assert Program(tmp_path).run() == [-signal.SIGKILL]
    monkeypatch.undo()
    assert len(names(tmp_path / "resume")) == 3  # two points, and the half of one
    program = Program(tmp_path, on_start=die_at(10))
    assert program.run() == [-signal.SIGKILL]
    assert names(tmp_path / "resume") == ["resume-000000007.pt", "resume-000000009.pt"]


def test_points_lie_at_the_ends_of_epochs_and_of_whole_groups(tmp_path: Path) -> None:
    """An interval of 3 is one of 4, since gradients of 2 steps are accumulated; the last two points are kept."""
    assert Program(tmp_path, interval=3, on_start=die_at(10)).run() == [-signal.SIGKILL]
    assert names(tmp_path / "resume") == ["resume-000000005.pt", "resume-000000009.pt"]


@pytest.mark.parametrize("step", [1, 5, 15])
def test_sigterm_ends_the_run_with_143_at_a_point_to_go_on_from(
    uninterrupted: dict[str, Any], tmp_path: Path, step: int, capfd: pytest.CaptureFixture[str]
) -> None:
    last = step == 15  # the run ends anyway
    codes = Program(tmp_path, interval=None, on_start=die_at(step, signal.SIGTERM)).run()
    assert codes == [0 if last else 143]
    if not last:
        stop = {1: 2, 5: 5}[step]  # the group of accumulated gradients, or the validation, is finished
        assert names(tmp_path / "resume")[-1] == f"resume-{stop:09d}.pt"
        said = capfd.readouterr().err
        assert f"stopped by SIGTERM after step {stop} (epoch {-(-stop // STEPS)}); the same command goes on" in said
        assert "Traceback" not in said
        assert "rror" not in said
        assert Program(tmp_path, interval=None).run() == [0]
    assert_equal(Program(tmp_path).result(), uninterrupted)


def test_sigterm_to_every_process_of_the_run_stops_it_as_well(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    """A scheduler sends it to the data workers too, and torchrun once more to the run itself."""

    def install(trainer: SupervisedTrainer, _: int) -> None:
        os.setpgid(0, 0)

        def kill_all() -> None:
            subprocess.run(["kill", "-TERM", "--", f"-{os.getpgid(0)}"], start_new_session=True, check=True)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)  # a worker that dies is noticed while the step goes on

        trainer.add_event_handler(Events.ITERATION_STARTED(once=8), kill_all)  # both workers have begun by then

    assert Program(tmp_path, workers=2, on_start=install).run() == [143]
    program = Program(tmp_path, workers=2)
    assert program.run() == [0]
    assert_equal(program.result(), uninterrupted)


def test_the_signal_handler_of_before_is_back_after_a_run(tmp_path: Path) -> None:
    def mine(number: int, frame: Any) -> None: ...

    def failing(trainer: SupervisedTrainer, _: int) -> None:
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda: 1 / 0)

    before = signal.signal(signal.SIGTERM, mine)
    try:
        Program(tmp_path, epochs=1)()
        assert signal.getsignal(signal.SIGTERM) is mine
        with pytest.raises(ZeroDivisionError):
            Program(tmp_path, on_start=failing)()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def two_uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Program:
    program = Program(tmp_path_factory.mktemp("two"), processes=2, interval=None)
    assert program.run() == [0, 0]
    assert not torch.equal(program.result(0)["random"][0], program.result(1)["random"][0])
    return program


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_two_processes_stop_together_and_go_on_as_if_they_had_not(
    two_uninterrupted: Program, tmp_path: Path, number: int
) -> None:
    """Each has random states of its own. SIGTERM comes to the second alone."""

    def install(trainer: SupervisedTrainer, rank: int) -> None:
        everyone = number == signal.SIGKILL
        if rank == 1 or everyone:
            trainer.add_event_handler(Events.ITERATION_COMPLETED(once=8), lambda: os.kill(os.getpid(), number))

    program = Program(tmp_path, processes=2, on_start=install)
    codes = program.run()
    assert codes == [143, 143] if number == signal.SIGTERM else all(codes)  # the other may fail for want of the killed
    program.on_start = lambda trainer, rank: None
    assert program.run() == [0, 0]
    for rank in range(2):
        assert_equal(program.result(rank), two_uninterrupted.result(rank))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Points after steps 5 and 7 of a run that was killed."""
    folder = tmp_path_factory.mktemp("killed")
    assert Program(folder, on_start=die_at(8)).run() == [-signal.SIGKILL]
    return folder


@pytest.fixture
def unfinished(killed: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "run"
    shutil.copytree(killed, copy)
    return copy


def load(program: Program) -> SupervisedTrainer:
    trainer, resume_point, _ = program.parts(0)
    resume_point.load(trainer)
    return trainer


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """One bit of a weight."""
    weight = torch.load(path, weights_only=True)["states"]["network"]["0.weight"]
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes())] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_something_else(path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, path)


@pytest.mark.parametrize("damage", [truncate, flip, empty, replace_by_something_else])
def test_a_damaged_newest_point_is_passed_over_for_the_one_before(
    uninterrupted: dict[str, Any],
    unfinished: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(unfinished / "resume" / "resume-000000007.pt")
    assert load(Program(unfinished)).state.iteration == 5
    assert [record.levelname for record in caplog.records if "damaged" in record.message] == ["WARNING"]
    assert "resume-000000007.pt is damaged and passed over" in caplog.text
    if damage is flip:
        assert Program(unfinished).run() == [0]
        assert_equal(Program(unfinished).result(), uninterrupted)


def test_a_damaged_later_point_does_not_push_out_a_good_one(unfinished: Path) -> None:
    folder = unfinished / "resume"
    (folder / "resume-000000007.pt").rename(folder / "resume-000000012.pt")
    truncate(folder / "resume-000000012.pt")
    assert Program(unfinished, on_start=die_at(8)).run() == [-signal.SIGKILL]
    assert names(folder) == ["resume-000000005.pt", "resume-000000007.pt"]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_flipped_byte_is_found_or_does_no_harm(killed: Path, data: st.DataObject) -> None:
    content = bytearray((killed / "resume" / "resume-000000007.pt").read_bytes())
    whole = _read_point(killed / "resume" / "resume-000000007.pt")
    assert whole is not None
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "point.pt"
        path.write_bytes(content)
        point = _read_point(path)
    if point is not None:
        assert_equal(point, whole)


def test_where_all_points_are_damaged_a_sentence_says_what_to_delete(unfinished: Path) -> None:
    for path in (unfinished / "resume").iterdir():
        truncate(path)
    with pytest.raises(ConfigurationError, match=r"no resume point in .*resume can be read; delete that folder"):
        load(Program(unfinished))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.02}, "has another `learning_rate`"),
        ({"width": 5}, "has another network"),
        ({"steps": 6}, "has 5 steps in an epoch, not 6"),
        ({"epochs": 1}, "is past 1 epochs already; raise `max_epochs`"),
    ],
)
def test_a_point_of_another_run_is_refused(unfinished: Path, changes: dict[str, Any], message: str) -> None:
    (unfinished / "model.pt").unlink()  # of another architecture, it would be refused first
    with pytest.raises(ConfigurationError, match=message) as error:
        load(Program(unfinished, **changes))
    assert str(unfinished / "resume") in str(error.value)
    assert "to go on with it" in str(error.value)


def test_another_number_of_processes_is_refused(unfinished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert Program(unfinished, processes=2, steps=STEPS).run() == [1, 1]
    said = capfd.readouterr().err
    assert said.count("ConfigurationError: the unfinished run in") == 2  # on every process; none waits for another
    assert "has 1 processes, not 2; start as many" in said


def test_a_full_disk_costs_a_warning_and_no_earlier_point(
    uninterrupted: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file size limit makes the file system refuse as a full disk does."""

    def install(trainer: SupervisedTrainer, _: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)

        def limit(size: int) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

        trainer.add_event_handler(Events.ITERATION_STARTED(once=7), limit, 8000)  # the captured messages fit
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=7), os.kill, os.getpid(), signal.SIGTERM)

    assert Program(tmp_path, on_start=install).run() == [143]
    assert names(tmp_path / "resume") == ["resume-000000004.pt", "resume-000000005.pt"]
    said = capfd.readouterr().err
    assert "resume-000000007.pt could not be written" in said
    assert "stopped by SIGTERM without a new resume point; the same command goes on from an older one" in said
    program = Program(tmp_path)
    assert program.run() == [0]
    assert_equal(program.result(), uninterrupted)


def test_training_goes_on_where_a_point_cannot_be_written(
    uninterrupted: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "resume").write_text("a file where the folder should be")
    Program(tmp_path)()
    assert "could not be written" in caplog.text
    assert_equal(Program(tmp_path).result(), uninterrupted)


def test_a_state_that_could_not_come_back_is_said_at_the_first_point(tmp_path: Path) -> None:
    trainer, _, _ = Program(tmp_path).parts(0)

    class Unsafe:
        def state_dict(self) -> dict[str, Any]:
            return {"path": tmp_path}

        def load_state_dict(self, _: dict[str, Any]) -> None: ...

    with pytest.raises(TypeError, match="plain values"):
        ResumePoint(str(tmp_path / "resume"), {"unsafe": Unsafe()}, {}, 1).run(trainer)


keys = st.sampled_from("abc")
trees = st.recursive(st.integers(0, 1), lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=6)


@given(trees, trees)
def test_the_first_difference_is_none_only_between_equals(now: Any, then: Any) -> None:
    difference = first_difference(now, then)
    assert (difference is None) == (now == then)
    for key in (difference or "").split("#"):
        if key:
            now, then = (tree.get(key) if isinstance(tree, dict) else None for tree in (now, then))
    assert difference is None or now != then


def test_the_first_difference_is_named_by_its_path() -> None:
    assert first_difference({"a": 1, "b": {"c": [1, 2]}}, {"a": 1, "b": {"c": [1, 3]}}) == "b#c"
    assert first_difference({"a": 1}, {"a": 1, "b": None}) == "b"
    assert first_difference({"a": 1, "b": None}, {"a": 1}) == "b"


def test_an_interval_of_no_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="interval of resume points is 0"):
        ResumePoint(str(tmp_path), {}, {}, 0)
