"""A batch holds each image once and the sentences of its report, and remembers who belongs to whom."""

import hashlib
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.errors import ConfigurationError
from local_mi.pairs import PairCollator, TokenizedPairs, prepare_pairs, tokenized_pairs
from local_mi.text import sentence_hash
from local_mi.text_models import prepare_text_model
from local_mi.tokens import TokenTable, tokenized_reports
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

SMALL_BERT = {"vocabulary_size": 200, "hidden_size": 8, "layers": 1, "heads": 1, "max_tokens": 24}
REPORTS = [
    ["There is an opacity.", "In the left zone.", "In the right zone.", "No opacity."],
    ["No opacity."],
    ["In the upper zone.", "There is an opacity.", "There is an opacity."],
]


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory, store: Path) -> str:
    directory = tmp_path_factory.mktemp("pairs") / "text_model"
    return prepare_text_model(str(directory), None, str(store / "datalist.json"), SMALL_BERT)


@pytest.fixture(scope="module")
def tables(text_model: str) -> dict[str, TokenTable]:
    return {name: tokenized_reports(REPORTS, text_model, name, 24, None) for name in ("sentence", "report-once")}


def item(report: int, study: str, number: int = 0, **more: Any) -> dict[str, Any]:
    image = torch.full((1, 2, 3), float(number))
    return {"image": image, "study": study, "patient": "p", "item": number, "report": report, **more}


