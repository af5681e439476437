"""Objectives: from scores of images with texts to a loss.

Liao et al., *Multimodal Representation Learning via Maximization of Local Mutual Information*, MICCAI 2021. `local`
matches each sentence with the region that carries it, `global` an image with its report; `local+global` adds both.
"""

import math

import torch
from torch import Tensor, nn

from local_mi.bounds import donsker_varadhan, info_nce, jensen_shannon, mine
from local_mi.errors import ConfigurationError
from local_mi.gather import gather_rows, processes, rows_before

OBJECTIVES = ("global", "local", "local+global")
ESTIMATORS = ("infonce", "dv", "mine", "jsd")

Pairs = dict[str, Tensor]


def objective_terms(objective: str) -> list[str]:
    """The terms of an objective, `local`, `global` or both.

    Raises:
        ConfigurationError: unknown objective.
    """
    if objective not in OBJECTIVES:
        raise ConfigurationError(f"objective '{objective}' is unknown; choose one of {', '.join(OBJECTIVES)}")
    return objective.split("+")


def negative_pairs(
    study: Tensor, report_image: Tensor, report_hash: Tensor, sentence_image: Tensor, sentence_hash: Tensor
) -> Tensor:
    """Which (image, sentence) pairs of a batch are mismatched.

    Not negatives: a sentence of the image's own study (other views share the report), and a sentence whose normalised
    text also stands in the image's own report ("No pleural effusion." is true of many).

    Args:
        study: (B,) integer id of each image's study.
        report_image: (K,) row of the image of each sentence of all reports.
        report_hash: (K,) integer hash of each such sentence's normalised text.
        sentence_image: (N,) row of the image that each scored sentence came with.
        sentence_hash: (N,) its hash.

    Returns:
        (B, N) bool.
    """
    own = study[:, None] == study[sentence_image][None, :]  # (B, N)
    same_text = (report_hash[:, None] == sentence_hash[None, :]).to(torch.float32)  # (K, N)
    in_report = same_text.new_zeros(own.shape).index_add_(0, report_image, same_text)
    return ~own & (in_report == 0)


def mismatched_reports(study: Tensor, report_image: Tensor, report_hash: Tensor) -> Tensor:
    """Which (image, report) pairs of a batch are mismatched: not of one study, nor of reports with the same sentences.

    Args:
        study: (B,) integer id of each image's study.
        report_image: (K,) row of the image of each sentence of all reports.
        report_hash: (K,) integer hash of each such sentence's normalised text.

    Returns:
        (B, B) bool.
    """
    report = torch.zeros_like(study).index_add_(0, report_image, report_hash)  # whatever the order of sentences
    return (study[:, None] != study[None, :]) & (report[:, None] != report[None, :])


def estimate(
    estimator: str, scores: Tensor, image_of: Tensor, negative: Tensor, log_average: Tensor, decay: float
) -> tuple[Tensor, Tensor]:
    """A bound from the scores of images with texts.

    Args:
        estimator: `infonce`, symmetric: the mean of two, each text as anchor among the images and its image as anchor
            among the texts; `dv`, `mine` or `jsd` over all pairs at once.
        scores: (B, N) of images with texts.
        image_of: (N,) row of each text's image.
        negative: (B, N) bool, which pairs are mismatched.
        log_average: scalar, state of `mine` (see `bounds.mine`).
        decay: of that average.

    Returns:
        The value, and the new state; 0 and the old state where no pair counts. A matched pair whose text or image has
        no negative does not.

    Raises:
        ConfigurationError: unknown estimator.
    """
    positive = scores[image_of, torch.arange(len(image_of), device=scores.device)]  # (N,)
    if estimator == "infonce":
        to_images = info_nce(positive, scores.T, negative.T)
        to_texts = info_nce(positive, scores[image_of], negative[image_of])
        return 0.5 * (_mean_of_valid(*to_images) + _mean_of_valid(*to_texts)), log_average
    # Nothing would hold down the score of a text that is no image's negative, nor that of such an image.
    positive = positive[negative.any(dim=0) & negative.any(dim=1)[image_of]]
    if estimator == "dv":
        return donsker_varadhan(positive, scores, negative), log_average
    if estimator == "mine":
        return mine(positive, scores, negative, log_average, decay)
    if estimator == "jsd":
        return jensen_shannon(positive, scores, negative), log_average
    raise ConfigurationError(f"estimator '{estimator}' is unknown; choose one of {', '.join(ESTIMATORS)}")


