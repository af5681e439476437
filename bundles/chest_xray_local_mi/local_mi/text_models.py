"""Where a text model comes from: any Hugging Face encoder, or the small BERT that is made from the corpus at hand."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

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
OWN_CODE = "trust_remote_code"  # in what transformers says of a model that brings program code
HUB_TIMEOUT = 10.0  # seconds for the one question whether the hub has a model; transformers asks for minutes
LEAST_TOKENS = 3  # a token between the two special ones
UNLIMITED = 10**9  # tokenizers without a limit say 10**30
WAY_OUT = "give the directory of another model, or leave `text_model` empty for the small BERT trained on the corpus"


def prepare_text_model(directory: str, name_or_path: str | None, datalist: str, small_bert: dict[str, int]) -> str:
    """A directory with a Hugging Face model and its tokenizer, made once and used again.

    Args:
        directory: where to put it.
        name_or_path: a model's name on the Hugging Face hub or its directory; None or an empty text trains a WordPiece
            tokenizer on the training sentences and makes a small BERT with random weights.
        datalist: whose `training` sentences are the corpus.
        small_bert: `vocabulary_size`, `hidden_size`, `layers`, `heads`, `max_tokens` of the small BERT.

    Returns:
        The directory.

    Raises:
        ConfigurationError: the named model cannot be had, or is no text encoder.
    """
    target = Path(directory)
    if idist.get_rank() == 0:
        _prepare(target, name_or_path or None, datalist, small_bert)
    idist.barrier()
    return directory


def train_wordpiece(sentences: Iterable[str], vocabulary_size: int, max_tokens: int) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer trained on sentences; BERT's special tokens come first, so padding is 0.

    The same sentences give the same tokenizer. The trainer alone would not: it numbers the pieces `##x` in the order of
    a hash table that is seeded anew each time, and breaks ties by number. So it gets them as reserved tokens.
    """
    corpus = [encodable(sentence) for sentence in sentences]
    learner = _wordpiece(models.WordPiece(unk_token="[UNK]"))
    reserved = [*SPECIAL_TOKENS.values(), *_continuing_pieces(learner, corpus)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary_size, special_tokens=reserved, show_progress=False)
    learner.train_from_iterator(corpus, trainer)
    tokenizer = _wordpiece(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_tokens, **SPECIAL_TOKENS)