def spans_of(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    """Token ids of each encoded sentence, found by a loop."""
    spans = batch["sentence_span"].tolist()
    return [batch["token_ids"][batch["token_span"] == span].tolist() for span in spans]


def tokens_of(text_model: str, sentences: list[str], encoding: str) -> list[list[int]]:
    tokenizer: Any = AutoTokenizer.from_pretrained(text_model)
    return [tokenizer(sentence, add_special_tokens=encoding == "sentence")["input_ids"] for sentence in sentences]


@pytest.mark.parametrize("encoding", ["sentence", "report-once"])
def test_all_sentences_follow_one_another_and_know_their_image(
    tables: dict[str, TokenTable], text_model: str, encoding: str
) -> None:
    collate = PairCollator(tables[encoding], "all", encode_all=True, seed=0)
    batch = collate([item(2, "a", 5), item(0, "b", 9, epoch=3), item(2, "a", 7)])
    sentences = [*REPORTS[2], *REPORTS[0], *REPORTS[2]]
    assert batch["image"][:, 0, 0, 0].tolist() == [5, 9, 7]
    assert batch["item"].tolist() == [5, 9, 7]
    assert batch["sentence_image"].tolist() == batch["report_image"].tolist() == [0] * 3 + [1] * 4 + [2] * 3
    hashes = [sentence_hash(sentence) for sentence in sentences]
    assert batch["sentence_hash"].tolist() == batch["report_hash"].tolist() == hashes
    assert batch["drawn"].tolist() == [True] * 10
    assert spans_of(batch) == tokens_of(text_model, sentences, encoding)
    assert len(batch["token_ids"]) == (5 if encoding == "sentence" else 2), "what repeats is encoded once"
    whole = {"token_ids", "attention_mask", "token_span", "span_tokens", "sentence_span", "sentence_image", "study"}
    assert {batch[key].dtype for key in whole | {"sentence_hash", "report_image", "report_hash", "item"}} == {
        torch.int64
    }


@pytest.mark.parametrize("encoding", ["sentence", "report-once"])
def test_one_drawn_sentence_is_encoded_alone_or_with_all_of_its_report(
    tables: dict[str, TokenTable], text_model: str, encoding: str
) -> None:
    items = [item(k, study, k, epoch=4) for k, study in enumerate("abc")]
    alone = PairCollator(tables[encoding], "one", encode_all=False, seed=1)(items)
    whole = PairCollator(tables[encoding], "one", encode_all=True, seed=1)(items)
    assert alone["drawn"].tolist() == [True] * 3
    assert alone["sentence_image"].tolist() == [0, 1, 2]
    assert whole["sentence_image"].tolist() == [0] * 4 + [1] + [2] * 3
    assert whole["sentence_image"][whole["drawn"]].tolist() == [0, 1, 2]
    assert torch.equal(whole["sentence_hash"][whole["drawn"]], alone["sentence_hash"])
    assert [spans_of(whole)[k] for k in whole["drawn"].nonzero().flatten()] == spans_of(alone)
    for key in ("report_image", "report_hash"):
        assert torch.equal(alone[key], whole[key])
        assert len(alone[key]) == 8
    drawn = dict(zip([sentence_hash(s) for report in REPORTS for s in report], sum(REPORTS, []), strict=True))  # noqa: RUF017
    sentences = [drawn[value] for value in alone["sentence_hash"].tolist()]
    assert all(sentence in report for sentence, report in zip(sentences, REPORTS, strict=True))
    assert spans_of(alone) == tokens_of(text_model, sentences, encoding)


def drawn_row(collate: PairCollator, study: str, epoch: int) -> int:
    batch = collate([item(0, study, epoch=epoch)])
    return batch["report_hash"].tolist().index(batch["sentence_hash"].item())


def test_every_sentence_is_drawn_as_often_over_epochs_and_over_studies(tables: dict[str, TokenTable]) -> None:
    """Chi-square of 800 draws of four: mean 3, variance 6."""
    collate = PairCollator(tables["sentence"], "one", encode_all=False, seed=7)
    over_epochs = [drawn_row(collate, "study", epoch) for epoch in range(800)]
    over_studies = [drawn_row(collate, f"study {k}", 0) for k in range(800)]
    for draws in (over_epochs, over_studies):
        counts = np.bincount(draws, minlength=4)
        assert ((counts - 200) ** 2 / 200).sum() < 3 + 4 * math.sqrt(6)
    assert np.corrcoef(over_epochs[:-1], over_epochs[1:])[0, 1] < 4 / math.sqrt(800)


def test_a_draw_depends_on_seed_epoch_and_study_alone(tables: dict[str, TokenTable]) -> None:
    """So two views of a study, another order, another batch and another process draw the same."""
    collate = PairCollator(tables["sentence"], "one", encode_all=False, seed=0)
    items = [item(0, "a", 0, epoch=2), item(2, "b", 1, epoch=2), item(0, "a", 2, epoch=2), item(0, "c", 3, epoch=5)]
    batch = collate(items)
    hashes = batch["sentence_hash"].tolist()
    assert hashes[0] == hashes[2]
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert pickle.loads(pickle.dumps(collate))(items[::-1])["sentence_hash"].tolist() == hashes[::-1]
    assert [collate([one])["sentence_hash"].item() for one in items] == hashes
    loader = DataLoader(items, batch_size=2, num_workers=2, collate_fn=collate)  # type: ignore[arg-type]
    assert [value for part in loader for value in part["sentence_hash"].tolist()] == hashes
    other = PairCollator(tables["sentence"], "one", encode_all=False, seed=1)
    assert [drawn_row(collate, "a", k) for k in range(20)] != [drawn_row(other, "a", k) for k in range(20)]
    digests = [hashlib.blake2b(f"0/{epoch}/a".encode(), digest_size=8).digest() for epoch in range(20)]
    assert [drawn_row(collate, "a", epoch) for epoch in range(20)] == [digest[-1] % 4 for digest in digests]


def test_validation_takes_every_sentence(tables: dict[str, TokenTable]) -> None:
    """Its items have no epoch."""
    batch = PairCollator(tables["sentence"], "one", encode_all=False, seed=0)([item(0, "a"), item(2, "b")])
    assert batch["drawn"].tolist() == [True] * 7
    assert len(batch["sentence_image"]) == 7


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text("ab", max_size=3), st.integers(0, 2)), min_size=1, max_size=8))
def test_study_numbers_are_equal_exactly_for_equal_studies(
    tables: dict[str, TokenTable], studies: list[tuple[str, int]]
) -> None:
    collate = PairCollator(tables["sentence"], "all", encode_all=True, seed=0)
    batch = collate([item(report, study) for study, report in studies])
    names = [study for study, _ in studies]
    numbers = batch["study"].tolist()
    assert [[a == b for b in numbers] for a in numbers] == [[a == b for b in names] for a in names]
    assert torch.bincount(batch["sentence_image"]).tolist() == [len(REPORTS[report]) for _, report in studies]


