"""Sentences to vectors, by a Hugging Face encoder."""

import hashlib
import unicodedata
from pathlib import Path

import torch
from torch import Tensor, nn

from local_mi.errors import ConfigurationError
from local_mi.text_models import load_encoder, refusal

POOLINGS = ("mean", "cls")
ENCODINGS = ("sentence", "report-once")


def check_pooling(pooling: str, encoding: str) -> None:
    """Refuse a pooling and an encoding that are unknown or do not go together.

    Raises:
        ConfigurationError: unknown, or `cls` where a passage holds several sentences but one first token.
    """
    _check_pooling(pooling)
    if encoding not in ENCODINGS:
        raise ConfigurationError(f"text encoding '{encoding}' is unknown; choose {' or '.join(ENCODINGS)}")
    if pooling == "cls" and encoding == "report-once":
        raise ConfigurationError(
            "text pooling 'cls' needs a first token for every sentence, and the encoding 'report-once' has one for "
            "many; use pooling 'mean', or encoding 'sentence'"
        )


def sentence_hash(sentence: str) -> int:
    """64-bit hash of the sentence's letters and digits, lower case: equal for sentences that say the same in print."""
    folded = unicodedata.normalize("NFKC", sentence).casefold()
    words = "".join(character if character.isalnum() else " " for character in folded).split()
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest(), "big", signed=True)


class TextEncoder(nn.Module):
    """A Hugging Face encoder with one vector a span, which is a sentence as it stands in a passage.

    Parameters that the token vectors do not depend on get no gradient, which data-parallel training does not stand:
    the pooler is taken away, others are frozen.

    Args:
        directory: of the model and its tokenizer.
        pooling: `mean` of a span's token vectors, or `cls`, the vector of the passage's first token, for passages
            that are one span each.

    Raises:
        ConfigurationError: unknown pooling, or the directory has no text encoder.
    """

    def __init__(self, directory: str, pooling: str) -> None:
        super().__init__()
        _check_pooling(pooling)
        if not (Path(directory) / "config.json").is_file():
            raise ConfigurationError(f"no text model in {directory}; run pretraining first")
        try:
            self.model = load_encoder(directory, local_files_only=True)
        except Exception as error:  # as many kinds as libraries below
            raise ConfigurationError(refusal(directory, error)) from error
        self.pooling = pooling
        self.features = int(self.model.config.hidden_size)

    def forward(self, token_ids: Tensor, attention_mask: Tensor, token_span: Tensor, span_tokens: Tensor) -> Tensor:
        """Vectors of spans, in float32 also under autocast.

        Args:
            token_ids: (P, T) of the P passages.
            attention_mask: (P, T), 1 for a token, 0 for padding.
            token_span: (P, T) the span in [0, U) that a token belongs to, -1 for none.
            span_tokens: (U,) number of tokens of each span.

        Returns:
            (U, H).
        """
        hidden: Tensor = self.model(input_ids=token_ids, attention_mask=attention_mask).last_hidden_state  # (P, T, H)
        spans = len(span_tokens)
        if self.pooling == "cls":
            first = hidden[:, 0].float()
            return first.new_zeros(spans, self.features).index_copy(0, token_span[:, 0], first)
        row = torch.where(token_span < 0, spans, token_span).flatten()  # tokens of no span share a row, dropped after
        tokens = hidden.flatten(0, 1).float()
        sums = tokens.new_zeros(spans + 1, self.features).index_add(0, row, tokens)[:spans]
        return sums / span_tokens[:, None]


def _check_pooling(pooling: str) -> None:
    if pooling not in POOLINGS:
        raise ConfigurationError(f"text pooling '{pooling}' is unknown; choose {' or '.join(POOLINGS)}")
