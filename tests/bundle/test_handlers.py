"""What training needs beyond MONAI's handlers: the best weights kept across runs, stops, clipping, figures."""

import hashlib
import json
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ignite.engine import Engine, Events
from local_mi.checkpoints import read_record, record_path
from local_mi.errors import ConfigurationError
from local_mi.handlers import (
    BatchPosition,
    GradientClipping,
    KeepBest,
    StopOnNonFiniteLoss,
    Throughput,
    TrainingFigures,
    ends_accumulation,
)
from local_mi.sampling import EpochBatches
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from torch import nn
from torch.utils.data import Sampler

NAN = math.nan


def run_with(values: Sequence[Any], path: Path, marks: Sequence[float] | None = None, metric: str = "auc") -> None:
    """A run whose validation gives `values` epoch by epoch; the network's weight marks the epoch it is of."""
    network, evaluator = nn.Linear(1, 1), Engine(lambda *_: None)
    trainer = Engine(lambda *_: None)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        evaluator.state.metrics["auc"] = values[engine.state.epoch - 1]
        nn.init.constant_(network.weight, (marks or values)[engine.state.epoch - 1])

    KeepBest(network, evaluator, metric, str(path), {"labels": ["A"]}).attach(trainer)
    trainer.run([0], max_epochs=len(values))


def kept_mark(path: Path) -> float:
    return float(torch.load(path, weights_only=True)["weight"])