def test_labels_travel_where_items_have_them(tables: dict[str, TokenTable]) -> None:
    collate = PairCollator(tables["sentence"], "all", encode_all=True, seed=0)
    nan = float("nan")
    batch = collate([item(0, "a", label=[1.0, nan]), item(1, "b", label=[nan, -1.0])])
    torch.testing.assert_close(batch["label"], torch.tensor([[1, nan], [nan, -1]]), equal_nan=True)
    assert "label" in prepare_pairs(batch, "cpu", False)[1]
    assert "label" not in collate([item(0, "a")])


def test_prepared_batches_are_what_monais_engines_pass_on(tables: dict[str, TokenTable]) -> None:
    batch = PairCollator(tables["sentence"], "one", encode_all=True, seed=0)([item(0, "a"), item(1, "b")])
    image, pairs, positional, keywords = prepare_pairs(batch, "cpu", False, extra="ignored")
    assert torch.equal(image, batch["image"])
    assert set(pairs) == {"study", "sentence_image", "sentence_hash", "drawn", "report_image", "report_hash"}
    assert positional == ()
    assert set(keywords) == {
        *("token_ids", "attention_mask", "token_span", "span_tokens", "sentence_span", "sentence_image", "drawn")
    }
    assert all(torch.equal(value, batch[key]) for key, value in {**pairs, **keywords}.items())


@pytest.mark.parametrize("shape", [(1, 2, 4), (3, 2, 3), (2, 3), (1, 1, 2, 3)])
def test_an_image_of_another_shape_is_named_by_its_item(tables: dict[str, TokenTable], shape: tuple[int, ...]) -> None:
    collate = PairCollator(tables["sentence"], "all", encode_all=True, seed=0)
    with pytest.raises(ConfigurationError) as refusal:
        collate([item(0, "a", 3), item(1, "b", 41) | {"image": torch.zeros(shape)}])
    assert "item 41 " in str(refusal.value)
    assert str(shape) in str(refusal.value)
    assert "(1, 2, 3)" in str(refusal.value)


def test_colour_images_alone_are_refused_too(tables: dict[str, TokenTable]) -> None:
    collate = PairCollator(tables["sentence"], "all", encode_all=True, seed=0)
    with pytest.raises(ConfigurationError, match=r"item 8 .*\(3, 2, 2\) where \(1, 2, 2\)"):
        collate([item(0, "a", 8) | {"image": torch.zeros(3, 2, 2)}])


def test_an_unknown_choice_of_sentences_is_refused(tables: dict[str, TokenTable]) -> None:
    with pytest.raises(ConfigurationError, match="'some' is unknown; choose one or all"):
        PairCollator(tables["sentence"], "some", encode_all=True, seed=0)


def pairs_of(datalist: Path, text_model: str, **changes: Any) -> TokenizedPairs:
    arguments: dict[str, Any] = {"split": "validation", "views": ["PA"], "label_names": None, "cache_dir": None}
    return tokenized_pairs(
        str(datalist), text_model=text_model, encoding="sentence", max_tokens=24, **arguments | changes
    )


