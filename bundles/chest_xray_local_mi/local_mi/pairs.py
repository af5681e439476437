"""Batches of images with the sentences of their reports, in the form that MONAI's stock engines take."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from local_mi.augmentation import AFFINE, augmented
from local_mi.datalist import read_pairs
from local_mi.errors import ConfigurationError
from local_mi.labels import Item, label_tensor
from local_mi.tokens import Integers, TokenTable, tokenized_reports

TEXT_KEYS = ("token_ids", "attention_mask", "token_span", "span_tokens", "sentence_span", "sentence_image", "drawn")
PAIR_KEYS = ("study", "sentence_image", "sentence_hash", "drawn", "report_image", "report_hash")


@dataclass(frozen=True, eq=False)
class TokenizedPairs:
    """Pairs of a split without a word of their reports.

    Attributes:
        items: dictionaries for a dataset: `image`, `study`, `patient`, `item` (number in the datalist's split),
            `report` (row in `tokens`) and, where labels are named, `label` (L floats, NaN unknown).
        tokens: the reports.
    """

    items: list[Item]
    tokens: TokenTable


def tokenized_pairs(
    datalist: str,
    split: str,
    views: Sequence[str] | None,
    label_names: Sequence[str] | None,
    text_model: str,
    encoding: str,
    max_tokens: int,
    cache_dir: str | None,
) -> TokenizedPairs:
    """Pairs of a split and the tokens of their reports; equal reports, as of two views of a study, share a row.

    Args:
        datalist: path of the datalist.
        split: `training`, `validation` or `test`.
        views: the view positions to keep; None keeps all.
        label_names: the labels of the supervised term, by name; None or none for a run without it.
        text_model: directory of a Hugging Face model and its tokenizer.
        encoding: `sentence` or `report-once`.
        max_tokens: of a passage.
        cache_dir: where token ids are kept; None keeps nothing.

    Raises:
        ConfigurationError: see `datalist.read_pairs` and `tokens.tokenized_reports`.
    """
    pairs = read_pairs(datalist, split, views, label_names)
    reports = [tuple(item["sentences"]) for item in pairs]
    row_of = {report: row for row, report in enumerate(dict.fromkeys(reports))}
    tokens = tokenized_reports(list(row_of), text_model, encoding, max_tokens, cache_dir)
    keys = ("image", "study", "patient", "item")
    items = [{key: item[key] for key in keys} | {"report": row_of[r]} for item, r in zip(pairs, reports, strict=True)]
    if label_names:
        for item, pair in zip(items, pairs, strict=True):
            item["label"] = label_tensor(pair["label"]).tolist()
    return TokenizedPairs(items, tokens)


def refuse_without_negatives(pairs: TokenizedPairs, images: int) -> None:
    """Say at start-up that no batch can have a mismatched pair.

    Args:
        pairs: of the training split.
        images: in a batch of all processes.

    Raises:
        ConfigurationError: batches of one image, or reports that all say the same.
    """
    if images < 2:
        raise ConfigurationError("a batch of one image has no mismatched pair; set `batch_size` to 2 or more")
    tokens = pairs.tokens
    reports = (frozenset(tokens.sentence_hash[start:end].tolist()) for start, end in pairwise(tokens.report_start))
    first = next(reports)
    if all(report == first for report in reports):
        raise ConfigurationError(
            "all reports of the training split say the same, so there is no mismatched pair; ingest other reports"
        )


@dataclass(frozen=True, eq=False)
class PairCollator:
    """`collate_fn` that makes a batch of B images and the sentences of their reports.

    Attributes:
        tokens: the reports of the items.
        sentences: `one` draws a sentence of each report at random, anew in every epoch (Liao et al. 2021); `all`
            takes all. An item without `epoch`, one of validation, takes all.
        encode_all: whether sentences that were not drawn are encoded too, as objectives with a global term need.
        seed: of the draw, which depends on it, the epoch and the study alone: views of a study draw the same.

    Raises:
        ConfigurationError: `sentences` is unknown; on a batch, images that do not make one.
    """

    tokens: TokenTable
    sentences: str
    encode_all: bool
    seed: int

    def __post_init__(self) -> None:
        if self.sentences not in ("one", "all"):
            raise ConfigurationError(f"sentences '{self.sentences}' is unknown; choose one or all")

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """A batch.

        Returns:
            `image` (B, 1, H, W); `token_ids`, `attention_mask` and `token_span` (P, T), `span_tokens` (U,) and
            `sentence_span` (N,) of the sentences to encode: see `TokenTable.batch`; `sentence_image` (N,) row of each
            one's image, `sentence_hash` (N,), `drawn` (N,) whether it takes part in the local objective;
            `report_image` and `report_hash` (K,) of all sentences of the reports; `study` and `item` (B,) int64; where
            items have them, `label` (B, L), NaN unknown, and `affine` (B, 2, 3).
        """
        rows, counts = self.tokens.sentences_of(np.array([item["report"] for item in items]))
        image = np.repeat(np.arange(len(items)), counts)
        drawn = self._drawn(items, counts)
        encoded = slice(None) if self.encode_all else drawn
        batch = {
            "image": _stacked(items),
            **self.tokens.batch(rows[encoded]),
            "sentence_image": torch.from_numpy(image[encoded]),
            "sentence_hash": torch.from_numpy(self.tokens.sentence_hash[rows[encoded]]),
            "drawn": torch.from_numpy(drawn[encoded]),
            "report_image": torch.from_numpy(image),
            "report_hash": torch.from_numpy(self.tokens.sentence_hash[rows]),
            "study": torch.tensor([_hash(item["study"]) for item in items]),
            "item": torch.tensor([item["item"] for item in items]),
        }
        if AFFINE in items[0]:
            batch[AFFINE] = torch.stack([item[AFFINE] for item in items])
        if "label" in items[0]:
            batch["label"] = torch.tensor([item["label"] for item in items], dtype=torch.float32)
        return batch

    def _drawn(self, items: Sequence[Item], counts: Integers) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """(K,) which sentences take part in the local objective."""
        drawn = np.ones(counts.sum(), bool)
        if self.sentences == "all":
            return drawn
        ends = np.cumsum(counts)
        for item, end, count in zip(items, ends, counts, strict=True):
            if "epoch" in item:
                drawn[end - count : end] = False
                drawn[end - count + _hash(f"{self.seed}/{item['epoch']}/{item['study']}") % count] = True
        return drawn


def prepare_pairs(
    batch: dict[str, Tensor], device: str | torch.device | None, non_blocking: bool, **_: Any
) -> tuple[Tensor, dict[str, Tensor], tuple[()], dict[str, Tensor]]:
    """`prepare_batch` of MONAI's engines: augmented image, what the objective needs, the network's other arguments."""
    moved = {key: value.to(device, non_blocking=non_blocking) for key, value in batch.items() if key != "item"}
    pair_keys = (*PAIR_KEYS, "label") if "label" in moved else PAIR_KEYS
    image = augmented(moved["image"], moved)
    return image, {key: moved[key] for key in pair_keys}, (), {key: moved[key] for key in TEXT_KEYS}


def _stacked(items: Sequence[Item]) -> Tensor:
    """(B, 1, H, W).

    Raises:
        ConfigurationError: an image has not one channel, or not the size of the first.
    """
    images = [torch.as_tensor(item["image"]) for item in items]
    expected = (1, *images[0].shape[1:])
    for item, image in zip(items, images, strict=True):
        if image.ndim != 3 or image.shape != expected:
            raise ConfigurationError(
                f"item {item['item']} of the datalist's split gives an image of shape {tuple(image.shape)} where "
                f"{expected} is needed (one channel, one size); see to it in the transforms of the configuration, "
                "such as EnsureChannelFirstd and Resized"
            )
    return torch.stack(images)


def _hash(text: str) -> int:
    """64 bits."""
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)