def test_the_best_epoch_is_kept_with_its_record(tmp_path: Path) -> None:
    path = tmp_path / "models" / "model.pt"
    run_with([0.5, 0.875, 0.75], path)
    assert kept_mark(path) == 0.875
    record = json.loads((tmp_path / "models" / "model.json").read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record == {"metric": "auc", "value": 0.875, "epoch": 2, "labels": ["A"], "sha256": digest}
    assert read_record(str(path)) == record
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.json", "model.pt"]


def test_a_worse_run_never_replaces_a_better_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "model.pt"
    run_with([0.875], path)
    before = path.read_bytes(), record_path(str(path)).read_bytes()
    with caplog.at_level(logging.INFO):
        run_with([0.25, 0.875], path)  # an equal one neither: the first stays
    assert (path.read_bytes(), record_path(str(path)).read_bytes()) == before
    assert "model.pt keeps the weights of auc 0.8750" in caplog.text
    run_with([0.9375], path)
    assert kept_mark(path) == 0.9375


values = st.sampled_from([0.0, 0.25, 0.5, 0.75, -1.0, NAN, math.inf, -math.inf])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(values, min_size=1, max_size=3), min_size=1, max_size=4))
def test_over_any_runs_the_first_of_the_largest_finite_values_is_kept(runs: list[list[float]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        mark, best, best_mark = 0, -math.inf, None
        for run in runs:
            marks = [float(mark + k) for k in range(len(run))]
            mark += len(run)
            for value, its_mark in zip(run, marks, strict=True):
                if math.isfinite(value) and value > best:
                    best, best_mark = value, its_mark
            if any(math.isfinite(value) for value in run):
                run_with(run, path, marks)
            else:
                with pytest.raises(ConfigurationError, match="auc was never defined"):
                    run_with(run, path, marks)
            if best_mark is None:
                assert list(Path(folder).iterdir()) == []
                continue
            assert kept_mark(path) == best_mark
            record = read_record(str(path))
            assert record is not None
            assert record["value"] == best


@pytest.mark.parametrize("value", [np.float64(0.5), np.float32(0.5), torch.tensor(0.5), 0.5])
def test_any_number_is_recorded_as_a_plain_json_float(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "model.pt"
    run_with([value], path, marks=[1.0])
    record = json.loads(record_path(str(path)).read_text(), parse_constant=pytest.fail)
    assert record["value"] == 0.5
    assert type(record["value"]) is float
    assert kept_mark(path) == 1.0


def test_weights_that_lost_their_record_are_not_replaced(tmp_path: Path) -> None:
    """Nobody knows how good they are: a person copied them there, or a run was killed between the two files."""
    path = tmp_path / "model.pt"
    run_with([0.875], path)
    record_path(str(path)).unlink()
    with pytest.raises(ConfigurationError, match=r"model\.(pt|json)"):
        run_with([0.25], path)
    assert kept_mark(path) == 0.875


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"value": "high"}'])
def test_a_damaged_record_is_a_clear_sentence_and_costs_no_weights(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.pt"
    run_with([0.875], path)
    record_path(str(path)).write_text(damage, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"model\.json"):
        run_with([0.25], path)
    assert kept_mark(path) == 0.875


def test_a_mistyped_metric_is_said_also_where_an_earlier_run_kept_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(ConfigurationError, match="auk"):
        run_with([0.5], path, metric="auk")
    run_with([0.5], path)
    with pytest.raises(ConfigurationError, match="auk"):
        run_with([0.75], path, metric="auk")


def test_weights_that_are_gone_are_written_anew_whatever_the_record_says(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    run_with([0.875], path)
    path.unlink()
    assert read_record(str(path)) is None
    run_with([0.25], path)
    assert kept_mark(path) == 0.25


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_a_lost_loss_stops_training_before_the_weights_change(bad: float) -> None:
    network = nn.Linear(1, 1)
    losses = iter([0.5, bad])
    weights_before_bad_step: list[float] = []

    def loss(prediction: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        weights_before_bad_step.append(network.weight.item())
        return prediction.mean() * next(losses)

    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}] * 3,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=loss,
        train_handlers=[StopOnNonFiniteLoss()],
        decollate=False,
    )
    with pytest.raises(
        FloatingPointError, match=r"the loss is not finite in step 2 \(epoch 1\); lower `learning_rate`"
    ):
        trainer.run()
    assert network.weight.item() == weights_before_bad_step[-1]
    assert len(set(weights_before_bad_step)) == 2  # the step before was taken


class Scaled(nn.Module):
    """Loss whose gradient is the batch's label, times what the prediction's gradient is; with figures."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[str, torch.Tensor] = {}

    def forward(self, prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        loss = (prediction * label).sum()
        self.figures = {"mean_label": label.mean(), "anchors_without_negative": (label < 0).sum()}
        return loss


def batch(*labels: float, first_item: int = 0) -> dict[str, torch.Tensor]:
    """Images of ones, and labels by which their gradient is multiplied."""
    column = torch.tensor(labels).unsqueeze(1)
    return {"image": torch.ones(len(labels), 1), "label": column, "item": first_item + torch.arange(len(labels))}


def trainer_of(
    batches: Sequence[dict[str, torch.Tensor]], *handlers: Any, accumulation: int = 1, epochs: int = 1, **options: Any
) -> SupervisedTrainer:
    """A weight of 0, whose gradient is the sum of a batch's labels, under plain gradient descent."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    return SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=list(batches),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        loss_function=Scaled(),
        train_handlers=list(handlers),
        accumulation_steps=accumulation,
        decollate=False,
        **options,
    )


def test_a_lost_loss_names_the_items_of_its_batch_and_no_study() -> None:
    batches = [batch(1.0, 1.0), batch(1.0, NAN, 1.0, first_item=17) | {"study": torch.tensor([987, 654, 321])}]
    with pytest.raises(
        FloatingPointError, match=r"step 2 \(epoch 1, items 17, 18, 19 of the training split\)"
    ) as error:
        trainer_of(batches, StopOnNonFiniteLoss()).run()
    assert not any(study in str(error.value) for study in ("987", "654", "321"))


def test_of_a_large_batch_the_first_items_are_named() -> None:
    with pytest.raises(FloatingPointError, match=r"items 0, 1, (\d+, )+63 and 2 more of the training split"):
        trainer_of([batch(*[NAN] * 66)], StopOnNonFiniteLoss()).run()


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_the_end_of_a_group_is_where_the_trainer_steps(steps: int, accumulation: int, epochs: int) -> None:
    weights, ends = [], []
    trainer = trainer_of([batch(1.0)] * steps, accumulation=accumulation, epochs=epochs)

    @trainer.on(Events.ITERATION_COMPLETED)
    def record(engine: SupervisedTrainer) -> None:
        weights.append(engine.network.weight.item())
        ends.append(ends_accumulation(engine))

    trainer.run()
    stepped = [now != before for before, now in zip([0.0, *weights], weights, strict=False)]
    assert ends == stepped


@given(st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=6), st.sampled_from([0.5, 2.0, 100.0]))
@example([4.0, -3.0], 0.5)
@settings(max_examples=25, deadline=None)
def test_the_gradient_of_a_whole_group_is_clipped_once(labels: list[float], max_norm: float) -> None:
    trainer = trainer_of([batch(label) for label in labels], GradientClipping(max_norm), accumulation=2)
    trainer.run()
    weight = 0.0
    for start in range(0, len(labels), 2):
        gradient = sum(labels[start : start + 2]) / 2
        weight -= max(-max_norm, min(max_norm, gradient))
    assert trainer.network.weight.item() == pytest.approx(weight, abs=1e-4)


