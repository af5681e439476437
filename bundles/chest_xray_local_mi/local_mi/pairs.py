"""Batches of images with their sentences, in the form that MONAI's stock engines take."""

import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from local_mi.datalist import Item, read_pairs
from local_mi.text import pad_token_ids, sentence_hash, tokenize


def tokenized_pairs(
    datalist: str, split: str, views: Sequence[str] | None, text_model: str, max_tokens: int
) -> list[Item]:
    """Pairs of a split with `token_ids` and `sentence_hash` beside `sentences`; a repeated sentence is tokenized once.

    Raises:
        ConfigurationError: see `datalist.read_pairs`.
    """
    items = read_pairs(datalist, split, views)
    sentences = sorted(set(chain.from_iterable(item["sentences"] for item in items)))
    ids = dict(zip(sentences, tokenize(sentences, text_model, max_tokens), strict=True))
    return [
        {
            **item,
            "token_ids": [ids[sentence] for sentence in item["sentences"]],
            "sentence_hash": [sentence_hash(sentence) for sentence in item["sentences"]],
        }
        for item in items
    ]


def collate_pairs(items: list[Item]) -> dict[str, Any]:
    """Items -> a batch of B images and the N sentences of all their reports, one after the other.

    Reports repeat themselves, so the text encoder gets each of the U different sentences of the batch once.

    Returns:
        `image` (B, 1, H, W), `token_ids` and `attention_mask` (U, T), `sentence_row` (N,) each sentence's row in them,
        `sentence_image` (N,) the row of its image, `sentence_hash` (N,), and `study` (B,) int64 ids.
    """
    sentences = [tuple(ids) for item in items for ids in item["token_ids"]]
    row_of = {ids: row for row, ids in enumerate(dict.fromkeys(sentences))}
    token_ids, attention_mask = pad_token_ids(list(row_of))
    return {
        "image": torch.stack([torch.as_tensor(item["image"]) for item in items]),
        "token_ids": token_ids,
        "attention_mask": attention_mask,
        "sentence_row": torch.tensor([row_of[ids] for ids in sentences]),
        "sentence_image": torch.tensor([row for row, item in enumerate(items) for _ in item["token_ids"]]),
        "sentence_hash": torch.tensor([value for item in items for value in item["sentence_hash"]]),
        "study": torch.tensor([_study_number(item["study"]) for item in items]),
    }


def prepare_pairs(
    batch: dict[str, Any], device: str | torch.device | None, non_blocking: bool, **_: Any
) -> tuple[Tensor, dict[str, Tensor], tuple[()], dict[str, Tensor]]:
    """`prepare_batch` of MONAI's engines: image, what the loss needs, and the network's further arguments."""

    def on_device(*keys: str) -> dict[str, Tensor]:
        return {key: batch[key].to(device, non_blocking=non_blocking) for key in keys}

    image = batch["image"].to(device, non_blocking=non_blocking)
    text = on_device("token_ids", "attention_mask", "sentence_row")
    return image, on_device("sentence_image", "sentence_hash", "study"), (), text


def _study_number(study: str) -> int:
    return int.from_bytes(hashlib.blake2b(study.encode(), digest_size=8).digest(), "big", signed=True)
