"""Sentences become token ids once a corpus: none is lost, and each can be found in its passage."""

import functools
import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.errors import ConfigurationError
from local_mi.text import sentence_hash
from local_mi.text_models import token_limit, train_wordpiece
from local_mi.tokens import TokenTable, text_batch, tokenized_reports
from transformers import AutoTokenizer, BertConfig, MPNetConfig, RobertaConfig
from warm_python import WarmPython

CORPUS = ["Small left pleural effusion.", "No pneumothorax.", "Heart size is normal, lungs are clear."]
ENCODINGS = ("sentence", "report-once")
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}

Reports = list[list[str]]


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tokenizer and configuration: tokens need no weights."""
    directory = str(tmp_path_factory.mktemp("tokens") / "text_model")
    tokenizer = train_wordpiece(CORPUS, 200, 64)
    tokenizer.save_pretrained(directory)
    BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **SIZES).save_pretrained(directory)
    return directory


def of_table(table: TokenTable) -> dict[str, np.ndarray]:
    return {field.name: getattr(table, field.name) for field in fields(table)}


def passages_of(table: TokenTable) -> list[list[int]]:
    return [part.tolist() for part in np.split(table.token_ids, table.passage_start[1:-1])]


def spans_of(table: TokenTable) -> list[list[int]]:
    pairs = zip(table.sentence_from, table.sentence_to, strict=True)
    return [table.token_ids[first:last].tolist() for first, last in pairs]


@functools.cache
def loaded(text_model: str) -> Any:
    return AutoTokenizer.from_pretrained(text_model)


def words_of(text_model: str, sentence: str, room: int) -> list[int]:
    """Its tokens alone and by the tokenizer's own plain call; one unknown token where there is none."""
    tokenizer = loaded(text_model)
    return tokenizer(sentence, add_special_tokens=False)["input_ids"][:room] or [tokenizer.unk_token_id]


words = st.sampled_from(["no", "left", "effusion", "lungs", "clear", "xylophone", "肺", ".", "", " "])
sentences = st.lists(words, max_size=9).map(" ".join)
many_reports = st.lists(st.lists(sentences, min_size=1, max_size=5), min_size=1, max_size=5)


