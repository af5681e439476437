"""A batch holds each image once and each sentence of its report, and remembers who belongs to whom."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.pairs import collate_pairs, prepare_pairs, tokenized_pairs
from local_mi.text import prepare_text_model, sentence_hash, tokenize

SMALL_BERT = {"vocabulary_size": 200, "hidden_size": 8, "layers": 1, "heads": 1, "max_tokens": 16}


def item(study: str, token_ids: list[list[int]], hashes: list[int], value: float = 0.0) -> dict[str, object]:
    image = torch.full((1, 2, 3), value)
    return {"image": image, "study": study, "patient": f"p-{study}", "token_ids": token_ids, "sentence_hash": hashes}


def test_sentences_follow_one_another_and_know_their_image() -> None:
    batch = collate_pairs([item("a", [[5, 6], [7]], [11, 12], 0.25), item("b", [[8, 9, 10]], [-(2**63)], 0.5)])
    assert batch["image"].shape == (2, 1, 2, 3)
    assert batch["image"][:, 0, 0, 0].tolist() == [0.25, 0.5]
    assert batch["token_ids"].tolist() == [[5, 6, 0], [7, 0, 0], [8, 9, 10]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert batch["sentence_image"].tolist() == [0, 0, 1]
    assert batch["sentence_hash"].tolist() == [11, 12, -(2**63)]
    for key in ("token_ids", "attention_mask", "sentence_row", "sentence_image", "sentence_hash", "study"):
        assert batch[key].dtype == torch.int64


def test_a_repeated_sentence_is_encoded_once_and_stands_for_each() -> None:
    batch = collate_pairs([item("a", [[5, 6], [7]], [11, 12]), item("b", [[7], [5, 6], [5]], [12, 11, 13])])
    assert batch["token_ids"].tolist() == [[5, 6], [7, 0], [5, 0]]
    assert batch["sentence_row"].tolist() == [0, 1, 1, 0, 2]
    assert batch["sentence_image"].tolist() == [0, 0, 1, 1, 1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text("ab", max_size=3), st.integers(1, 4)), min_size=1, max_size=8))
def test_study_numbers_are_equal_exactly_for_equal_studies(studies: list[tuple[str, int]]) -> None:
    batch = collate_pairs([item(study, [[k] for k in range(count)], [0] * count) for study, count in studies])
    names = [study for study, _ in studies]
    numbers = batch["study"].tolist()
    assert [[a == b for b in numbers] for a in numbers] == [[a == b for b in names] for a in names]
    assert torch.bincount(batch["sentence_image"]).tolist() == [count for _, count in studies]


def test_prepared_batches_are_what_monais_engines_pass_on() -> None:
    batch = collate_pairs([item("a", [[5, 6]], [1]), item("b", [[7]], [2])])
    image, pairs, positional, keywords = prepare_pairs(batch, "cpu", False, extra="ignored")
    assert torch.equal(image, batch["image"])
    assert set(pairs) == {"study", "sentence_image", "sentence_hash"}
    assert positional == ()
    assert set(keywords) == {"token_ids", "attention_mask", "sentence_row"}


def test_items_carry_the_token_ids_and_hashes_of_their_own_sentences(store: Path, tmp_path: Path) -> None:
    datalist = str(store / "datalist.json")
    text_model = prepare_text_model(str(tmp_path / "text_model"), None, datalist, SMALL_BERT)
    items = tokenized_pairs(datalist, "validation", ["PA"], text_model, max_tokens=6)
    listed = json.loads((store / "datalist.json").read_text())["validation"]
    assert [one["study"] for one in items] == [one["study"] for one in listed]
    for one, original in zip(items, listed, strict=True):
        assert one["token_ids"] == [tokenize([sentence], text_model, 6)[0] for sentence in original["sentences"]]
        assert one["sentence_hash"] == [sentence_hash(sentence) for sentence in original["sentences"]]
        assert max(map(len, one["token_ids"])) <= 6


def test_no_items_are_no_batch() -> None:
    with pytest.raises((ValueError, RuntimeError)):
        collate_pairs([])
