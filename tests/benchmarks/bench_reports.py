"""Reports to sections, sentences and labels, here and by tools that a user would pick instead; prints Markdown tables.

    bench_reports.py [FOLDER] [--others PYTHON]

FOLDER holds text files; without it, and without the reports of Open-i beside the checkout, synthetic reports are made.
PYTHON is an interpreter with medspacy installed, which needs a NumPy of its own; it runs `other_labelers.py` on the
same sentences. A rate is reports a second of processor time on one core, the best of several rounds; memory is the peak
of the process.
"""

import argparse
import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from preprocessing.assertions import remembered_assertions
from preprocessing.labels import label_report, labelled_parts, labels_of
from preprocessing.lexicon import rule_pack
from preprocessing.phantoms import DIFFICULTIES, write_phantoms
from preprocessing.report_reading import ReportRules, read_report
from preprocessing.sections import section_spans, split_sections
from preprocessing.sentences import split_sentences
from preprocessing.text_identifiers import find_identifiers

OPEN_I = Path(__file__).parents[3] / "shared" / "data" / "openi" / "txt"
ROUNDS = 7
OTHER_REPORTS = 300
"""Reports that the other tools are timed on; they are slow."""


def texts_of(folder: Path | None) -> list[str]:
    if folder is None and OPEN_I.is_dir():
        folder = OPEN_I
    if folder is not None:
        return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))]
    with tempfile.TemporaryDirectory() as made:
        write_phantoms(Path(made) / "p", studies=300, size=64, seed=0, difficulty=DIFFICULTIES["easy"])
        return [path.read_text(encoding="utf-8") for path in sorted((Path(made) / "p").rglob("*.txt"))]


def best(run: Callable[[], object]) -> float:
    """Seconds of processor time, the best of several rounds that begin without remembered sentences."""
    times = []
    for _ in range(ROUNDS):
        remembered_assertions.cache_clear()
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return min(times)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def own_rates(texts: Sequence[str]) -> dict[str, float]:
    """Reports a second of each step and of all of them."""
    pack, rules = rule_pack(), ReportRules()
    parts = [labelled_parts(text, split_sections(text), pack) for text in texts]
    steps: dict[str, Callable[[], object]] = {
        "sections": lambda: [split_sections(text) for text in texts],
        "sentences": lambda: [
            split_sentences(text[start:end], start)
            for text, part in zip(texts, spans, strict=True)
            for start, end in part
        ],
        "labels": lambda: [labels_of(text, part, pack) for text, part in zip(texts, parts, strict=True)],
        "sections, sentences and labels": lambda: [label_report(text, pack=pack) for text in texts],
        "identifiers": lambda: [find_identifiers(text) for text in texts],
        "all that ingest does with a report": lambda: [read_report(text, (), rules) for text in texts],
    }
    spans = [[(a, b) for _, a, b in section_spans(text, split_sections(text), pack.groups)] for text in texts]
    return {name: len(texts) / best(step) for name, step in steps.items()}


def other_rates(texts: Sequence[str], python: Path) -> dict[str, float]:
    """The same of other tools on the words that labels are read from, and ours on the same reports in the same run."""
    pack = rule_pack()
    bodies = [
        "\n".join(text[start:end] for _, start, end in section_spans(text, split_sections(text), pack.groups))
        for text in texts[:OTHER_REPORTS]
    ]
    command = [str(python), str(Path(__file__).with_name("other_labelers.py"))]
    done = subprocess.run(command, input=json.dumps(bodies), capture_output=True, text=True, check=True)
    rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    rates["sentences, here"] = len(bodies) / best(lambda: [split_sentences(body) for body in bodies])
    rates["sentences and labels, here"] = len(bodies) / best(lambda: [label_report(body, pack=pack) for body in bodies])
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--others", type=Path, metavar="PYTHON")
    arguments = parser.parse_args()
    texts = texts_of(arguments.folder)
    length = sum(map(len, texts)) / len(texts)
    print(f"\n{len(texts)} reports of {length:.0f} characters on average\n")
    print("| step | reports a second on one core |\n|---|---|")
    for name, rate in own_rates(texts).items():
        print(f"| {name} | {rate:,.0f} |")
    print(f"\npeak memory {peak():.0f} MiB")
    if arguments.others:
        rates = other_rates(texts, arguments.others)
        memory = rates.pop("memory_mib")
        print("\n| tool, on the same texts in the same run | reports a second on one core |\n|---|---|")
        for name, rate in rates.items():
            print(f"| {name} | {rate:,.0f} |")
        print(f"\npeak memory of the other tools {memory:.0f} MiB")


if __name__ == "__main__":
    main()
