"""Rule packs are data that clinicians may edit, and what is wrong in one is said in a sentence."""

import re
from itertools import product
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.errors import InputError
from preprocessing.labels import label_report
from preprocessing.lexicon import ROLE, Corrections, Meaning, Node, RulePack, rule_pack, spelt_out
from preprocessing.rule_files import RULES


@pytest.mark.parametrize(
    ("phrase", "spellings"),
    [
        ("edema", {"edema"}),
        ("opacit(y|ies)", {"opacity", "opacities"}),
        ("effusion(s)", {"effusion", "effusions"}),
        ("(left |) lung", {"left lung", "lung"}),
        ("(small |large |)(pleural |)effusion(s)", {
            f"{a}{b}effusion{c}" for a, b, c in product(("small ", "large ", ""), ("pleural ", ""), ("", "s"))
        }),
        ("(a(b|c)|d) e", {"ab e", "ac e", "d e"}),
        ("X-ray  of / IT'S", {"x ray of / it's"}),
        ("(a)(b)", {"", "a", "b", "ab"} - {""}),
        ("air - fluid", {"air - fluid"}),
    ],
)  # fmt: skip
def test_the_notation_stands_for_every_spelling(phrase: str, spellings: set[str]) -> None:
    found = spelt_out(phrase)
    assert set(found) == spellings
    assert len(found) == len(spellings)


@pytest.mark.parametrize("phrase", ["a (b", "a b)", "((a)", "a)(b"])
def test_parentheses_have_to_match(phrase: str) -> None:
    with pytest.raises(InputError, match="parentheses"):
        spelt_out(phrase, "file.yaml: Edema")


def test_a_phrase_that_stands_for_too_many_is_refused() -> None:
    with pytest.raises(InputError, match="fewer"):
        spelt_out(" ".join(["(a|b|c|d|e|f|g|h|i|j)"] * 5))


def test_a_word_with_one_error_is_the_word_that_was_meant() -> None:
    corrections = Corrections(["pneumothorax", "effusion"], ["diffusion", "infusion"])
    for wrong in ("pnuemothorax", "pneumothorx", "pneumothoraxx", "pneumothirax"):
        assert corrections[wrong] == "pneumothorax"
    for other in ("pneumonia", "pnuemothorx", "diffusion", "infusion", "heart", "x" * 10_000):
        assert corrections[other] == other


@given(st.lists(st.text("abcdefgh", min_size=6, max_size=9), unique=True), st.text("abcdefgh", max_size=9))
def test_corrections_are_those_of_a_search_through_all_words(words: list[str], wrong: str) -> None:
    def is_near(word: str) -> bool:
        """Whether one letter was left out, added, replaced or swapped with the next."""
        if wrong == word:
            return True
        edits = {wrong[:i] + wrong[i + 1 :] for i in range(len(wrong))}
        edits |= {wrong[:i] + c + wrong[i:] for i in range(len(wrong) + 1) for c in "abcdefgh"}
        edits |= {wrong[:i] + c + wrong[i + 1 :] for i in range(len(wrong)) for c in "abcdefgh"}
        edits |= {wrong[:i] + wrong[i + 1] + wrong[i] + wrong[i + 2 :] for i in range(len(wrong) - 1)}
        return word in edits

    near = [word for word in words if is_near(word)]
    expected = near[0] if len(near) == 1 and len(wrong) >= 6 and wrong not in words else wrong
    assert Corrections(words, words)[wrong] == expected


def meaning_of(words: str, pack: RulePack) -> Meaning:
    node = Node(children=pack.tree)
    for word in words.split():
        assert node.children
        node = node.children[word]
    assert node.meaning
    return node.meaning