def test_clipping_is_by_the_norm_of_all_parameters() -> None:
    trainer = trainer_of([batch(1.0)], GradientClipping(1.0))
    other = nn.Parameter(torch.zeros(3))
    other.grad = torch.tensor([2.0, 2.0, 0.0])
    trainer.optimizer.add_param_group({"params": [other]})
    trainer.optimizer.zero_grad = lambda set_to_none: None
    trainer.run()
    assert trainer.state.gradient_norm.item() == pytest.approx(3.0)
    assert trainer.network.weight.item() == pytest.approx(-1 / 3)
    assert other.tolist() == pytest.approx([-2 / 3, -2 / 3, 0.0])


def test_no_largest_norm_leaves_gradients_alone() -> None:
    trainer = trainer_of([batch(50.0)], GradientClipping(None))
    trainer.run()
    assert trainer.network.weight.item() == -50.0
    for bad in (0.0, -1.0, NAN):
        with pytest.raises(ConfigurationError, match="largest norm is"):
            GradientClipping(bad)


class Exploding(torch.autograd.Function):
    """One forward, not finite backward, as an overflow is."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gradient: float) -> torch.Tensor:
        ctx.gradient = gradient
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * ctx.gradient, None


def exploding_at(step: int, gradient: float, **options: Any) -> SupervisedTrainer:
    trainer = trainer_of([batch(1.0), batch(1.0, first_item=5), batch(1.0)], GradientClipping(10.0), **options)
    loss = trainer.loss_function

    def explode(prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return loss(Exploding.apply(prediction, gradient if trainer.state.iteration == step else 1.0), label)

    trainer.loss_function = explode
    return trainer


@pytest.mark.parametrize("bad", [NAN, math.inf])
def test_a_gradient_that_is_not_finite_stops_training_before_the_weights_change(bad: float) -> None:
    trainer = exploding_at(2, bad)
    with pytest.raises(
        FloatingPointError, match=r"norm of the gradients is not finite in step 2 \(epoch 1, items 5 of"
    ):
        trainer.run()
    assert trainer.network.weight.item() == -1.0


@pytest.mark.filterwarnings("ignore:.*[Cc][Uu][Dd][Aa].*:UserWarning")
def test_under_a_gradient_scaler_true_gradients_are_clipped_and_an_overflow_is_left_out() -> None:
    """PyTorch's scaler for processors stands in for the one of GPUs, whose state machine it shares."""
    trainer = exploding_at(2, math.inf, amp=True)
    figures = TrainingFigures(Scaled())
    figures.attach(trainer)

    @trainer.on(Events.STARTED)
    def use_scaler(engine: SupervisedTrainer) -> None:
        engine.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    trainer.run()
    assert trainer.network.weight.item() == -2.0  # steps 1 and 3; the gradient of 1024 would have been clipped to 10
    assert trainer.state.metrics["train/gradient_norm"] == 1.0


@given(st.lists(st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=4), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_figures_are_means_over_the_steps_of_each_epoch(labels: list[list[float]]) -> None:
    seen: list[dict[str, float]] = []
    trainer = trainer_of([batch(*row) for row in labels], GradientClipping(1e6), epochs=2, accumulation=2)
    TrainingFigures(trainer.loss_function).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(dict(trainer.state.metrics)))
    trainer.run()
    norms = []
    for start in range(0, len(labels), 2):
        norms.append(abs(sum(sum(row) for row in labels[start : start + 2]) / 2))
    expected = {
        "train/mean_label": np.mean([np.mean(row) for row in labels]),
        "train/anchors_without_negative": np.mean([sum(label < 0 for label in row) for row in labels]),
        "train/gradient_norm": np.mean(norms),
        "learning_rate_0": 1.0,
    }
    assert seen == [pytest.approx(expected, abs=1e-4)] * 2
    assert all(type(value) is float for value in seen[0].values())


def test_figures_of_an_epoch_go_on_from_their_state() -> None:
    rows = [[1.0], [2.0, -4.0], [8.0]]
    objective = Scaled()
    first = TrainingFigures(objective)
    trainer = trainer_of([batch(*row) for row in rows[:2]])
    trainer.add_event_handler(Events.ITERATION_COMPLETED, first._add)
    trainer.loss_function = objective
    trainer.run()
    second = TrainingFigures(objective)
    second.load_state_dict(first.state_dict())
    rest = trainer_of([batch(*rows[2])])
    rest.loss_function = objective
    second.attach(rest)
    rest.run()
    assert rest.state.metrics["train/mean_label"] == pytest.approx((1 - 1 + 8) / 3)
    assert second.state_dict() == {}  # the next epoch begins anew