def test_items_know_their_report_and_hold_none_of_its_words(store: Path, text_model: str) -> None:
    pairs = pairs_of(store / "datalist.json", text_model)
    listed = json.loads((store / "datalist.json").read_text())["validation"]
    assert [one["study"] for one in pairs.items] == [one["study"] for one in listed]
    assert [one["item"] for one in pairs.items] == list(range(len(listed)))
    assert {key for one in pairs.items for key in one} == {"image", "study", "patient", "item", "report"}
    for one, original in zip(pairs.items, listed, strict=True):
        rows, _ = pairs.tokens.sentences_of(np.array([one["report"]]))
        expected = [sentence_hash(sentence) for sentence in original["sentences"]]
        assert pairs.tokens.sentence_hash[rows].tolist() == expected


def write_views(folder: Path) -> Path:
    """Study a has two views and no known label on one, b is lateral, c has no sentence, d no label."""
    np.save(folder / "0.npy", np.zeros((4, 4), np.uint8))
    rows = [
        ("a", "PA", REPORTS[0], [1, 0]),
        ("b", "LATERAL", REPORTS[1], [1, None]),
        ("c", "PA", [], [0, 0]),
        ("a", "AP", REPORTS[0], [None, -1]),
        ("d", "PA", REPORTS[2], None),
    ]
    items = [
        {"image": "0.npy", "study": study, "patient": study, "view": view, "sentences": sentences}
        | ({} if label is None else {"label": label})
        for study, view, sentences, label in rows
    ]
    path = folder / "datalist.json"
    path.write_text(json.dumps({"label_names": ["Upper", "Lower"], "training": items}), encoding="utf-8")
    return path


def test_views_of_a_study_share_its_report_and_numbers_count_all_items(tmp_path: Path, text_model: str) -> None:
    pairs = pairs_of(write_views(tmp_path), text_model, split="training", views=["PA", "AP"])
    assert [(one["study"], one["item"], one["report"]) for one in pairs.items] == [
        ("a", 0, 0),
        ("a", 3, 0),
        ("d", 4, 1),
    ]
    assert len(pairs.tokens.report_start) == 3


def test_labels_come_by_name_and_what_is_not_known_is_nan(tmp_path: Path, text_model: str) -> None:
    pairs = pairs_of(write_views(tmp_path), text_model, split="training", views=None, label_names=["Lower", "Upper"])
    found = torch.tensor([one["label"] for one in pairs.items])
    nan = float("nan")
    expected = torch.tensor([[0, 1], [nan, 1], [-1, nan], [nan, nan]])  # a, b, a, d
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("views", "names", "message"),
    [
        (None, ["Upper", "Middle"], "Middle: not a label of"),
        (["LATERAL", "PA"], ["Lower", "Upper"], None),
        (["AP", "LATERAL"], ["Lower"], "Lower: no known value"),
    ],
)
def test_labels_that_cannot_be_had_are_refused_at_once(
    tmp_path: Path, text_model: str, views: list[str] | None, names: list[str], message: str | None
) -> None:
    datalist = write_views(tmp_path)
    if message is None:
        assert len(pairs_of(datalist, text_model, split="training", views=views, label_names=names).items) == 3
        return
    with pytest.raises(ConfigurationError, match=message):
        pairs_of(datalist, text_model, split="training", views=views, label_names=names)


def test_kept_token_ids_make_the_same_pairs(tmp_path: Path, store: Path, text_model: str) -> None:
    made, read = (pairs_of(store / "datalist.json", text_model, cache_dir=str(tmp_path)) for _ in range(2))
    assert made.items == read.items
    collates = [PairCollator(pairs.tokens, "all", encode_all=True, seed=0) for pairs in (made, read)]
    items = [one | {"image": torch.zeros(1, 2, 2)} for one in made.items]
    first, second = (collate(items) for collate in collates)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_no_items_are_no_batch(tables: dict[str, TokenTable]) -> None:
    with pytest.raises((ValueError, IndexError, RuntimeError)):
        PairCollator(tables["sentence"], "all", encode_all=True, seed=0)([])
