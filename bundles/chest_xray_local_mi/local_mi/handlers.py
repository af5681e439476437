"""Ignite handlers that MONAI has not: the best checkpoint kept across runs, figures of training, stops and clipping."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Timer
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from local_mi.checkpoints import keep, read_record, refuse_other_architecture
from local_mi.errors import ConfigurationError
from local_mi.sampling import EpochBatches

logger = logging.getLogger(__name__)

ITEMS_SHOWN = 64


class KeepBest:
    """Writes a network's weights whenever a validation metric beats the best so far, of this run or an earlier one.

    MONAI's CheckpointSaver forgets the best value between runs, so that a worse run replaces a better `model.pt`. Here
    the best value lies beside the weights as plain JSON. Attach to the trainer, after its ValidationHandler.

    Args:
        network: the plain network (not the data-parallel wrapper).
        evaluator: the engine whose metrics are read.
        metric: name of the metric; larger is better.
        path: the checkpoint; its record is the JSON file of the same name.
        record: goes into the record beside metric, value and epoch: what the weights are of, and what made them.
        write_beside: writes what goes with the weights before they are in place; a run that ends between the two has
            no record of them yet and does both again.
    """

    def __init__(
        self,
        network: nn.Module,
        evaluator: Engine,
        metric: str,
        path: str,
        record: dict[str, Any],
        write_beside: Callable[[], None] | None = None,
    ) -> None:
        self.network = network
        self.evaluator = evaluator
        self.metric = metric
        self.path = path
        self.record = record
        self.write_beside = write_beside
        self._was_computed = False
        self._was_defined = False
        self._best: dict[str, Any] | None = None  # the record beside the weights, which no other run writes meanwhile

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer.

        Raises:
            ConfigurationError: the weights that are there are of another architecture, and would be compared in vain.
        """
        if idist.get_rank() == 0 and Path(self.path).is_file():
            refuse_other_architecture(self.network, self.path)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._check_that_one_was_kept)

    def state_dict(self) -> dict[str, bool]:
        """What the run has seen of its metric, for a resume point; the best value lies beside the weights."""
        return {"was_computed": self._was_computed, "was_defined": self._was_defined}

    def load_state_dict(self, state: dict[str, bool]) -> None:
        """Go on with what an unfinished run has seen."""
        self._was_computed, self._was_defined = state["was_computed"], state["was_defined"]

    def __call__(self, engine: Engine) -> None:
        """Compare and keep."""
        if idist.get_rank() > 0 or self.metric not in self.evaluator.state.metrics:
            return
        value = float(self.evaluator.state.metrics[self.metric])
        self._was_computed = True
        self._was_defined |= math.isfinite(value)
        if self._best is None or not Path(self.path).is_file():
            self._best = read_record(self.path)  # once a run, since it hashes the weights to tell whose they are
        best = self._best
        if not math.isfinite(value):
            logger.warning("%s is undefined in epoch %d; no weights are kept for it", self.metric, engine.state.epoch)
        elif best is None or value > best["value"]:
            record = {"metric": self.metric, "value": value, "epoch": engine.state.epoch, **self.record}
            if self.write_beside is not None:
                self.write_beside()
            keep(self.network, self.path, record)
            self._best = record
        elif engine.state.epoch == engine.state.max_epochs:
            logger.info("%s keeps the weights of %s %.4f", Path(self.path).name, self.metric, best["value"])

    def _check_that_one_was_kept(self, engine: Engine) -> None:
        if idist.get_rank() == 0 and not self._was_computed:
            raise ConfigurationError(
                f"no weights were kept, since {self.metric} was not computed in {engine.state.max_epochs} epochs; set "
                "`val_interval` to no more than `max_epochs`"
            )
        if idist.get_rank() == 0 and not self._was_defined:
            raise ConfigurationError(
                f"the validation metric {self.metric} was never defined, so no weights of this run were kept; for a "
                "classifier the validation split needs patients with and without at least one of the labels"
            )


class BatchPosition:
    """Tells the batch sampler, at the start of every epoch, where the trainer stands; in the middle after a resume."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, whose data loader has `batches` as its batch sampler."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Say the position; Ignite makes the iterator after this event."""
        epoch = engine.state.epoch
        self.batches.start_at(epoch, engine.state.iteration - (epoch - 1) * engine.state.epoch_length)


