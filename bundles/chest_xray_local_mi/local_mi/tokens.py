"""Token ids of all reports, computed once a corpus and kept, and the batches that are cut from them."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from local_mi.errors import ConfigurationError
from local_mi.files import write_atomically
from local_mi.text import ENCODINGS, sentence_hash
from local_mi.text_models import encodable, load_tokenizer, token_limit

logger = logging.getLogger(__name__)

Integers = NDArray[np.int64]
CACHE_VERSION = 1  # of what stands in a cache file
CHUNK = 10_000  # sentences in a call of the tokenizer


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Passages (texts for the text encoder) and where in them the sentences of each report stand.

    Flat arrays: shared by processes that are forked, and cheap to send to others.

    Attributes:
        token_ids: (T,) int32 of all passages, one after the other.
        passage_start: (P + 1,) where each passage begins in `token_ids`, and the end of the last.
        sentence_passage: (S,) passage of each sentence of every report.
        sentence_from: (S,) where the sentence's tokens begin in `token_ids`; no two different spans begin alike.
        sentence_to: (S,) where they end (exclusive).
        sentence_hash: (S,) hash of the sentence's normalised text.
        report_start: (R + 1,) first sentence of each report, and the end of the last.
        padding: () token id that fills up a passage in a batch.
        cut: () how many of the S sentences were too long and lost their end.
    """

    token_ids: NDArray[np.int32]
    passage_start: Integers
    sentence_passage: Integers
    sentence_from: Integers
    sentence_to: Integers
    sentence_hash: Integers
    report_start: Integers
    padding: Integers
    cut: Integers

    def sentences_of(self, reports: Integers) -> tuple[Integers, Integers]:
        """Sentences of reports (B,), one report after the other: their rows (K,) and counts (B,)."""
        start = self.report_start[reports]
        counts = self.report_start[reports + 1] - start
        return _ranges(start, counts), counts

    def batch(self, sentences: Integers) -> dict[str, Tensor]:
        """What the text encoder needs for sentences (N,), at least one: each passage and each span once.

        Returns:
            `token_ids`, `attention_mask` and `token_span` (P, T), `span_tokens` (U,), `sentence_span` (N,), int64.
        """
        start, first, sentence_span = np.unique(self.sentence_from[sentences], return_index=True, return_inverse=True)
        end = self.sentence_to[sentences][first]
        passages = np.unique(self.sentence_passage[sentences])
        begin = self.passage_start[passages, None]
        lengths = self.passage_start[passages + 1, None] - begin
        inside = np.arange(lengths.max()) < lengths  # (P, T)
        position = np.where(inside, begin + np.arange(inside.shape[1]), begin)
        span = np.searchsorted(start, position, side="right") - 1  # the last that begins at the token or before it
        arrays = {
            "token_ids": np.where(inside, self.token_ids[position], self.padding),
            "attention_mask": inside,
            "token_span": np.where(inside & (span >= 0) & (position < end[span]), span, -1),
            "span_tokens": end - start,
            "sentence_span": sentence_span,
        }
        return {key: torch.from_numpy(array.astype(np.int64)) for key, array in arrays.items()}


def tokenized_reports(
    reports: Sequence[Sequence[str]], text_model: str, encoding: str, max_tokens: int, cache_dir: str | None
) -> TokenTable:
    """Token ids of the sentences of reports; a repeated sentence is tokenized once.

    Args:
        reports: the sentences of each report.
        text_model: directory of a Hugging Face model and its tokenizer.
        encoding: `sentence`, each distinct sentence a passage of its own, special tokens being part of its span; or
            `report-once`, the sentences of a report one after another in as few passages as hold them whole.
        max_tokens: of a passage, special tokens included; a longer sentence is cut.
        cache_dir: where to keep the table for the next run, as private as the reports; None keeps nothing.

    Raises:
        ConfigurationError: unknown encoding, or `max_tokens` is not within what the model takes.
    """
    tokenizer = _Tokenizer(text_model, encoding, max_tokens)
    table = tokenizer.table(reports) if cache_dir is None else _cached_table(reports, tokenizer, Path(cache_dir))
    if table.cut and idist.get_rank() == 0:
        logger.warning(
            "%d of %d sentences have more than %d tokens and lose their end; raise max_tokens%s or split them",
            table.cut,
            len(table.sentence_hash),
            max_tokens,
            "" if tokenizer.limit is None else f" (this text model takes {tokenizer.limit})",
        )
    return table


