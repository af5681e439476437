"""What pretraining reports of held-out studies: mutual information in nats, retrieval, and which regions win."""

import math

import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from torch import Tensor

from local_mi.aggregations import aggregate_regions
from local_mi.network import LocalMINetwork, report_means

IMAGE_CHUNK = 64  # images whose region scores are held at once


class HeldOutPairs(Metric):
    """How well images and texts of held-out studies find one another.

    Attached under a name, that name is the sum of the objective's terms in nats, each term InfoNCE with every text as
    anchor and all images of the split as candidates, nothing masked: the estimate that is reported, as against the
    objective that is trained. Beside it come the terms, `local_mi_nats` (texts are sentences) and `global_mi_nats`
    (texts are reports); retrieval of the report from the image and back, `retrieval/image_to_report/recall_at_k`,
    `.../median_rank` and the same for `report_to_image`, an image's score with a report being the mean over its
    sentences, plus the global critic's; `retrieval/studies`; and `winner_entropy`, the entropy in nats of how often
    each region is the best one for a sentence of its own report: 0 where one region always wins, the logarithm of the
    number of regions where all do alike. One image a study takes part, the first, and the first `max_studies` studies,
    since scores of all with all grow with the square of their number, and recall and bound depend on it.

    Args:
        network: whose evaluation output is measured (`network.LocalMINetwork`).
        max_studies: number of studies at most.
    """

    def __init__(self, network: LocalMINetwork, max_studies: int) -> None:
        self.network = network
        self.max_studies = max_studies
        super().__init__(output_transform=lambda output: (output["pred"], output["label"]))

    def reset(self) -> None:
        """Forget what was seen."""
        self._seen: dict[str, list[Tensor]] = {}
        self._images = 0
        self._studies_seen: set[int] = set()

    def update(self, output: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
        """Take a batch: the network's projections, and its `sentence_image` (N,) and `study` (B,)."""
        if len(self._studies_seen) >= self.max_studies:
            return
        prediction, pairs = output
        batch = prediction | {"study": pairs["study"], "sentence_image": pairs["sentence_image"] + self._images}
        for key, value in batch.items():
            self._seen.setdefault(key, []).append(value.detach())
        self._images += len(pairs["study"])
        self._studies_seen.update(pairs["study"].tolist())

    @torch.no_grad()
    def compute(self) -> dict[str, float]:
        """All figures, with `mi` for the sum of the bounds.

        Raises:
            NotComputableError: no batch was seen.
        """
        if not self._seen:
            raise NotComputableError("no held-out pair was seen")
        seen = {key: torch.cat(values) for key, values in self._seen.items()}
        first = _first_of_each(seen["study"])[: self.max_studies]  # (M,) rows
        figures: dict[str, float] = {}
        reports = torch.zeros(len(first), len(first), device=first.device)
        if "regions" in seen:
            row_of = torch.full((len(seen["study"]),), -1, device=first.device)
            row_of[first] = torch.arange(len(first), device=first.device)
            image_of = row_of[seen["sentence_image"]]
            sentences, image_of = seen["sentences"][image_of >= 0], image_of[image_of >= 0]
            scores, winners = self._sentence_scores(seen["regions"][first], sentences, image_of)
            figures |= {"local_mi_nats": _text_info_nce(scores, image_of), "winner_entropy": _entropy(winners)}
            reports = reports + report_means(scores.T, image_of, len(first)).T
        if "images" in seen:
            scores = self.network.score_reports(seen["images"][first], seen["reports"][first]).float()
            figures["global_mi_nats"] = _text_info_nce(scores, torch.arange(len(first), device=first.device))
            reports = reports + scores
        total = sum(value for key, value in figures.items() if key.endswith("_mi_nats"))
        figures |= {"mi": total, "retrieval/studies": float(len(first))}
        return figures | _retrieval("image_to_report", reports) | _retrieval("report_to_image", reports.T)

    def completed(self, engine: Engine, name: str) -> None:
        """Put each figure under its own name, the sum of the bounds under the metric's."""
        figures = self.compute()
        engine.state.metrics[name] = figures.pop("mi")
        engine.state.metrics.update(figures)

    def _sentence_scores(self, regions: Tensor, sentences: Tensor, image_of: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (M, N) of images with sentences, and the best region (N,) of each sentence in its own image."""
        scores, winners = [], torch.zeros_like(image_of)
        for start in range(0, len(regions), IMAGE_CHUNK):
            of_regions = self.network.score_regions(regions[start : start + IMAGE_CHUNK], sentences)  # (m, R, N)
            own = ((image_of >= start) & (image_of < start + IMAGE_CHUNK)).nonzero()[:, 0]
            winners[own] = of_regions[image_of[own] - start, :, own].argmax(dim=1)
            scores.append(
                aggregate_regions(of_regions, self.network.aggregation, self.network.aggregation_temperature).float()
            )
        return torch.cat(scores), winners


def _first_of_each(study: Tensor) -> Tensor:
    seen: dict[int, int] = {}
    for row, number in enumerate(study.tolist()):
        seen.setdefault(number, row)
    return torch.tensor(list(seen.values()), device=study.device)


def _text_info_nce(scores: Tensor, image_of: Tensor) -> float:
    """Mean over texts of `log softmax over images + log M`, from scores (M, N)."""
    log_share = scores.log_softmax(dim=0)[image_of, torch.arange(scores.shape[1], device=scores.device)]
    return float(log_share.mean()) + math.log(scores.shape[0])


def _entropy(values: Tensor) -> float:
    """Entropy in nats of how often each of some integers occurs."""
    share = torch.bincount(values).double() / len(values)
    return abs(float(torch.xlogy(share, share).sum()))  # a sum of what is at most 0, without its sign


def _retrieval(direction: str, scores: Tensor) -> dict[str, float]:
    """Recall and median rank of the diagonal in each row of (M, M) scores; a tie counts half; NaN where a score is."""
    own = scores.diagonal()[:, None]
    rank = 1 + (scores > own).sum(dim=1) + ((scores == own).sum(dim=1) - 1) / 2
    rank = torch.where(scores.isnan().any(), torch.full_like(rank, math.nan), rank).double().cpu()
    figures = {"median_rank": float(rank.quantile(0.5))}
    figures |= {f"recall_at_{k}": float((rank <= k).double().mean() + 0 * rank.sum()) for k in (1, 5, 10)}
    return {f"retrieval/{direction}/{name}": value for name, value in figures.items()}
