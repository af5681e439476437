"""Metrics of a classifier for MONAI's and Ignite's engines: an area under the ROC curve that survives rare labels."""

import math
from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import numpy.typing as npt
from ignite.engine import Engine
from ignite.metrics import EpochMetric
from sklearn.metrics import roc_auc_score
from torch import Tensor

from local_mi.bounds import at_least_float32
from local_mi.files import write_json


def label_auroc(scores: Tensor, labels: Tensor) -> npt.NDArray[np.float64]:
    """Area under the ROC curve of each label over its known values (0 or 1); NaN where one class is absent.

    A label with a score that is not finite is undefined too: a network that diverged ranks nothing.

    Args:
        scores: (M, L), any monotone score.
        labels: (M, L), 1, 0, -1 or NaN.

    Returns:
        (L,).
    """
    values = np.full(labels.shape[1], np.nan)
    for k in range(labels.shape[1]):
        label = labels[:, k].cpu().numpy()
        known = (label == 0) | (label == 1)
        score = at_least_float32(scores[:, k]).cpu().numpy()[known]
        if len(np.unique(label[known])) == 2 and np.isfinite(score).all():
            values[k] = roc_auc_score(label[known], score)
    return values


def mean_auroc(scores: Tensor, labels: Tensor) -> float:
    """Mean of `label_auroc` over the labels for which it is defined; NaN where none is."""
    # Ignite squeezes the column of a single label away.
    values = label_auroc(scores.reshape(len(scores), -1), labels.reshape(len(labels), -1))
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


class MeanAUROC(EpochMetric):
    """`mean_auroc` of an epoch, a Python float.

    MONAI's macro average is NaN as soon as one rare label has a single value in the split.
    """

    def __init__(self) -> None:
        super().__init__(mean_auroc, output_transform=_predictions_and_labels, check_compute_fn=False)


class LabelAUROC(EpochMetric):
    """`label_auroc` of one label, a Python float.

    Args:
        label: its column.
    """

    def __init__(self, label: int) -> None:
        super().__init__(
            lambda scores, labels: float(label_auroc(scores[:, None], labels[:, None])[0]),
            output_transform=lambda output: tuple(t[:, label] for t in _predictions_and_labels(output)),
            check_compute_fn=False,
        )


def label_metrics(label_names: Sequence[str]) -> dict[str, LabelAUROC]:
    """A `LabelAUROC` for each label, by the name `auroc/<label>`."""
    return {f"auroc/{name}": LabelAUROC(k) for k, name in enumerate(label_names)}


def write_metrics(engine: Engine, path: str) -> None:
    """Write an engine's metrics as strict JSON, undefined values as null."""
    if idist.get_rank() == 0:
        write_json(path, {key: _strict(value) for key, value in sorted(engine.state.metrics.items())})


def _strict(value: Any) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


def _predictions_and_labels(output: Any) -> tuple[Tensor, Tensor]:
    return output["pred"], output["label"]
