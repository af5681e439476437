"""Sentences become vectors: two words are two things, padding is nothing, and a text model is made once."""

import json
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.errors import ConfigurationError
from local_mi.network import LocalMINetwork
from local_mi.text import TextEncoder, pad_token_ids, prepare_text_model, sentence_hash, tokenize, train_wordpiece
from monai.networks.nets import resnet18
from transformers import AutoTokenizer

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


def test_a_tokenizer_frames_folds_and_cuts(text_model: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    upper, lower, long = tokenize(["NO PNEUMOTHORAX.", "no pneumothorax.", " ".join(["clear"] * 50)], text_model, 8)
    assert upper == lower
    assert (upper[0], upper[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert len(long) == 8
    assert long[-1] == tokenizer.sep_token_id
    assert tokenizer.pad_token_id == 0


def test_a_word_outside_the_corpus_is_unknown_rather_than_an_error(text_model: str) -> None:
    unknown = AutoTokenizer.from_pretrained(text_model).unk_token_id
    assert unknown in tokenize(["肺炎"], text_model, 8)[0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=6))
def test_padding_keeps_every_id_and_marks_the_rest(ragged: list[list[int]]) -> None:
    ids, mask = pad_token_ids(ragged)
    assert ids.shape == mask.shape == (len(ragged), max(map(len, ragged)))
    assert [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)] == ragged
    assert mask.sum(dim=1).tolist() == [len(row) for row in ragged]
    assert (mask.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_does_not_change_a_sentences_vector(text_model: str, pooling: str) -> None:
    encoder = TextEncoder(text_model, pooling).eval()
    ids = tokenize(SENTENCES, text_model, 24)
    with torch.no_grad():
        together = encoder(*pad_token_ids(ids))
        alone = torch.cat([encoder(*pad_token_ids([one])) for one in ids])
    assert together.shape == (3, encoder.features) == (3, 16)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_mean_and_cls_are_what_they_are_called(text_model: str) -> None:
    ids, mask = pad_token_ids(tokenize(SENTENCES, text_model, 24))
    mean, cls = TextEncoder(text_model, "mean").eval(), TextEncoder(text_model, "cls").eval()
    with torch.no_grad():
        hidden = mean.model(input_ids=ids, attention_mask=mask).last_hidden_state
        for row in range(3):
            tokens = hidden[row, : int(mask[row].sum())]
            torch.testing.assert_close(mean(ids, mask)[row], sum(tokens) / len(tokens))
            torch.testing.assert_close(cls(ids, mask)[row], tokens[0])


def test_an_unknown_pooling_is_refused(text_model: str) -> None:
    with pytest.raises(ConfigurationError, match="'max' is unknown; choose mean or cls"):
        TextEncoder(text_model, "max")


def test_every_parameter_of_the_text_encoder_learns(text_model: str) -> None:
    """One without gradient stops data-parallel training."""
    encoder = TextEncoder(text_model, "mean")
    encoder(*pad_token_ids(tokenize(SENTENCES, text_model, 24))).square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_the_joint_network_scores_every_region_with_every_sentence(text_model: str) -> None:
    encoder = resnet18(spatial_dims=2, n_input_channels=1, conv1_t_stride=2, widen_factor=0.125, feed_forward=False)
    network = LocalMINetwork(encoder, text_model, "mean", embedding_features=5, temperature=0.1).eval()
    image = torch.rand(2, 1, 96, 64)
    with torch.no_grad():
        text = pad_token_ids(tokenize(SENTENCES, text_model, 24))
        prediction = network(image, *text, torch.tensor([0, 1, 2, 1]))
        cells = network.encode_regions(image)
    assert cells.shape == (2, 3, 2, 5)
    assert prediction["scores"].shape == (2, 6, 4)
    assert torch.equal(prediction["sentences"][1], prediction["sentences"][3]), "a repeated sentence has one vector"
    for b, row, column, n in [(0, 0, 0, 0), (1, 2, 1, 2), (1, 0, 1, 3)]:
        expected = 10 * (cells[b, row, column] @ prediction["sentences"][n])
        torch.testing.assert_close(prediction["scores"][b, row * 2 + column, n], expected)


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
    assert tokenize(SENTENCES, copy, 24) == tokenize(SENTENCES, text_model, 24)
    ids = pad_token_ids(tokenize(SENTENCES, copy, 24))
    with torch.no_grad():
        torch.testing.assert_close(TextEncoder(copy, "mean").eval()(*ids), TextEncoder(text_model, "mean").eval()(*ids))


def test_a_text_model_that_is_not_there_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no text model in .*; run pretraining first"):
        TextEncoder(str(tmp_path / "text_model"), "mean")


@pytest.mark.parametrize("name", ["no-such-organisation/no-such-model", "not a name", "./no/such/folder", ""])
def test_an_unknown_text_model_is_one_clear_sentence_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    target = tmp_path / "models" / "text_model"
    with pytest.raises(ConfigurationError) as refusal:
        prepare_text_model(str(target), name, str(tmp_path / "datalist.json"), SMALL_BERT)
    assert "\n" not in str(refusal.value)
    assert not target.exists()
    assert not target.parent.exists() or list(target.parent.iterdir()) == []


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