def text_batch(sentences: Sequence[str], text_model: str, encoding: str, max_tokens: int) -> dict[str, Tensor]:
    """Sentences, each a report of its own, as the text encoder needs them: see `TokenTable.batch`.

    Raises:
        ConfigurationError: see `tokenized_reports`.
    """
    table = tokenized_reports([[sentence] for sentence in sentences], text_model, encoding, max_tokens, None)
    return table.batch(np.arange(len(sentences)))


class _Tokenizer:
    """From sentences to a TokenTable, by the tokenizer of a text model."""

    def __init__(self, text_model: str, encoding: str, max_tokens: int) -> None:
        if encoding not in ENCODINGS:
            raise ConfigurationError(f"text encoding '{encoding}' is unknown; choose {' or '.join(ENCODINGS)}")
        tokenizer = load_tokenizer(text_model)
        self.limit = token_limit(text_model)
        self.encoding = encoding
        self.max_tokens = max_tokens
        self.backend = tokenizer.backend_tokenizer
        self.backend.no_truncation()  # here a cut is counted
        self.backend.no_padding()
        self.before, self.after = _special_tokens(tokenizer)
        self.unknown = _first_of(tokenizer.unk_token_id, tokenizer.sep_token_id, tokenizer.eos_token_id)
        self.padding = _first_of(tokenizer.pad_token_id)
        if self.limit is not None and max_tokens > self.limit:
            raise ConfigurationError(
                f"max_tokens is {max_tokens}, and the text model in {text_model} takes at most {self.limit} tokens; "
                f"set `max_tokens` to {self.limit} or less"
            )
        if self.room < 1:
            raise ConfigurationError(
                f"max_tokens is {max_tokens}, of which the text model in {text_model} needs "
                f"{max_tokens - self.room} for its special tokens; raise `max_tokens`"
            )

    @property
    def room(self) -> int:
        """Tokens of a passage that are not special."""
        return self.max_tokens - len(self.before) - len(self.after)

    def key(self, reports: Sequence[Sequence[str]]) -> str:
        """Hash of all that the table is made from."""
        settings = [CACHE_VERSION, self.encoding, self.max_tokens, self.before, self.after, self.unknown, self.padding]
        digest = hashlib.sha256(repr(settings).encode())
        for text in chain([self.backend.to_str()], *([str(len(report)), *report] for report in reports)):
            content = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d:%b" % (len(content), content))
        return digest.hexdigest()

    def table(self, reports: Sequence[Sequence[str]]) -> TokenTable:
        """Tokenize, and lay the sentences out in passages."""
        number_of = {text: number for number, text in enumerate(dict.fromkeys(chain.from_iterable(reports)))}
        report_start = _starts([len(report) for report in reports])
        numbers = np.array([number_of[text] for text in chain.from_iterable(reports)], np.int64)
        ids, start, too_long = self._tokenize(list(number_of))
        lengths = np.diff(start)
        members, place = self._passages(numbers, report_start, lengths)  # of passages, those of each sentence
        passage = np.repeat(np.arange(len(members)), [len(member) for member in members])
        member = np.fromiter(chain.from_iterable(members), np.int64)
        special = len(self.before) + len(self.after)
        content = np.bincount(passage, lengths[member], len(members)).astype(np.int64)
        passage_start = _starts(content + special)
        begin = _starts(lengths[member])[:-1] + passage * special + len(self.before)
        token_ids = np.empty(passage_start[-1], np.int32)
        token_ids[_ranges(begin, lengths[member])] = ids[_ranges(start[member], lengths[member])]
        for k, token in enumerate(self.before):
            token_ids[passage_start[:-1] + k] = token
        for k, token in enumerate(reversed(self.after)):
            token_ids[passage_start[1:] - 1 - k] = token
        whole = self.encoding == "sentence"  # the special tokens are part of the sentence's span
        return TokenTable(
            token_ids=token_ids,
            passage_start=passage_start,
            sentence_passage=passage[place],
            sentence_from=begin[place] - whole * len(self.before),
            sentence_to=(begin + lengths[member])[place] + whole * len(self.after),
            sentence_hash=np.array([sentence_hash(text) for text in number_of], np.int64)[numbers],
            report_start=report_start,
            padding=np.array(self.padding),
            cut=np.array(too_long[numbers].sum()),
        )

    def _tokenize(self, sentences: list[str]) -> tuple[NDArray[np.int32], Integers, NDArray[np.bool_]]:
        """Flat ids of sentences without special tokens, where each begins, and which were cut.

        A sentence that gives no token stands as one unknown token.
        """
        rows = list(chain.from_iterable(self._tokens(sentences)))
        lengths = np.array([len(row) for row in rows], np.int64)
        flat = np.concatenate([np.empty(0, np.int32), *rows])
        kept = np.minimum(lengths, self.room)
        return flat[_ranges(_starts(lengths)[:-1], kept)], _starts(kept), lengths > self.room

    def _tokens(self, sentences: list[str]) -> Iterator[list[NDArray[np.int32]]]:
        # Said expressly, since otherwise every worker of a DataLoader that is forked after warns of it.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        for first in range(0, len(sentences), CHUNK):
            texts = [encodable(text) for text in sentences[first : first + CHUNK]]
            encoded = self.backend.encode_batch_fast(texts, add_special_tokens=False)
            yield [np.array(one.ids or [self.unknown], np.int32) for one in encoded]

    def _passages(
        self, numbers: Integers, report_start: Integers, lengths: Integers
    ) -> tuple[list[tuple[int, ...]], Integers]:
        """Distinct passages as sentence numbers, and of each sentence its place among the members of all passages."""
        if self.encoding == "sentence":
            return [(number,) for number in range(len(lengths))], numbers
        passage_of: dict[tuple[int, ...], int] = {}
        packed = [
            (passage_of.setdefault(group, len(passage_of)), len(group))
            for first, last in pairwise(report_start)
            for group in _pack(numbers[first:last].tolist(), lengths, self.room)
        ]
        members = list(passage_of)
        first_member = _starts([len(member) for member in members])
        passage, size = np.array(packed, np.int64).reshape(-1, 2).T
        return members, _ranges(first_member[passage], size)


