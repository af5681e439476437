"""One file of reports with what the labeler read in it: the command line's `label`, for a radiologist to see why."""

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from preprocessing.errors import InputError
from preprocessing.headings import heading_vocabulary
from preprocessing.labels import Evidence, ReportLabels, label_names, labelled_parts, labels_of
from preprocessing.lexicon import RulePack, rule_pack
from preprocessing.report_sources import RejectedReport, read_reports
from preprocessing.rule_files import SEVERITY
from preprocessing.sections import Section, split_sections
from preprocessing.sentences import Sentence

MARKS = {1: ("+", "bold red"), 0: ("-", "green"), -1: ("?", "bold yellow")}
"""How a value is shown: before the observation, and as the style of the words that say it."""

_SEVERITY_STYLE = "bold magenta"


@dataclass(frozen=True)
class LabelledReport:
    """One report as it was read.

    Args:
        origin: the file, and where in it the report stands.
        text: the report, untouched.
        sections: its sections; they tile the text.
        sentences: of the sections that labels are read from.
        labels: what it says.
        pack: the rules that were used.
    """

    origin: str
    text: str
    sections: list[Section]
    sentences: list[Sentence]
    labels: ReportLabels
    pack: RulePack


def label_file(
    path: Path,
    rules: Path | None = None,
    headings: Path | None = None,
    on_reject: Callable[[RejectedReport], None] = lambda report: None,
) -> Iterator[LabelledReport]:
    """Label every report of one file, in any format that `ingest` takes.

    Args:
        path: the file.
        rules: a hospital's own rules (see `rules/observations.yaml`).
        headings: a hospital's own headings (see `rules/headings.yaml`).
        on_reject: called with each report that cannot be read.

    Raises:
        InputError: when the file has no report that can be read, or a file of rules is wrong.
    """
    pack = rule_pack(rules)
    vocabulary = heading_vocabulary(headings)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name one file of reports")
    found, rejected = 0, ""
    for report in read_reports(path):
        if isinstance(report, RejectedReport):
            rejected = rejected or report.detail
            on_reject(report)
            continue
        found += 1
        sections = split_sections(report.text, vocabulary)
        parts = labelled_parts(report.text, sections, pack)
        sentences = [sentence for _, part in parts for sentence in part]
        labels = labels_of(report.text, parts, pack)
        yield LabelledReport(report.origin, report.text, sections, sentences, labels, pack)
    if not found:
        raise InputError(f"{path}: holds no report that can be read: {rejected or 'it is empty'}")


def as_json(report: LabelledReport) -> str:
    """A report's labels, sections and evidence as one line of strict JSON; positions are those of its characters."""
    names = (*label_names(report.pack), SEVERITY)
    values: dict[str, Any] = {**report.labels.values, SEVERITY: report.labels.edema_severity}
    content = {
        "origin": report.origin,
        "rules": report.pack.version,
        "labels": {name: values.get(name) for name in names},
        "sections": [
            {"name": s.name, "heading": s.heading, "start": s.start, "text_start": s.text_start, "end": s.end}
            for s in report.sections
        ],
        "evidence": [evidence._asdict() for evidence in report.labels.evidence],
    }
    return json.dumps(content, allow_nan=False, ensure_ascii=False)


def print_report(report: LabelledReport, console: Console) -> None:
    """Print a report with its sections, the words that count marked, and below each sentence what they say.

    In a terminal by colour (red present, green absent, yellow uncertain), elsewhere in brackets.
    """
    console.rule(report.origin, align="left")
    evidence: defaultdict[int, list[Evidence]] = defaultdict(list)
    for said in report.labels.evidence:
        evidence[said.sentence_start].append(said)
    starts = [sentence.start for sentence in report.sentences]
    for section in report.sections:
        console.print(Text(f"[{section.name}] {section.heading}".rstrip(), style="bold"), soft_wrap=True)
        own = report.sentences[bisect_left(starts, section.text_start) : bisect_left(starts, section.end)]
        for sentence in own:
            _print_sentence(report.text, sentence, evidence[sentence.start], console)
        if not own and report.text[section.text_start : section.end].strip():
            words = " ".join(report.text[section.text_start : section.end].split())
            console.print(Text(f"  {words}", style="dim"), soft_wrap=True)
    console.print(Text("labels", style="bold"))
    for name in label_names(report.pack):
        if name in report.labels.values:
            mark, style = MARKS[report.labels.values[name]]
            console.print(Text(f"  {mark} {name}", style=style))
    if report.labels.edema_severity is not None:
        console.print(Text(f"  {report.labels.edema_severity} {SEVERITY}", style=_SEVERITY_STYLE))


def _print_sentence(text: str, sentence: Sentence, evidence: list[Evidence], console: Console) -> None:
    console.print(_marked(text, sentence, evidence, in_colour=console.is_terminal), soft_wrap=True)
    for said in evidence:
        mark = str(said.value) if said.observation == SEVERITY else MARKS[said.value][0]
        cue = "" if said.cue_start is None else f" because of {_words(text, said.cue_start, said.cue_end)!r}"
        words = _words(text, said.start, said.end)
        console.print(Text(f"      {mark} {said.observation}: {words!r}{cue}", style=_style(said)), soft_wrap=True)


def _marked(text: str, sentence: Sentence, evidence: list[Evidence], *, in_colour: bool) -> Text:
    """The sentence on one line, indented, with the words that count in colour or in brackets."""
    line = Text("  ")
    place = sentence.start
    for start, end in _disjoint([(said.start, said.end) for said in evidence]):
        style = _style(next(said for said in evidence if said.start <= start < said.end))
        line.append(_line(text[place:start]))
        words = _line(text[start:end])
        line.append(words if in_colour else f"[{words}]", style=style)
        place = end
    line.append(_line(text[place : sentence.end]))
    return line


def _style(said: Evidence) -> str:
    return _SEVERITY_STYLE if said.observation == SEVERITY else MARKS[said.value][1]


def _disjoint(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans in order, those that overlap joined."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return iter(joined)


def _line(text: str) -> str:
    """The same text on one line; blanks at its ends stay."""
    return text.replace("\r", " ").replace("\n", " ")


def _words(text: str, start: int, end: int | None) -> str:
    return " ".join(text[start:end].split())
