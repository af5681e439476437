"""Free-text reports of synthetic studies, with what each sentence speaks of.

Part of the phantom generator (see `phantoms`). The wording lives in `rules/phantom_phrases.yaml`; sections, headings
and layout vary by house style, as reports from several hospitals do.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

from preprocessing.phantoms.canvas import Box
from preprocessing.phantoms.difficulty import LABELS
from preprocessing.phantoms.plan import Finding

PATHOLOGIES = tuple(label for label in LABELS if label not in ("No Finding", "Support Devices"))


@dataclass(frozen=True)
class Statement:
    """One sentence of FINDINGS or IMPRESSION.

    Args:
        text: as in the report, white space aside.
        section: "findings" or "impression".
        labels: label names that it speaks of, perhaps none.
        status: "positive", "negative", "uncertain" or "none".
        box: (row0, col0, row1, col1) in pixels of the frontal view, end exclusive, of what it speaks of.
    """

    text: str
    section: str
    labels: tuple[str, ...]
    status: str
    box: Box | None = None


@dataclass(frozen=True)
class Report:
    """A report's text, and its sentences in the order in which they stand in it."""

    text: str
    statements: tuple[Statement, ...]

    def label_values(self) -> dict[str, int | None]:
        """What the sentences say of each label: 1, 0, -1 (uncertain) or None (nothing); positive beats uncertain."""
        said = {label: {s.status for s in self.statements if label in s.labels} for label in LABELS}
        values: dict[str, int | None] = {
            label: next((v for s, v in _VALUES if s in said[label]), None) for label in LABELS
        }
        values["No Finding"] = int(not any(values[label] in (1, -1) for label in PATHOLOGIES))
        return values


_VALUES = (("positive", 1), ("uncertain", -1), ("negative", 0))


@cache
def phrases() -> Mapping[str, Any]:
    """The wording, as read from `rules/phantom_phrases.yaml`."""
    source = files("preprocessing").joinpath("rules/phantom_phrases.yaml").read_text(encoding="utf-8")
    loaded: Mapping[str, Any] = yaml.safe_load(source)
    return loaded


def write_report(
    random: np.random.Generator,
    findings: Sequence[Finding],
    boxes: Sequence[Box | None],
    views: str,
    facts: Mapping[str, str],
) -> Report:
    """The report of a study.

    Args:
        random: decides wording and layout.
        findings: what the radiologist is to mention.
        boxes: place of each finding, as long as `findings`.
        views: "pa", "ap" or "both".
        facts: `age`, `person`, `radiologist`, `referrer`, `patient`, `record`, `birth`, `accession`, `institution`.
    """
    body = [*_body(random, findings, boxes)]
    summary = _summary(random, findings, boxes)
    if random.random() < 0.1:  # some stop at the findings, some hold nothing but a summary
        summary = []
    elif random.random() < 0.08:
        body = []
    # A report that says nothing of a finding cannot label it, so a lone summary names them all.
    if not body:
        summary = [
            replace(s, section="impression") for s in _mentions(random, findings, boxes, "impression")
        ] or summary
    text = _lay_out(random, body, summary, views, facts)
    return Report(text, (*body, *summary))


def _pick(random: np.random.Generator, options: Sequence[str]) -> str:
    return str(options[int(random.integers(len(options)))])


def _sentence(template: str, words: Mapping[str, str]) -> str:
    text = template.format_map(words)
    # "a" before a vowel, since the size is filled in blindly
    for vowel in "aeio":
        text = text.replace(f" a {vowel}", f" an {vowel}").replace(
            f"A {vowel}", f"An {vowel}", 1 if text.startswith("A ") else 0
        )
    return text[0].upper() + text[1:]


def _words(random: np.random.Generator, finding: Finding, template: str) -> dict[str, str]:
    sizes = phrases()["size_words"].get(finding.label, {}).get(finding.size, [""])
    size = _pick(random, sizes)
    if finding.label == "Cardiomegaly":  # an adjective, or an adverb before "enlarged"
        size = sizes[1] if "{size} enlarged" in template else sizes[0]
    grade = _pick(random, phrases()["grade_words"][finding.grade]) if finding.grade else ""
    return {
        "side": finding.side,
        "zone": finding.zone,
        "size": size,
        "grade": grade,
        "distance": f"{finding.distance:.0f}",
    }


def _templates(finding: Finding, section: str) -> Sequence[str]:
    wording = phrases()["findings"][finding.label]
    if finding.label == "Support Devices":
        chosen = wording[finding.kind]
    elif not finding.certain:
        chosen = wording["uncertain"]
    elif section == "impression":
        chosen = wording["impression"]
    else:
        chosen = wording["positive"]
        chosen = chosen[finding.grade] if finding.label == "Edema" else chosen
    return list(chosen)