def test_anchors_without_negative_are_said_once_an_epoch(caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of([batch(1.0, -1.0), batch(-1.0, -2.0), batch(1.0)], epochs=2)
    TrainingFigures(trainer.loss_function).attach(trainer)
    trainer.run()
    said = [record.getMessage() for record in caplog.records if record.name == "local_mi.handlers"]
    assert [message[:66] for message in said] == [
        f"3 anchors of epoch {epoch} had no valid negative and taught nothing; rai" for epoch in (1, 2)
    ]
    assert "raise `batch_size`" in said[0]
    caplog.clear()
    quiet = trainer_of([batch(1.0)])
    TrainingFigures(quiet.loss_function).attach(quiet)
    quiet.run()
    assert caplog.records == []


class Clock:
    """Seconds that pass only where something is said to take them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_throughput_counts_images_over_an_epoch_without_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("ignite.handlers.timing.perf_counter", clock)
    monkeypatch.setattr("ignite.engine.engine.time.time", clock)

    class Slow:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Any:
            for size in (4, 4, 2):
                clock.now += 3
                yield batch(*[0.0] * size)

    seen = []
    trainer = trainer_of([])
    trainer.data_loader = Slow()
    trainer.state.epoch_length, trainer.state.max_epochs = 3, 2

    @trainer.on(Events.ITERATION_STARTED)
    def compute() -> None:
        clock.now += 1

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate() -> None:
        clock.now += 1000

    Throughput().attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(dict(trainer.state.metrics)))
    trainer.run()
    assert seen == [pytest.approx({"pairs_per_second": 10 / 12, "data_wait_share": 9 / 12})] * 2


def test_the_batch_sampler_is_told_where_the_trainer_stands() -> None:
    """Also in the middle of an epoch: steps 5 and 6 of 3 an epoch are the second and third of epoch 2."""
    batches = EpochBatches(9, 3, 0, 0, 1)
    loader = DataLoader([batch(float(k)) for k in range(9)], batch_sampler=Indices(batches), collate_fn=merge)
    trainer = trainer_of([], BatchPosition(batches))
    trainer.data_loader = loader
    trainer.load_state_dict({"iteration": 4, "epoch_length": 3, "max_epochs": 3})
    seen: list[list[int]] = []
    trainer.add_event_handler(
        Events.ITERATION_STARTED, lambda: seen.append(trainer.state.batch["label"].int().flatten().tolist())
    )
    trainer.run()
    expected = []
    for epoch, step in ((2, 1), (3, 0)):
        batches.start_at(epoch, step)
        expected += [[index for _, index in pairs] for pairs in batches]
    assert seen == expected


class Indices(Sampler[list[int]]):
    """The indices of an EpochBatches, for a plain list."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return ([index for _, index in pairs] for pairs in self.batches)


def merge(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {key: torch.cat([item[key] for item in items]) for key in items[0]}


def test_the_record_is_read_once_a_run_and_again_where_the_weights_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Telling whose weights they are hashes the file."""
    path = tmp_path / "model.pt"
    run_with([0.875], path)
    reads = []

    def read(checkpoint: str) -> Any:
        reads.append(checkpoint)
        return read_record(checkpoint)

    monkeypatch.setattr("local_mi.handlers.read_record", read)
    run_with([0.25, 0.5, 0.9375, 0.75], path)
    assert len(reads) == 1
    assert kept_mark(path) == 0.9375


def test_what_an_unfinished_run_has_seen_of_its_metric_comes_back(tmp_path: Path) -> None:
    network, evaluator = nn.Linear(1, 1), Engine(lambda *_: None)

    def keep_best() -> KeepBest:
        return KeepBest(network, evaluator, "auc", str(tmp_path / "model.pt"), {})

    before, trainer = keep_best(), Engine(lambda *_: None)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.state.metrics.update(auc=0.5))
    before.attach(trainer)
    trainer.run([0])
    evaluator.state.metrics.clear()  # those of the process that was killed
    after, rest = keep_best(), Engine(lambda *_: None)
    after.load_state_dict(before.state_dict())
    after.attach(rest)
    rest.run([0])
    untold, again = keep_best(), Engine(lambda *_: None)
    untold.attach(again)
    with pytest.raises(ConfigurationError, match="auc was not computed"):
        again.run([0])


def test_weights_count_as_kept_only_when_what_goes_with_them_is_written(tmp_path: Path) -> None:
    """Otherwise a full disk would leave weights whose encoder is never written, since no later epoch beats them."""
    network, evaluator, trainer = nn.Linear(1, 1), Engine(lambda *_: None), Engine(lambda *_: None)
    evaluator.state.metrics["auc"] = 0.5

    def full() -> None:
        raise OSError("disk full")

    path = tmp_path / "model.pt"
    KeepBest(network, evaluator, "auc", str(path), {}, write_beside=full).attach(trainer)
    with pytest.raises(OSError, match="disk full"):
        trainer.run([0], max_epochs=1)
    assert read_record(str(path)) is None
