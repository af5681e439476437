"""What training needs beyond MONAI's handlers: the best weights kept across runs, and a stop where the loss is lost."""

import hashlib
import json
import logging
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine, Events
from local_mi.checkpoints import read_record, record_path
from local_mi.errors import ConfigurationError
from local_mi.handlers import KeepBest, SetEpoch, StopOnNonFiniteLoss
from monai.engines import SupervisedTrainer
from torch import nn

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


def test_a_sampler_is_told_every_epoch() -> None:
    class Sampler:
        epochs: list[int] = []  # noqa: RUF012

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    trainer = Engine(lambda *_: None)
    SetEpoch(Sampler()).attach(trainer)
    trainer.run([0], max_epochs=3)
    assert Sampler.epochs == [1, 2, 3]


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
    with pytest.raises(FloatingPointError, match=r"step 2 \(epoch 1\); lower `learning_rate`"):
        trainer.run()
    assert network.weight.item() == weights_before_bad_step[-1]
    assert len(set(weights_before_bad_step)) == 2  # the step before was taken
