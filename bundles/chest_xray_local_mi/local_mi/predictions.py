"""Predictions as a table that says whose they are."""

import csv
from collections.abc import Sequence
from pathlib import Path

from ignite.engine import Engine, Events

from local_mi.files import write_atomically


class PredictionTable:
    """Writes a CSV with `study`, `image` (file name) and a probability a label, a row an image, in the order read.

    MONAI's ClassificationSaver writes no header, so that columns could only be told by position.

    Args:
        path: of the CSV.
        label_names: the columns, in the order of the network's outputs.
    """

    def __init__(self, path: str, label_names: Sequence[str]) -> None:
        self.path = path
        self.label_names = list(label_names)
        self._rows: list[list[str]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._rows.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def __call__(self, engine: Engine) -> None:
        """Take a batch of probabilities."""
        probabilities = engine.state.output["pred"].detach().float().cpu().tolist()
        batch = engine.state.batch
        for study, file, row in zip(batch["study"], batch["file"], probabilities, strict=True):
            self._rows.append([study, Path(file).name, *(f"{value:.6f}" for value in row)])

    def _write(self) -> None:
        def write(temporary: str) -> None:
            with Path(temporary).open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["study", "image", *self.label_names])
                writer.writerows(self._rows)

        write_atomically(self.path, write)