@settings(max_examples=30, deadline=None)
@given(many_reports, st.integers(3, 24), st.sampled_from(ENCODINGS))
def test_no_sentence_is_lost_and_a_span_is_the_sentence_alone(
    text_model: str, reports: Reports, max_tokens: int, encoding: str
) -> None:
    table = tokenized_reports(reports, text_model, encoding, max_tokens, None)
    tokenizer = loaded(text_model)
    flat = [sentence for report in reports for sentence in report]
    expected = [words_of(text_model, sentence, max_tokens - 2) for sentence in flat]
    if encoding == "sentence":
        expected = [[tokenizer.cls_token_id, *ids, tokenizer.sep_token_id] for ids in expected]
    assert spans_of(table) == expected
    assert np.diff(table.report_start).tolist() == [len(report) for report in reports]
    assert table.sentence_hash.tolist() == [sentence_hash(sentence) for sentence in flat]
    for passage in passages_of(table):
        assert len(passage) <= max_tokens
        assert (passage[0], passage[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


@settings(max_examples=30, deadline=None)
@given(many_reports, st.integers(3, 24))
def test_a_report_is_read_in_order_in_as_few_passages_as_hold_it(
    text_model: str, reports: Reports, max_tokens: int
) -> None:
    table = tokenized_reports(reports, text_model, "report-once", max_tokens, None)
    passages = passages_of(table)
    for row, report in enumerate(reports):
        tokens = [words_of(text_model, sentence, max_tokens - 2) for sentence in report]
        content: list[int] = []
        read = 0
        before = (-1, 0)
        for k in range(table.report_start[row], table.report_start[row + 1]):
            place = (int(table.sentence_passage[k]), int(table.sentence_from[k]))
            if place[0] != before[0] or place <= before:  # the next passage, or the same once more
                content += passages[place[0]][1:-1]
                read += 1
            before = place
        assert content == [token for part in tokens for token in part]
        assert read == _fewest_groups([len(part) for part in tokens], max_tokens - 2)


def _fewest_groups(lengths: list[int], room: int) -> int:
    """By trying every place for the first cut."""
    if not lengths:
        return 0
    ends = [k for k in range(1, len(lengths) + 1) if sum(lengths[:k]) <= room]
    return 1 + min(_fewest_groups(lengths[k:], room) for k in ends)


def test_equal_sentences_and_equal_reports_are_tokenized_once(text_model: str) -> None:
    reports = [CORPUS, [CORPUS[1]], CORPUS]
    apart = tokenized_reports(reports, text_model, "sentence", 64, None)
    assert len(passages_of(apart)) == 3
    assert apart.sentence_passage.tolist() == [0, 1, 2, 1, 0, 1, 2]
    once = tokenized_reports(reports, text_model, "report-once", 64, None)
    assert len(passages_of(once)) == 2
    assert once.sentence_passage.tolist() == [0, 0, 0, 1, 0, 0, 0]


@settings(max_examples=30, deadline=None)
@given(many_reports, st.sampled_from(ENCODINGS), st.data())
def test_a_batch_is_what_a_loop_over_its_sentences_finds(
    text_model: str, reports: Reports, encoding: str, data: st.DataObject
) -> None:
    table = tokenized_reports(reports, text_model, encoding, 16, None)
    rows = data.draw(st.lists(st.integers(0, len(table.sentence_hash) - 1), min_size=1, max_size=12))
    batch = table.batch(np.array(rows))
    used = sorted({int(table.sentence_passage[row]) for row in rows})
    assert len(batch["token_ids"]) == len(used), "a passage is encoded once"
    assert len(batch["span_tokens"]) == len({int(table.sentence_from[row]) for row in rows}), "and so is a span"
    for ids, mask, passage in zip(batch["token_ids"], batch["attention_mask"], used, strict=True):
        assert ids[mask.bool()].tolist() == passages_of(table)[passage]
        assert (mask.diff() <= 0).all()
    assert (batch["token_span"][batch["attention_mask"] == 0] == -1).all()
    for row, span in zip(rows, batch["sentence_span"].tolist(), strict=True):
        of_span = batch["token_span"] == span
        assert batch["token_ids"][of_span].tolist() == spans_of(table)[row]
        assert of_span.sum() == batch["span_tokens"][span]
    assert {value.dtype for value in batch.values()} == {torch.int64}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("sentence", ["", "   ", "\n", "\ud800"])
def test_a_sentence_that_says_nothing_is_still_a_sentence(text_model: str, encoding: str, sentence: str) -> None:
    batch = text_batch([sentence, "No effusion."], text_model, encoding, 16)
    assert (batch["span_tokens"] > 0).all()
    assert len(batch["sentence_span"]) == 2


def test_sentences_of_a_text_batch_are_reports_of_their_own(text_model: str) -> None:
    batch = text_batch([CORPUS[0], CORPUS[1], CORPUS[0]], text_model, "report-once", 64)
    assert batch["token_ids"].shape[0] == 2
    assert batch["sentence_span"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_long_sentences_are_cut_and_counted_in_one_warning(
    text_model: str, encoding: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    reports = [["clear " * 50, "No effusion."], ["clear " * 6], ["clear " * 50]]
    with caplog.at_level(logging.WARNING):
        for _ in ("made", "read"):
            caplog.clear()
            tokenized_reports(reports, text_model, encoding, 8, str(tmp_path))
            (record,) = [record.getMessage() for record in caplog.records]
            assert "2 of 4 sentences have more than 8 tokens" in record
            assert "takes 64" in record
            assert "clear" not in record
    caplog.clear()
    tokenized_reports([["clear " * 6]], text_model, encoding, 8, None)
    assert caplog.records == [], "six words and two special tokens are eight"


@pytest.mark.parametrize(
    ("encoding", "max_tokens", "message"),
    [
        ("sentence", 65, "max_tokens is 65.*at most 64"),
        ("report-once", 2, "max_tokens is 2.* 2 for its special tokens"),
        ("paragraph", 8, "'paragraph' is unknown; choose sentence or report-once"),
    ],
)
def test_what_the_model_cannot_take_is_refused(text_model: str, encoding: str, max_tokens: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        tokenized_reports([CORPUS], text_model, encoding, max_tokens, None)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (BertConfig(max_position_embeddings=40, **SIZES), 40),
        (RobertaConfig(max_position_embeddings=42, pad_token_id=1, **SIZES), 40),
        (MPNetConfig(max_position_embeddings=42, **SIZES), 40),
        (BertConfig(max_position_embeddings=100, **SIZES), 64),  # the tokenizer says 64
    ],
)
def test_models_whose_positions_begin_after_padding_take_fewer_tokens(
    tmp_path: Path, text_model: str, config: Any, expected: int
) -> None:
    AutoTokenizer.from_pretrained(text_model).save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    assert token_limit(str(tmp_path)) == expected
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_kept_table_is_the_made_one_bit_for_bit(tmp_path: Path, text_model: str, encoding: str) -> None:
    reports = [CORPUS, ["clear " * 50], [CORPUS[1], ""]]
    plain, made, read = (
        of_table(tokenized_reports(reports, text_model, encoding, 16, folder))
        for folder in (None, str(tmp_path), str(tmp_path))
    )
    assert len(list(tmp_path.iterdir())) == 1
    for name in plain:
        assert plain[name].dtype == made[name].dtype == read[name].dtype
        assert plain[name].shape == made[name].shape == read[name].shape
        assert plain[name].tobytes() == made[name].tobytes() == read[name].tobytes()


def test_a_kept_table_is_really_read(tmp_path: Path, text_model: str) -> None:
    """A mark written into the file comes back."""
    tokenized_reports([CORPUS], text_model, "sentence", 16, str(tmp_path))
    (path,) = tmp_path.iterdir()
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"cut": np.array(1)}))
    assert tokenized_reports([CORPUS], text_model, "sentence", 16, str(tmp_path)).cut == 1


