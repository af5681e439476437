"""Sentences to vectors: any Hugging Face encoder, and the offline default that is trained on the corpus at hand."""

import hashlib
import json
import logging
import shutil
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from local_mi.datalist import read_pairs
from local_mi.errors import ConfigurationError

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
SOURCE_FILE = "source.json"  # beside the model: what it was made from


def prepare_text_model(directory: str, name_or_path: str | None, datalist: str, small_bert: dict[str, int]) -> str:
    """A directory with a Hugging Face model and its tokenizer, made once and used again.

    Args:
        directory: where to put it.
        name_or_path: a model's name on the Hugging Face hub or its directory; None trains a WordPiece tokenizer on
            the training sentences and makes a small BERT with random weights.
        datalist: whose `training` sentences are the corpus.
        small_bert: `vocabulary_size`, `hidden_size`, `layers`, `heads`, `max_tokens` of the small BERT.

    Returns:
        The directory.

    Raises:
        ConfigurationError: the named model cannot be had.
    """
    target = Path(directory)
    if idist.get_rank() == 0:
        _prepare(target, name_or_path, datalist, small_bert)
    idist.barrier()
    return directory


def train_wordpiece(sentences: Iterable[str], vocabulary_size: int, max_tokens: int) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer trained on sentences; BERT's special tokens come first, so padding is 0."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size, special_tokens=list(SPECIAL_TOKENS.values()), show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_tokens, **SPECIAL_TOKENS)


def tokenize(sentences: list[str], text_model: str, max_tokens: int) -> list[list[int]]:
    """Token ids of each sentence, with the model's special tokens, cut at `max_tokens`."""
    tokenizer = AutoTokenizer.from_pretrained(text_model, local_files_only=True)
    ids: list[list[int]] = tokenizer(sentences, truncation=True, max_length=max_tokens)["input_ids"]
    return ids


def sentence_hash(sentence: str) -> int:
    """64-bit hash of the sentence's letters and digits, lower case: equal for sentences that say the same in print."""
    folded = unicodedata.normalize("NFKC", sentence).casefold()
    words = "".join(character if character.isalnum() else " " for character in folded).split()
    return int.from_bytes(hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest(), "big", signed=True)


class TextEncoder(nn.Module):
    """A Hugging Face encoder with one vector a sentence.

    Args:
        directory: of the model and its tokenizer.
        pooling: `mean` of the token vectors that are not padding, or `cls`, the first token's.
    """

    def __init__(self, directory: str, pooling: str) -> None:
        super().__init__()
        if pooling not in ("mean", "cls"):
            raise ConfigurationError(f"text pooling '{pooling}' is unknown; choose mean or cls")
        if not (Path(directory) / "config.json").is_file():
            raise ConfigurationError(f"no text model in {directory}; run pretraining first")
        self.model = AutoModel.from_pretrained(directory, local_files_only=True, dtype=torch.float32)
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # unused, and a parameter without gradient stops data-parallel training
        self.pooling = pooling
        self.features = int(self.model.config.hidden_size)

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(N, T) ids and mask -> (N, H)."""
        hidden: Tensor = self.model(input_ids=token_ids, attention_mask=attention_mask).last_hidden_state  # (N, T, H)
        if self.pooling == "cls":
            return hidden[:, 0]
        weight = attention_mask[..., None].to(hidden.dtype)
        return (hidden * weight).sum(dim=1) / weight.sum(dim=1)


def _prepare(target: Path, name_or_path: str | None, datalist: str, small_bert: dict[str, int]) -> None:
    corpus = [] if name_or_path else _training_sentences(datalist)
    source = {"name_or_path": name_or_path, "corpus": _hash_texts(corpus), "small_bert": small_bert}
    if _source_of(target) == source:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".text_model_") as temporary:
        made = Path(temporary) / "model"
        if name_or_path is None:
            _make_small_bert(made, corpus, small_bert)
        else:
            _copy_model(made, name_or_path)
        (made / SOURCE_FILE).write_text(json.dumps(source, indent=2), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        made.replace(target)


def _source_of(target: Path) -> dict[str, Any] | None:
    """What the text model in a directory was made from; None where there is none or it cannot be told."""
    try:
        source: dict[str, Any] = json.loads((target / SOURCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return source


def _training_sentences(datalist: str) -> list[str]:
    return [sentence for item in read_pairs(datalist, "training", None) for sentence in item["sentences"]]


def _hash_texts(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "replace") + b"\n")
    return digest.hexdigest()


def _make_small_bert(directory: Path, corpus: list[str], small_bert: dict[str, int]) -> None:
    tokenizer = train_wordpiece(corpus, small_bert["vocabulary_size"], small_bert["max_tokens"])
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=small_bert["hidden_size"],
        num_hidden_layers=small_bert["layers"],
        num_attention_heads=small_bert["heads"],
        intermediate_size=4 * small_bert["hidden_size"],
        max_position_embeddings=small_bert["max_tokens"],
        pad_token_id=tokenizer.pad_token_id,
    )
    tokenizer.save_pretrained(directory)
    # Its own random numbers: making the model and finding it made must leave a run the same.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(directory)
    logger.info("made a small BERT with %d word pieces from %d sentences", len(tokenizer), len(corpus))


def _copy_model(directory: Path, name_or_path: str) -> None:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name_or_path)
        model: Any = AutoModel.from_pretrained(name_or_path, dtype=torch.float32)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigurationError(
            f"text model '{name_or_path}' is neither a directory with a Hugging Face model nor reachable by name from "
            "here; give a directory, or leave `text_model` empty for the small BERT trained on the corpus"
        ) from error
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)


def pad_token_ids(token_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ragged token ids -> (N, T) ids padded with 0 and the (N, T) attention mask (padding is masked: any id does)."""
    length = max(len(ids) for ids in token_ids)
    ids = torch.zeros(len(token_ids), length, dtype=torch.long)
    mask = torch.zeros(len(token_ids), length, dtype=torch.long)
    for row, sentence in enumerate(token_ids):
        ids[row, : len(sentence)] = torch.tensor(sentence)
        mask[row, : len(sentence)] = 1
    return ids, mask