def test_every_phrase_of_the_built_in_rules_is_used_and_leads_where_it_says() -> None:
    pack = rule_pack()
    content = yaml.load(RULES.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    for name, phrases in content["observations"].items():
        for phrase in phrases:
            for words in spelt_out(phrase):
                assert name in meaning_of(words, pack).observations, words
    for role, phrases in (content["cues"] | content["grammar"]).items():
        for words in (words for phrase in phrases for words in spelt_out(phrase)):
            assert meaning_of(words, pack).roles & ROLE[role], words
    for structure, part in content["structures"].items():
        for values in part["states"].values():
            assert set(values) <= {*pack.observations, "Edema Severity"}, structure


def written(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(content, encoding="utf-8")
    return path


def test_a_hospital_adds_phrases_observations_and_cues(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
version: st elsewhere 3
observations:
  Pneumothorax: [ptx sign, air(s) rim]
  Scoliosis: [scoliosis, curved spine]
not_pathology: [Scoliosis]
cues:
  negation: [bar]
""",
    )
    pack = rule_pack(path)
    labels = label_report("FINDINGS: Air rim at the apex. Curved spine. Bar effusion.", pack=pack)
    assert labels.values == {"Pneumothorax": 1, "Scoliosis": 1, "Pleural Effusion": 0}
    assert label_report("FINDINGS: Curved spine.", pack=pack).values == {"Scoliosis": 1, "No Finding": 1}
    assert pack.version.startswith(f"{rule_pack().version} + st elsewhere 3 (")
    assert "Scoliosis" not in rule_pack().observations


def test_a_phrase_that_a_hospital_lists_leaves_its_old_place(tmp_path: Path) -> None:
    path = written(tmp_path, "version: 1\nobservations:\n  Edema: [vascular congestion]\nother_meanings: [ptx]\n")
    labels = label_report("FINDINGS: Vascular congestion. PTX.", pack=rule_pack(path))
    assert dict(labels.values) == {"Edema": 1}
    assert label_report("FINDINGS: Vascular congestion. PTX.").values == {"Pneumothorax": 1}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("version: [", "YAML"),
        ("- a list", "valid dictionary"),
        ("observations: {}", "version: Field required"),
        ("version: 1\nobservations: [Edema]", "observations"),
        ("version: 1\nobservations: {Edema: [(a]}", "parentheses"),
        ("version: 1\ncues: {denial: [nix]}", "denial"),
        ("version: 1\nstatements: [{phrases: [all well], says: {Healthy: 1}}]", "Healthy"),
        ("version: 1\nstatements: [{phrases: [all well], says: {Edema: maybe}}]", "statements: 0: says: Edema"),
        ("version: 1\nstates: {normal: [fair], enlarged: [fair]}", "fair"),
        ("version: 1\nobservation: {Edema: [wet lungs]}", "observation"),
        ("version: 1\nobservations: {Pneumothorax: ptx sign}", "Pneumothorax"),
        ("version: 1\nobservations: {No Finding: [all well]}", "No Finding"),
        ("version: 1\nimplies: {Nodule: [Masss]}", "Masss"),
        ("version: 1\nimplies: {Nodule: Mass}", "implies: Nodule"),
        ("version: 1\nsections: wet_read", "sections"),
        ("version: 1\nnot_pathology: [Nodul]", "Nodul"),
        ("version: 1\nstatements: [{phrases: [all well], says: {Edema: 300}}]", "Edema"),
        ("version: 1\nstructures: {heart: {states: {enormous: {Cardiomegaly: 1}}}}", "heart"),
        ("version: [1]", "version"),
    ],
)
def test_a_wrong_file_is_told_in_one_sentence(tmp_path: Path, content: str, told: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InputError, match=re.escape(told)) as caught:
        rule_pack(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    first = rule_pack(written(tmp_path, "version: 1\nobservations: {Edema: [wet lungs]}"))
    second = rule_pack(written(tmp_path, "version: 1\nobservations: {Edema: [moist lungs]}"))
    assert first.version != second.version
    assert label_report("FINDINGS: Moist lungs.", pack=second).values == {"Edema": 1}


def test_a_missing_or_unreadable_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        rule_pack(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"version: \xff\xfe\x00")
    with pytest.raises(InputError, match=r"latin\.yaml"):
        rule_pack(tmp_path / "latin.yaml")