def _other_reports(folder: str, model: str) -> None:
    tokenized_reports([[*CORPUS[:2]], [CORPUS[2]]], model, "sentence", 16, folder)


OTHERS: dict[str, Callable[[str, str], object]] = {
    "the reports' borders": _other_reports,
    "the encoding": lambda folder, model: tokenized_reports([CORPUS], model, "report-once", 16, folder),
    "the length": lambda folder, model: tokenized_reports([CORPUS], model, "sentence", 17, folder),
    "a letter": lambda folder, model: tokenized_reports([[*CORPUS[:2], "Heart."]], model, "sentence", 16, folder),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_question_has_another_file(tmp_path: Path, text_model: str, what: str) -> None:
    tokenized_reports([CORPUS], text_model, "sentence", 16, str(tmp_path))
    OTHERS[what](str(tmp_path), text_model)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_file_goes_by_the_tokenizers_content_and_not_by_its_place(tmp_path: Path, text_model: str) -> None:
    cache = tmp_path / "cache"
    tokenized_reports([CORPUS], text_model, "sentence", 16, str(cache))
    copy = tmp_path / "moved"
    copy.mkdir()
    for file in Path(text_model).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    tokenized_reports([CORPUS], str(copy), "sentence", 16, str(cache))
    assert len(list(cache.iterdir())) == 1
    train_wordpiece([*CORPUS, "Endotracheal tube."], 200, 64).save_pretrained(copy)
    tokenized_reports([CORPUS], str(copy), "sentence", 16, str(cache))
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["empty", "cut short", "not an archive", "another's", "a key is missing"])
def test_a_damaged_file_is_made_again(tmp_path: Path, text_model: str, damage: str) -> None:
    expected = of_table(tokenized_reports([CORPUS], text_model, "sentence", 16, str(tmp_path)))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    arrays = dict(np.load(path))
    if damage == "another's":
        np.savez(path, **(arrays | {"key": np.array("0"), "token_ids": arrays["token_ids"] + 1}))
    elif damage == "a key is missing":
        del arrays["sentence_to"]
        np.savez(path, **arrays)
    else:
        path.write_bytes({"empty": b"", "cut short": content[: len(content) // 2]}.get(damage, b"not an archive"))
    found = of_table(tokenized_reports([CORPUS], text_model, "sentence", 16, str(tmp_path)))
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_written_costs_only_a_warning(
    tmp_path: Path, text_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    table = tokenized_reports([CORPUS], text_model, "sentence", 16, str(tmp_path / "file"))
    assert len(table.sentence_hash) == 3
    assert "token ids cannot be kept" in caplog.text


TWO_PROCESSES = """
import hashlib, sys
import ignite.distributed as idist
from local_mi.tokens import tokenized_reports
from local_mi import tokens

def run(rank, text_model, folder):
    made = []
    whole = tokens._Tokenizer.table
    tokens._Tokenizer.table = lambda self, reports: made.append(1) or whole(self, reports)
    reports = [["No effusion."], ["Lungs are clear.", "No effusion."]]
    table = tokenized_reports(reports, text_model, "sentence", 16, folder)
    print(rank, len(made), hashlib.sha256(table.token_ids.tobytes()).hexdigest(), flush=True)

if __name__ == "__main__":
    processes = {"nproc_per_node": 2, "start_method": "fork", "master_port": int(sys.argv[3])}
    with idist.Parallel(backend="gloo", **processes) as parallel:
        parallel.run(run, sys.argv[1], sys.argv[2])
"""


def test_of_two_processes_one_makes_the_table_and_both_have_it(
    tmp_path: Path, text_model: str, warm_python: WarmPython
) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES, encoding="utf-8")
    result = warm_python.run(script, text_model, tmp_path / "cache", "29731")
    assert result.returncode == 0, result.stderr[-2000:]
    lines = sorted(line.split() for line in result.stdout.splitlines() if line[:2] in ("0 ", "1 "))
    assert [line[:2] for line in lines] == [["0", "1"], ["1", "0"]]
    assert lines[0][2] == lines[1][2]