def _mentions(
    random: np.random.Generator, findings: Sequence[Finding], boxes: Sequence[Box | None], section: str
) -> list[Statement]:
    statements = []
    for finding, box in zip(findings, boxes, strict=True):
        template = _pick(random, _templates(finding, section))
        text = _sentence(template, _words(random, finding, template))
        status = "positive" if finding.certain else "uncertain"
        statements.append(Statement(text, section, (finding.label,), status, box if finding.drawn else None))
    return statements


def _body(random: np.random.Generator, findings: Sequence[Finding], boxes: Sequence[Box | None]) -> list[Statement]:
    """Sentences of FINDINGS: every finding, most of what is absent, and things beside the point."""
    statements = _mentions(random, findings, boxes, "findings")
    absent = [label for label in PATHOLOGIES if not any(f.label == label for f in findings)]
    unsaid = [label for label in absent if random.random() < 0.85]
    for number in random.permutation(len(phrases()["joint_negative"])):
        joint = phrases()["joint_negative"][int(number)]
        if set(joint["labels"]) <= set(unsaid) and random.random() < 0.6:
            statements.append(Statement(joint["text"], "findings", tuple(joint["labels"]), "negative"))
            unsaid = [label for label in unsaid if label not in joint["labels"]]
    for label in unsaid:
        statements.append(
            Statement(_pick(random, phrases()["findings"][label]["negative"]), "findings", (label,), "negative")
        )
    if not any(f.label == "Support Devices" for f in findings) and random.random() < 0.3:
        text = _pick(random, phrases()["findings"]["Support Devices"]["negative"])
        statements.append(Statement(text, "findings", ("Support Devices",), "negative"))
    neutral = random.choice(phrases()["neutral"], int(random.integers(0, 3)), replace=False)
    statements += [Statement(str(text), "findings", (), "none") for text in neutral]
    return [statements[int(i)] for i in random.permutation(len(statements))]


def _summary(random: np.random.Generator, findings: Sequence[Finding], boxes: Sequence[Box | None]) -> list[Statement]:
    """Sentences of IMPRESSION: the findings once more, or that there are none."""
    ill = [(f, b) for f, b in zip(findings, boxes, strict=True) if f.label != "Support Devices"]
    if not ill:
        # A picture with a tube in it is not called normal.
        text = _pick(random, phrases()["normal_impression" if not findings else "unchanged_impression"])
        return [Statement(text, "impression", ("No Finding",), "positive")]
    order = [ill[int(i)] for i in random.permutation(len(ill))][:3]
    statements = _mentions(random, [f for f, _ in order], [b for _, b in order], "impression")
    if random.random() < 0.2:
        statements.append(Statement(_pick(random, phrases()["neutral_impression"]), "impression", (), "none"))
    return statements


_CASES: tuple[Callable[[str], str], ...] = (str.upper, str.upper, str.title, str.lower)


def _lay_out(
    random: np.random.Generator,
    body: Sequence[Statement],
    summary: Sequence[Statement],
    views: str,
    facts: Mapping[str, str],
) -> str:
    case = _CASES[int(random.integers(len(_CASES)))]
    own_line, numbered = random.random() < 0.4, random.random() < 0.3
    opening = [("examination", _pick(random, phrases()["examination"][views]))]
    opening += [("indication", _pick(random, phrases()["indication"]).format_map(facts))]
    for name, text, chance in (
        ("history", _pick(random, phrases()["history"]), 0.3),
        ("comparison", _pick(random, phrases()["comparison"]), 0.7),
        ("technique", _pick(random, phrases()["technique"][views]), 0.5),
    ):
        if random.random() < chance:
            opening.append((name, text))
    sections = [*opening, ("findings", " ".join(s.text for s in body))]
    items = [f"{n}. {s.text}" if numbered and len(summary) > 1 else s.text for n, s in enumerate(summary, 1)]
    sections.append(("impression", ("\n" if numbered else " ").join(items)))
    blocks = [_block(_heading(random, name, case), text, own_line) for name, text in sections if text]
    if random.random() < 0.03:
        blocks.append(_block(_heading(random, "addendum", case), _pick(random, phrases()["addendum"]), own_line))
    if random.random() < 0.1:
        blocks.insert(0, _pick(random, phrases()["preambles"]).format_map(facts))
    if random.random() < 0.3:
        blocks.append(_pick(random, phrases()["signatures"]).format_map(facts))
    return ("\n\n" if random.random() < 0.7 else "\n").join(blocks) + "\n"


def _heading(random: np.random.Generator, name: str, case: Callable[[str], str]) -> str:
    misspelt = random.random() < 0.02
    return case(_pick(random, phrases()["misspelt" if misspelt else "headings"][name]))


def _block(heading: str, text: str, own_line: bool) -> str:
    lines = [textwrap.fill(line, 88, break_on_hyphens=False) for line in text.split("\n")]
    return f"{heading}:{chr(10) if own_line else ' '}" + "\n".join(lines)