def encodable(text: str) -> str:
    """A text that the tokenizer takes: a lone surrogate, which JSON may hold, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _wordpiece(model: Any) -> Any:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _continuing_pieces(tokenizer: Any, corpus: Iterable[str]) -> list[str]:
    """`##x` of each character x of the corpus that can stand within a word."""
    characters = sorted(set().union(*corpus))
    folded = sorted(set(tokenizer.normalizer.normalize_str("".join(characters))))
    return [f"##{x}" for x in folded if len(tokenizer.pre_tokenizer.pre_tokenize_str(f"a{x}a")) == 1]


def load_tokenizer(text_model: str) -> Any:
    """The fast tokenizer of a directory.

    Raises:
        ConfigurationError: there is none, it has no vocabulary, or only one written in Python.
    """
    try:
        return _load_tokenizer(text_model, local_files_only=True)
    except Exception as error:
        raise ConfigurationError(refusal(text_model, error)) from error


def token_limit(text_model: str) -> int | None:
    """The most tokens, special ones included, that the model of a directory takes; None where it sets no limit.

    It is the smaller of what the tokenizer says and of the table of position embeddings, of which models like RoBERTa
    cannot use the rows up to and with that of padding.
    """
    config = AutoConfig.from_pretrained(text_model, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=False)
    limits = [
        table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        for name, table in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding)
    ]
    limits.append(load_tokenizer(text_model).model_max_length)
    limit = int(min(limits))
    return limit if limit < UNLIMITED else None


def _prepare(target: Path, name_or_path: str | None, datalist: str, small_bert: dict[str, int]) -> None:
    if name_or_path is None and small_bert["max_tokens"] < LEAST_TOKENS:
        raise ConfigurationError(f"max_tokens is {small_bert['max_tokens']}; set it to {LEAST_TOKENS} or more")
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
    with torch.random.fork_rng(devices=[]):  # weights that a checkpoint lacks are drawn, and then thrown away
        model, tokenizer = _fetch(name_or_path)
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)


def _fetch(name_or_path: str) -> tuple[Any, Any]:
    """Model and tokenizer of a directory; of a name, from the cache, and only where it has them not from the hub.

    Raises:
        ConfigurationError: they cannot be had, or are no text encoder.
    """
    if Path(name_or_path).is_dir() and not (Path(name_or_path) / "config.json").is_file():
        raise ConfigurationError(f"directory '{name_or_path}' holds no Hugging Face model: no config.json; {WAY_OUT}")
    try:
        return _load(name_or_path, local_files_only=True)
    except Exception as error:
        if Path(name_or_path).is_dir() or not isinstance(error, OSError):
            raise ConfigurationError(refusal(name_or_path, error)) from error
    _ask_hub(name_or_path)
    try:
        return _load(name_or_path, local_files_only=False)
    except Exception as error:
        raise ConfigurationError(refusal(name_or_path, error)) from error


def _ask_hub(name: str) -> None:
    """One short question to the hub, so that a machine without a way to it says so at once.

    Raises:
        ConfigurationError: no way to the hub, or it does not give the model.
    """
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=HUB_TIMEOUT)
    except HFValidationError as error:
        raise ConfigurationError(f"text model '{name}' is neither a directory nor a model's name; {WAY_OUT}") from error
    except GatedRepoError as error:
        raise ConfigurationError(
            f"text model '{name}' is gated: accept its terms on the Hugging Face hub and log in (`hf auth login`), "
            f"or {WAY_OUT}"
        ) from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise ConfigurationError(
            f"text model '{name}' is no directory here and no public model of that name is on the Hugging Face hub; "
            f"{WAY_OUT}"
        ) from error
    except Exception as error:  # of the network, by whichever HTTP library the hub's client was built on
        raise ConfigurationError(
            f"text model '{name}' is neither a directory nor in the Hugging Face cache, and the hub cannot be reached "
            f"from here; {WAY_OUT}"
        ) from error


def _load(name_or_path: str, *, local_files_only: bool) -> tuple[Any, Any]:
    model = load_encoder(name_or_path, local_files_only=local_files_only)
    tokenizer = _load_tokenizer(name_or_path, local_files_only=local_files_only)
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(
            f"its tokenizer knows {len(tokenizer)} tokens and its model {rows}: they do not belong together"
        )
    return model, tokenizer


def _load_tokenizer(name_or_path: str, *, local_files_only: bool) -> Any:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            name_or_path, local_files_only=local_files_only, trust_remote_code=False
        )
    except ValueError as error:
        if OWN_CODE in str(error):
            raise
        raise FileNotFoundError("it has no tokenizer that can be read") from error
    if not tokenizer.is_fast:
        raise ValueError("its tokenizer is not of the fast kind (tokenizer.json)")
    # Without its files, a tokenizer of some kinds comes up in silence with special tokens alone.
    letters = tokenizer("a b c d e f g h i j k l m n o p q r s t u v w x y z", add_special_tokens=False)["input_ids"]
    if set(letters) <= {tokenizer.unk_token_id}:
        raise FileNotFoundError("it has no tokenizer that can be read")
    return tokenizer


def load_encoder(name_or_path: str, *, local_files_only: bool) -> Any:
    """The model without its pooler, what gets no gradient frozen; errors as they come."""
    model, loaded = AutoModel.from_pretrained(
        name_or_path,
        local_files_only=local_files_only,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
    )
    if lacking := [key for key in loaded["missing_keys"] if not key.startswith("pooler.")]:
        raise ValueError(f"its weights are not those of its architecture: {len(lacking)} tensors are not in the file")
    if not isinstance(model.get_input_embeddings(), nn.Embedding):
        raise ValueError("it does not read text")
    if model.config.is_encoder_decoder:
        raise ValueError("it is an encoder with a decoder, and only an encoder can be trained here")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    _freeze_unused(model)
    return model


def _freeze_unused(model: Any) -> None:
    """Run two short texts that differ in their last token: says what the vectors depend on.

    Raises:
        ValueError: the first token's vector does not depend on the last token (a decoder).
    """
    training = model.training
    parameters = list(model.parameters())
    last = model.get_input_embeddings().num_embeddings - 1
    texts = torch.tensor([[last, last - 1, last], [last, last - 1, last - 2]])
    with torch.enable_grad():
        hidden = model.eval()(input_ids=texts, attention_mask=torch.ones_like(texts)).last_hidden_state
        gradients = torch.autograd.grad(hidden.sum(), parameters, allow_unused=True)
    if torch.equal(hidden[0, 0], hidden[1, 0]):
        raise ValueError("it reads in one direction (a decoder), and only an encoder can be trained here")
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    model.train(training)


def refusal(name_or_path: str, error: Exception) -> str:
    """One sentence on why a text model cannot be used."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if OWN_CODE in str(error):
        reason = "it comes with program code of its own, which is never run"
    return f"text model '{name_or_path}' cannot be used: {reason.rstrip('.')}; {WAY_OUT}"
