"""Predictions as a table that says whose they are."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from ignite.engine import Engine, Events

from local_mi.files import write_csv


class PredictionTable:
    """Writes a CSV with `study`, `image` (file name) and a probability a label, a row an image, in the order read.

    MONAI's ClassificationSaver writes no header, so that columns could only be told by position. Probabilities are
    written so that they read back as they were: rounded ones would tie, and ties change a ranking.

    Args:
        path: of the CSV.
        label_names: the columns, in the order of the network's outputs.
    """

    def __init__(self, path: str, label_names: Sequence[str]) -> None:
        self.path = path
        self.label_names = list(label_names)
        self._rows: list[tuple[str, str, list[float]]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._rows.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def __call__(self, engine: Engine) -> None:
        """Take a batch of probabilities."""
        probabilities = engine.state.output["pred"].detach().cpu().tolist()
        batch = engine.state.batch
        for study, file, row in zip(batch["study"], batch["file"], probabilities, strict=True):
            self._rows.append((study, file, row))

    def _write(self) -> None:
        write_predictions(self.path, self.label_names, self._rows)


def write_predictions(path: str, label_names: Sequence[str], rows: Iterable[tuple[str, str, Sequence[float]]]) -> None:
    """Write a table of predictions.

    Args:
        path: of the CSV.
        label_names: L names.
        rows: study, image (path or file name) and L probabilities each.
    """
    cells = ([study, Path(image).name, *map(repr, row)] for study, image, row in rows)
    write_csv(path, ["study", "image", *label_names], cells)
