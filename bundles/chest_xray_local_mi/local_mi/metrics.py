"""Metrics for MONAI's and Ignite's engines: area under the ROC curve that survives rare labels, and held-out pairs."""

import math
from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import EpochMetric, Metric
from sklearn.metrics import roc_auc_score
from torch import Tensor

from local_mi.bounds import at_least_float32
from local_mi.critics import CosineCritic
from local_mi.files import write_json
from local_mi.objectives import aggregate_regions

IMAGE_CHUNK = 64  # images whose region scores are held at once


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


class MeanAUROC(EpochMetric):
    """Mean of `label_auroc` over the labels for which it is defined, a Python float; NaN only where none is.

    MONAI's macro average is NaN as soon as one rare label has a single value in the split.
    """

    def __init__(self) -> None:
        super().__init__(_mean_auroc, output_transform=_predictions_and_labels, check_compute_fn=False)


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


class HeldOutPairs(Metric):
    """How well regions and sentences of held-out studies find one another.

    Attached under a name, that name is InfoNCE in nats with each sentence as anchor and all images of the split as
    candidates, nothing masked: the estimate that is reported, as against the objective that is trained. Beside it come
    retrieval of the report from the image and back, an image's score with a report being the mean over its sentences:
    `retrieval/image_to_report/r@k`, `.../median_rank` and the same for `report_to_image`, and `retrieval/studies`.
    One image a study takes part, the first, and the first `max_studies` studies, since scores of all with all grow
    with the square of their number, and recall and bound depend on it.

    Args:
        critic: scores projected regions with projected sentences.
        aggregation: as in training.
        max_studies: number of studies at most.
    """

    def __init__(self, critic: CosineCritic, aggregation: str, max_studies: int) -> None:
        self.critic = critic
        self.aggregation = aggregation
        self.max_studies = max_studies
        super().__init__(output_transform=_projections)

    def reset(self) -> None:
        """Forget what was seen."""
        self._regions: list[Tensor] = []
        self._sentences: list[Tensor] = []
        self._sentence_image: list[Tensor] = []
        self._study: list[Tensor] = []
        self._studies_seen: set[int] = set()

    def update(self, output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        """Take a batch: projected regions (B, R, D), sentences (N, D), `sentence_image` (N,) and `study` (B,)."""
        if len(self._studies_seen) >= self.max_studies:
            return
        regions, sentences, sentence_image, study = output
        self._sentence_image.append(sentence_image + sum(len(seen) for seen in self._study))
        self._regions.append(regions.detach())
        self._sentences.append(sentences.detach())
        self._study.append(study)
        self._studies_seen.update(study.tolist())

    def compute(self) -> dict[str, float]:
        """All figures, with `mi` for the bound.

        Raises:
            NotComputableError: no batch was seen.
        """
        if not self._study:
            raise NotComputableError("no held-out pair was seen")
        study = torch.cat(self._study)
        first = _first_of_each(study)[: self.max_studies]  # (M,) rows
        row_of = torch.full((len(study),), -1, device=study.device)
        row_of[first] = torch.arange(len(first), device=study.device)
        image_of = row_of[torch.cat(self._sentence_image)]
        sentences, image_of = torch.cat(self._sentences)[image_of >= 0], image_of[image_of >= 0]
        scores = self._scores(torch.cat(self._regions)[first], sentences)  # (M, N)
        figures = {"mi": _sentence_info_nce(scores, image_of), "retrieval/studies": float(len(first))}
        reports = _report_scores(scores, image_of)  # (M images, M reports)
        return figures | _retrieval("image_to_report", reports) | _retrieval("report_to_image", reports.T)

    def completed(self, engine: Engine, name: str) -> None:
        """Put each figure under its own name, the bound under the metric's."""
        figures = self.compute()
        engine.state.metrics[name] = figures.pop("mi")
        engine.state.metrics.update(figures)

    @torch.no_grad()
    def _scores(self, regions: Tensor, sentences: Tensor) -> Tensor:
        return torch.cat(
            [
                aggregate_regions(self.critic.score(chunk, sentences), self.aggregation).float()
                for chunk in regions.split(IMAGE_CHUNK)
            ]
        )


def write_metrics(engine: Engine, path: str) -> None:
    """Write an engine's metrics as strict JSON, undefined values as null."""
    if idist.get_rank() == 0:
        write_json(path, {key: _strict(value) for key, value in sorted(engine.state.metrics.items())})


def _strict(value: Any) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


def _projections(output: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    prediction, pairs = output["pred"], output["label"]
    return prediction["regions"], prediction["sentences"], pairs["sentence_image"], pairs["study"]


def _predictions_and_labels(output: Any) -> tuple[Tensor, Tensor]:
    return output["pred"], output["label"]


def _mean_auroc(scores: Tensor, labels: Tensor) -> float:
    # Ignite squeezes the column of a single label away.
    values = label_auroc(scores.reshape(len(scores), -1), labels.reshape(len(labels), -1))
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _first_of_each(study: Tensor) -> Tensor:
    seen: dict[int, int] = {}
    for row, number in enumerate(study.tolist()):
        seen.setdefault(number, row)
    return torch.tensor(list(seen.values()), device=study.device)


def _sentence_info_nce(scores: Tensor, image_of: Tensor) -> float:
    """Mean over sentences of `log softmax over images + log M`, from scores (M, N)."""
    log_share = scores.log_softmax(dim=0)[image_of, torch.arange(scores.shape[1], device=scores.device)]
    return float(log_share.mean()) + math.log(scores.shape[0])


def _report_scores(scores: Tensor, image_of: Tensor) -> Tensor:
    """(M, N) scores with sentences -> (M, M) with reports: the mean over each report's sentences."""
    images = scores.shape[0]
    total = torch.zeros(images, images, device=scores.device).index_add_(1, image_of, scores)
    return total / torch.bincount(image_of, minlength=images).clamp(min=1)


def _retrieval(direction: str, scores: Tensor) -> dict[str, float]:
    """Recall and median rank of the diagonal in each row of (M, M) scores; a tie counts half; NaN where a score is."""
    own = scores.diagonal()[:, None]
    rank = 1 + (scores > own).sum(dim=1) + ((scores == own).sum(dim=1) - 1) / 2
    rank = torch.where(scores.isnan().any(), torch.full_like(rank, math.nan), rank).double().cpu()
    figures = {"median_rank": float(rank.quantile(0.5))}
    figures |= {f"r@{k}": float((rank <= k).double().mean() + 0 * rank.sum()) for k in (1, 5, 10)}
    return {f"retrieval/{direction}/{name}": value for name, value in figures.items()}