class MutualInformationObjective(nn.Module):
    """Minus the bounds of an objective's terms, and the supervised term on the studies that have labels.

    Every process of a data-parallel run computes the loss of all processes' pairs (see `gather.gather_rows`).

    Args:
        objective: a name of `OBJECTIVES`.
        estimator: a name of `ESTIMATORS`.
        global_weight: of the global term beside the local one, 0 or more.
        supervised_weight: of the binary cross-entropy of labels, 0 or more; 0 for none.
        moving_average_decay: of the estimator `mine`, in [0, 1).

    Raises:
        ConfigurationError: an unknown name, or a number out of its range.

    Attributes:
        figures: detached scalars of the last batch: `<term>_mi_nats` (for `jsd` not in nats), `masked_negatives`, the
            share of pairs of different images that are no negatives, `anchors_without_negative`, their number, and
            `supervised_loss`.
    """

    def __init__(
        self,
        objective: str,
        estimator: str,
        global_weight: float,
        supervised_weight: float,
        moving_average_decay: float,
    ) -> None:
        super().__init__()
        self.terms = objective_terms(objective)
        if estimator not in ESTIMATORS:
            raise ConfigurationError(f"estimator '{estimator}' is unknown; choose one of {', '.join(ESTIMATORS)}")
        if not (global_weight >= 0 and supervised_weight >= 0 and 0 <= moving_average_decay < 1):
            raise ConfigurationError(
                f"global_weight is {global_weight}, supervised_weight {supervised_weight} and moving_average_decay "
                f"{moving_average_decay}; set the weights to 0 or more, and the decay to 0 or more and below 1"
            )
        self.estimator = estimator
        self.weights = {"local": 1.0, "global": global_weight if len(self.terms) > 1 else 1.0}
        self.supervised_weight = supervised_weight
        self.moving_average_decay = moving_average_decay
        for term in self.terms:
            self.register_buffer(f"{term}_log_average", torch.tensor(math.nan))
        self.figures: dict[str, Tensor] = {}

    def forward(self, prediction: dict[str, Tensor], pairs: Pairs) -> Tensor:
        """Loss of a batch.

        Args:
            prediction: `local` (B, N) scores of images with drawn sentences, `global` (B, B) of images with reports,
                `logits` (B, L): those that the objective has, over all processes.
            pairs: of this process: `study` (B,), `sentence_image` (N',), `sentence_hash` (N',), `drawn` (N',) bool,
                `report_image` (K,), `report_hash` (K,) and, with a supervised term, `label` (B, L).

        Returns:
            Scalar; 0 where no anchor has a negative and no label is known.
        """
        gathered = _of_all_processes(pairs)
        own = (gathered["study"], gathered["report_image"], gathered["report_hash"])
        loss = next(iter(prediction.values())).new_zeros((), dtype=torch.float32)
        figures, masks = {}, []
        for term in self.terms:
            if term == "local":
                image_of = gathered["sentence_image"]
                negative = negative_pairs(*own, image_of, gathered["sentence_hash"])
            else:
                image_of = torch.arange(len(gathered["study"]), device=gathered["study"].device)
                negative = mismatched_reports(*own)
            value = self._term(term, prediction[term], image_of, negative)
            loss = loss - self.weights[term] * value
            figures[f"{term}_mi_nats"] = value.detach()
            masks.append((negative, image_of))
        figures |= _figures_of_masks(masks)
        if self.supervised_weight:
            if "logits" not in prediction:
                raise ConfigurationError(
                    f"supervised_weight is {self.supervised_weight} and no label is named; set `label_names`"
                )
            supervised = masked_binary_cross_entropy(prediction["logits"].float(), gathered["label"])
            loss = loss + self.supervised_weight * supervised
            figures["supervised_loss"] = supervised.detach()
        self.figures = figures
        return loss

    def _term(self, term: str, scores: Tensor, image_of: Tensor, negative: Tensor) -> Tensor:
        average: Tensor = getattr(self, f"{term}_log_average")
        value, new_average = estimate(
            self.estimator, scores, image_of, negative, average.to(scores.device), self.moving_average_decay
        )
        if self.training:
            setattr(self, f"{term}_log_average", new_average)
        return value


def masked_binary_cross_entropy(logits: Tensor, labels: Tensor, positive_weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy over the labels in [0, 1]; unknown (NaN) and uncertain (-1) ones contribute nothing.

    Args:
        logits: (B, L).
        labels: (B, L), 1, 0, a target between them, -1 or NaN.
        positive_weight: (L,), of positives beside negatives (`labels.positive_weight`); None for 1.
    """
    known = (labels >= 0) & (labels <= 1)
    target = torch.where(known, labels, torch.zeros_like(labels))
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits, target, reduction="none", pos_weight=None if positive_weight is None else positive_weight.to(logits)
    )
    return (losses * known).sum() / known.sum().clamp(min=1)


def _of_all_processes(pairs: Pairs) -> Pairs:
    """Drawn sentences alone, and ids of all processes, with rows counted over all of them."""
    drawn = pairs["drawn"]
    pairs = {key: value for key, value in pairs.items() if key != "drawn"}
    pairs |= {key: pairs[key][drawn] for key in ("sentence_image", "sentence_hash")}
    if processes() == 1:
        return pairs
    before = rows_before(len(pairs["study"]), pairs["study"].device)
    pairs |= {key: pairs[key] + before for key in ("sentence_image", "report_image")}
    return {key: gather_rows(value) for key, value in pairs.items()}


def _figures_of_masks(masks: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Share of pairs of different images that are masked, and number of anchors without a negative, over all terms."""
    kept = sum(negative.sum() for negative, _ in masks)
    mismatched = sum(negative.numel() - negative.shape[1] for negative, _ in masks)
    lonely = sum((~negative.any(dim=0)).sum() + (~negative[image_of].any(dim=1)).sum() for negative, image_of in masks)
    return {
        "masked_negatives": 1 - torch.as_tensor(kept) / max(1, mismatched),
        "anchors_without_negative": torch.as_tensor(lonely).float(),
    }


def _mean_of_valid(values: Tensor, valid: Tensor) -> Tensor:
    return values.sum() / valid.sum().clamp(min=1)