def _pack(numbers: list[int], lengths: Integers, room: int) -> Iterator[tuple[int, ...]]:
    """Sentences one after another in groups of at most `room` tokens: in this order, filling up is optimal."""
    group: list[int] = []
    used = 0
    for number in numbers:
        length = int(lengths[number])
        if group and used + length > room:
            yield tuple(group)
            group, used = [], 0
        group.append(number)
        used += length
    if group:
        yield tuple(group)


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer sets before a text and after it."""
    whole = tokenizer("a")["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    first = next(k for k in range(len(whole)) if whole[k : k + len(bare)] == bare)
    return whole[:first], whole[first + len(bare) :]


def _first_of(*ids: int | None) -> int:
    return next((token for token in ids if token is not None), 0)


def _starts(lengths: Any) -> Integers:
    """Where pieces of these lengths begin when laid one after the other, and the end of the last."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _ranges(start: Integers, lengths: Integers) -> Integers:
    """`arange(start, start + length)` of each piece, one after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(start - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)


def _cached_table(reports: Sequence[Sequence[str]], tokenizer: _Tokenizer, folder: Path) -> TokenTable:
    """Made and written by the first process; the others read it, or make it too where they do not share the folder."""
    key = tokenizer.key(reports)
    path = folder / f"tokens_{key[:32]}.npz"
    table = _read_table(path, key) if idist.get_rank() == 0 else None
    if table is None and idist.get_rank() == 0:
        table = tokenizer.table(reports)
        try:
            write_atomically(path, lambda temporary: _write_table(temporary, table, key))
        except OSError as error:
            logger.warning("token ids cannot be kept in %s (%s)", folder, error.strerror or type(error).__name__)
    idist.barrier()
    return table or _read_table(path, key) or tokenizer.table(reports)


def _write_table(path: str, table: TokenTable, key: str) -> None:
    arrays = {field.name: getattr(table, field.name) for field in fields(table)}
    with Path(path).open("wb") as file:
        np.savez(file, key=np.array(key), **arrays)


def _read_table(path: Path, key: str) -> TokenTable | None:
    """The table of a file; None where there is none, it is damaged, or another's."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                return None
            return TokenTable(**{field.name: arrays[field.name] for field in fields(TokenTable)})
    except Exception:  # no file, or damage, for which zip files alone know half a dozen errors
        return None
