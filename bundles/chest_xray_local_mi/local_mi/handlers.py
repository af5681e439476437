"""Ignite handlers that MONAI has not: the best checkpoint kept across runs, and a sampler told of its epoch."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn

from local_mi.checkpoints import keep, read_record, refuse_other_architecture
from local_mi.errors import ConfigurationError

logger = logging.getLogger(__name__)


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
        on_kept: called after weights were kept.
    """

    def __init__(
        self,
        network: nn.Module,
        evaluator: Engine,
        metric: str,
        path: str,
        record: dict[str, Any],
        on_kept: Callable[[], None] | None = None,
    ) -> None:
        self.network = network
        self.evaluator = evaluator
        self.metric = metric
        self.path = path
        self.record = record
        self.on_kept = on_kept
        self._was_defined = False

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer.

        Raises:
            ConfigurationError: the weights that are there are of another architecture, and would be compared in vain.
        """
        if idist.get_rank() == 0 and Path(self.path).is_file():
            refuse_other_architecture(self.network, self.path)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._check_that_one_was_kept)

    def __call__(self, engine: Engine) -> None:
        """Compare and keep."""
        if idist.get_rank() > 0 or self.metric not in self.evaluator.state.metrics:
            return
        value = float(self.evaluator.state.metrics[self.metric])
        best = read_record(self.path)
        self._was_defined |= math.isfinite(value)
        if not math.isfinite(value):
            logger.warning("%s is undefined in epoch %d; no weights are kept for it", self.metric, engine.state.epoch)
        elif best is None or value > best["value"]:
            record = {"metric": self.metric, "value": value, "epoch": engine.state.epoch, **self.record}
            keep(self.network, self.path, record)
            if self.on_kept is not None:
                self.on_kept()
        elif engine.state.epoch == engine.state.max_epochs:
            logger.info("%s keeps the weights of %s %.4f", Path(self.path).name, self.metric, best["value"])

    def _check_that_one_was_kept(self, engine: Engine) -> None:
        if idist.get_rank() == 0 and self.metric not in self.evaluator.state.metrics:
            raise ConfigurationError(
                f"no weights were kept, since {self.metric} was not computed in {engine.state.max_epochs} epochs; set "
                "`val_interval` to no more than `max_epochs`"
            )
        if idist.get_rank() == 0 and not self._was_defined:
            raise ConfigurationError(
                f"the validation metric {self.metric} was never defined, so no weights of this run were kept; for a "
                "classifier the validation split needs patients with and without at least one of the labels"
            )


class SetEpoch:
    """Tells a distributed sampler the epoch, without which every epoch has the same order."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: self.sampler.set_epoch(engine.state.epoch))


class StopOnNonFiniteLoss:
    """Raises FloatingPointError as soon as a loss is NaN or infinite, before weights that follow from it are kept."""

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Check the loss of the step."""
        if not torch.isfinite(engine.state.output["loss"]).all():
            raise FloatingPointError(
                f"the loss is not finite in step {engine.state.iteration} (epoch {engine.state.epoch}); "
                "lower `learning_rate`, or look for images of constant value"
            )