class StopOnNonFiniteLoss:
    """Raises FloatingPointError as soon as a loss is NaN or infinite, before weights that follow from it are kept."""

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Check the loss of the step."""
        if not torch.isfinite(engine.state.output["loss"]).all():
            raise non_finite("loss", engine)


class GradientClipping:
    """Scales the gradients of a step so that their norm over all parameters is at most `max_norm`.

    Where gradients are accumulated, those of the whole group are clipped once. The norm before clipping is left in
    `engine.state.gradient_norm`. A norm that is not finite stops the run, before the weights change; with a gradient
    scaler it is the scaler that leaves the step out.

    Args:
        max_norm: Euclidean; None for no clipping.
    """

    def __init__(self, max_norm: float | None) -> None:
        if max_norm is not None and not max_norm > 0:
            raise ConfigurationError(f"the gradients' largest norm is {max_norm}; set a number above 0, or null")
        self.max_norm = max_norm

    def attach(self, engine: SupervisedTrainer) -> None:
        """Attach to a trainer."""
        if self.max_norm is not None:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: SupervisedTrainer) -> None:
        """Clip where the optimizer is about to step."""
        if self.max_norm is None or not ends_accumulation(engine):
            return
        if engine.scaler is not None:
            engine.scaler.unscale_(engine.optimizer)
        norm = nn.utils.clip_grad_norm_(optimized_parameters(engine), self.max_norm).detach()
        engine.state.gradient_norm = norm
        if engine.scaler is None and not torch.isfinite(norm):
            raise non_finite("norm of the gradients", engine)


class TrainingFigures:
    """Averages the objective's figures over an epoch into the trainer's metrics, as `train/<name>`, and learning rates.

    A figure that is not finite in a step (the gradient norm of a step that a scaler left out) is left out. Nothing is
    read from the device before the epoch ends. Attach before the handlers that log metrics. Part of a resume point.

    Args:
        objective: has `figures`, a dictionary of scalar tensors of the last batch, the same on every process.
    """

    def __init__(self, objective: nn.Module) -> None:
        self.objective = objective
        self._sums: dict[str, Tensor] = {}  # of finite values, and how many they are: (2,)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def state_dict(self) -> dict[str, Any]:
        """Sums of the epoch so far."""
        return dict(self._sums)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the sums of an epoch."""
        self._sums = dict(state)

    def _add(self, engine: SupervisedTrainer) -> None:
        figures: dict[str, Tensor] = dict(cast(Any, self.objective.figures))
        norm = getattr(engine.state, "gradient_norm", None)
        if norm is not None and ends_accumulation(engine):
            figures["gradient_norm"] = norm
        for name, figure in figures.items():
            value = figure.detach().as_subclass(Tensor).float()  # a MetaTensor cannot be saved as plain
            finite = torch.isfinite(value)
            addend = torch.stack([torch.where(finite, value, 0.0), finite.float()])
            before = self._sums.get(name)
            self._sums[name] = addend if before is None else before.to(addend.device) + addend

    def _report(self, engine: SupervisedTrainer) -> None:
        for name, sums in self._sums.items():
            total, count = sums.tolist()
            engine.state.metrics[f"train/{name}"] = total / count if count else math.nan
            if name == "anchors_without_negative" and total > 0 and idist.get_rank() == 0:
                logger.warning(
                    "%d anchors of epoch %d had no valid negative and taught nothing; raise `batch_size`, or look for "
                    "studies or sentences that repeat",
                    total,
                    engine.state.epoch,
                )
        for k, group in enumerate(engine.optimizer.param_groups):
            engine.state.metrics[f"learning_rate_{k}"] = float(group["lr"])
        self._sums = {}


class Throughput:
    """Puts `pairs_per_second`, of all processes, and `data_wait_share` (0 to 1) of an epoch into the metrics.

    The time is that of the epoch's steps with their handlers, without validation; where the epoch was resumed, that of
    the steps since. Attach before the handlers that log metrics.
    """

    def __init__(self) -> None:
        self._waiting = Timer()
        self._images = 0

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        self._waiting.attach(engine, resume=Events.GET_BATCH_STARTED, pause=Events.GET_BATCH_COMPLETED)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _start(self, _: Engine) -> None:
        self._waiting.reset()
        self._waiting.pause()
        self._images = 0

    def _add(self, engine: Engine) -> None:
        self._images += len(engine.state.batch["image"])

    def _report(self, engine: Engine) -> None:
        seconds = engine.state.times[Events.EPOCH_COMPLETED.name]  # Ignite's, before the handlers of this event
        engine.state.metrics["pairs_per_second"] = idist.all_reduce(self._images) / seconds
        engine.state.metrics["data_wait_share"] = self._waiting.value() / seconds


def step_of_epoch(engine: Engine) -> int:
    """Number of the current step in its epoch, from 1."""
    return int((engine.state.iteration - 1) % engine.state.epoch_length) + 1


def ends_accumulation(engine: SupervisedTrainer) -> bool:
    """Whether MONAI's trainer takes an optimizer step in this iteration: the last of its group, or of the epoch."""
    step = step_of_epoch(engine)
    return step % int(engine.accumulation_steps) == 0 or step == int(engine.state.epoch_length)


def optimized_parameters(engine: SupervisedTrainer) -> list[Tensor]:
    """All parameters of a trainer's optimizer, in its order."""
    return [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]


def non_finite(what: str, engine: Engine) -> FloatingPointError:
    """The error of a step whose numbers are lost; it names the step, the epoch and the items of the batch."""
    batch = engine.state.batch
    items = batch["item"].tolist() if isinstance(batch, dict) and "item" in batch else []
    more = f" and {len(items) - ITEMS_SHOWN} more" if len(items) > ITEMS_SHOWN else ""
    of_batch = f", items {', '.join(map(str, items[:ITEMS_SHOWN]))}{more} of the training split" if items else ""
    return FloatingPointError(
        f"the {what} is not finite in step {engine.state.iteration} (epoch {engine.state.epoch}{of_batch}); lower "
        "`learning_rate`, or look for images of constant value"
    )
