"""Zero-shot: how images go with any sentences and reports, by the joint network of a pretraining run.

After pretraining; nothing is trained here. There is one score, the one by which `held_out_pairs` measures retrieval:
the mean over a report's sentences of the local critic's aggregated score, plus the global critic's score with the
report, each where the objective has it. A prompt is a report of one sentence. Text is encoded once and images come in
batches, so that memory grows with the text's vectors alone, 4 H bytes a distinct sentence, whichever the critic.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from local_mi.encoders import image_features
from local_mi.network import LocalMINetwork, report_means
from local_mi.tokens import TokenTable

TEXT_CHUNK = 256  # sentences that are encoded at once
REPORT_CHUNK = 4096  # reports that are scored at once
REGION_PAIRS = 2**22  # scores of regions with sentences that are held at once


@dataclass(frozen=True, eq=False)
class ProjectedImages:
    """The image's side of the critics.

    Attributes:
        regions: (B, R, D) of the local critic; None where the objective has no local term.
        pooled: (B, D) of the global critic; None where it has no global term.
    """

    regions: Tensor | None
    pooled: Tensor | None


@dataclass(frozen=True, eq=False)
class EncodedReports:
    """Vectors of the sentences of M reports, S in all, U of them distinct.

    Attributes:
        vectors: (U, H) text vectors before the critics' projections.
        sentence: (S,) row in `vectors` of each sentence, report after report.
        start: (M + 1,) first sentence of each report, and the end of the last; none is empty.
    """

    vectors: Tensor
    sentence: Tensor
    start: Tensor


@torch.no_grad()
def encode_reports(network: LocalMINetwork, tokens: TokenTable) -> EncodedReports:
    """The text's side: each distinct sentence, as it stands in its passage, is encoded once."""
    device = _device(network)
    _, first, sentence = np.unique(tokens.sentence_from, return_index=True, return_inverse=True)
    vectors = [torch.empty(0, network.text_encoder.features, device=device)]
    for start in range(0, len(first), TEXT_CHUNK):
        text = {key: value.to(device) for key, value in tokens.batch(first[start : start + TEXT_CHUNK]).items()}
        arguments = (text[key] for key in ("token_ids", "attention_mask", "token_span", "span_tokens"))
        vectors.append(network.text_encoder(*arguments)[text["sentence_span"]])
    rows, starts = (torch.from_numpy(array.astype(np.int64)) for array in (sentence, tokens.report_start))
    return EncodedReports(torch.cat(vectors), rows.to(device), starts)


@torch.no_grad()
def project_images(network: LocalMINetwork, image: Tensor) -> ProjectedImages:
    """The image's side: (B, 1, H, W) in [0, 1], on any device."""
    local_map, pooled = image_features(network.image_encoder, image.to(_device(network)))
    regions = local_map.flatten(2).transpose(1, 2)  # (B, R, C)
    return ProjectedImages(
        None if network.local_critic is None else network.local_critic.project_left(regions),
        None if network.global_critic is None else network.global_critic.project_left(pooled),
    )


@torch.no_grad()
def report_scores(
    network: LocalMINetwork, images: ProjectedImages, reports: EncodedReports, first: int, last: int
) -> Tensor:
    """Scores of images with the reports from number `first` to `last` (exclusive), on the critics' own scale.

    Returns:
        (B, last - first), float32.
    """
    start = reports.start[first : last + 1]
    rows, place = reports.sentence[start[0] : start[-1]].unique(return_inverse=True)
    vectors = reports.vectors[rows]  # (u, H); reports repeat one another, so each is scored once
    report_of = torch.repeat_interleave(torch.arange(last - first), start.diff()).to(vectors.device)
    scores = torch.zeros((), device=vectors.device)
    if images.regions is not None and network.local_critic is not None:
        size = max(1, REGION_PAIRS // (images.regions.shape[0] * images.regions.shape[1]))
        parts = [network.local_critic.project_right(part) for part in vectors.split(size)]
        of_sentences = torch.cat([network.score_images(images.regions, part).float() for part in parts], dim=1)
        scores = scores + report_means(of_sentences.T[place], report_of, last - first).T
    if images.pooled is not None and network.global_critic is not None:
        projected = network.global_critic.project_right(report_means(vectors[place], report_of, last - first))
        scores = scores + network.score_reports(images.pooled, projected).float()
    return scores


def all_scores(network: LocalMINetwork, images: ProjectedImages, reports: EncodedReports) -> Tensor:
    """Scores of images with all reports, (B, M) float32, by and by."""
    chunks = _chunks(len(reports.start) - 1, REPORT_CHUNK)
    return torch.cat([report_scores(network, images, reports, first, last) for first, last in chunks], dim=1)


def nearest(network: LocalMINetwork, images: ProjectedImages, reports: EncodedReports, k: int) -> tuple[Tensor, Tensor]:
    """The k reports with the highest scores, or all where there are fewer; of equal ones, the earlier come first.

    Returns:
        Scores and numbers of the reports, both (B, k), the highest first.
    """
    highest, numbers = [], []
    for first, last in _chunks(len(reports.start) - 1, REPORT_CHUNK):
        scores, place = _descending(report_scores(network, images, reports, first, last), k)
        highest.append(scores)
        numbers.append(place + first)
    scores, place = _descending(torch.cat(highest, dim=1), k)
    return scores, torch.cat(numbers, dim=1).gather(1, place)


def label_scores(scores: Tensor, positive: Sequence[Sequence[int]], negative: Sequence[Sequence[int]]) -> Tensor:
    """What prompts say of labels: the probability of the positive prompts against the negative ones.

    As in CheXzero (Tiu et al., Nature Biomedical Engineering 2022): softmax over the two. Departures: a label's several
    prompts are averaged as scores, since regions are aggregated for each sentence, not as embeddings; and the softmax
    takes the critics' scores as they are, a learned temperature being part of them, where CheXzero takes bare cosines,
    which leave every probability near one half. A critic at the optimum of InfoNCE is `log p(text | image) / p(text)`,
    so this is the probability if either statement stood in reports equally often: it ranks images, and is calibrated
    to no prevalence.

    Args:
        scores: (B, N) of images with prompts.
        positive: of L labels, the prompts that say that it is there, as columns; at least one each.
        negative: of L labels, those that say that it is not; none for a label that gets its mean score instead.

    Returns:
        (B, L) float64: in float32 confident probabilities would tie.
    """
    scores = scores.double()
    columns = []
    for present, absent in zip(positive, negative, strict=True):
        column = scores[:, list(present)].mean(dim=1)
        columns.append(torch.sigmoid(column - scores[:, list(absent)].mean(dim=1)) if absent else column)
    return torch.stack(columns, dim=1)


def _descending(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each row, and where they stand; unlike `topk`, in order also where they are equal."""
    ordered, place = scores.sort(dim=1, descending=True, stable=True)
    return ordered[:, :k], place[:, :k]


def _chunks(length: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _device(network: LocalMINetwork) -> torch.device:
    return next(network.parameters()).device
