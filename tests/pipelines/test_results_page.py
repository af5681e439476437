"""The page of results: what stands on it, what does not, and that its figures and cases are those of the data."""

import base64
import dataclasses
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.evaluation import evaluate_scores
from local_mi.scores import Scores
from made_page import NEVER, SENTENCE, STRANGE, made_cases, made_scores, write_page
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from pipelines.case_gallery import OUTCOMES, Case, case_pictures, choose_cases, own_sentence
from pipelines.ground import GroundingModel
from pipelines.results_page import write_study_page
from pipelines.results_plots import (
    EfficiencyPoint,
    calibration_plot,
    label_efficiency_plot,
    precision_recall_plot,
    roc_plot,
    undrawn_labels,
    undrawn_points,
)
from preprocessing.lexicon import rule_pack

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """Tags with attributes, the text that is read, tables as rows of texts, and the style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text, self.style = "", ""
        self.tables: list[list[list[str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "tags are nested as they should be"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += f"{data} "

    def images(self) -> list[bytes]:
        uris = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        return [base64.b64decode(uri.partition(";base64,")[2], validate=True) for uri in uris]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_page(tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


# What stands on it


def test_every_section_is_in_the_contents(page: Page) -> None:
    anchors = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"#{anchor}" for anchor in anchors]
    expected = ["facts", "metrics", "chosen", "roc", "precision-recall", "calibration", "differences", "cases"]
    assert anchors == expected


def test_it_says_what_it_is_for_and_what_blanks_became(page: Page) -> None:
    assert ("html", {"lang": "en"}) in page.tags
    assert page.text.count("Research only, not for clinical use") == 2
    assert "Unmentioned left out" in page.text
    assert "Unmentioned counted as absent" in page.text


def test_metrics_stand_in_their_rows_with_intervals(page: Page) -> None:
    test = made_scores(120)
    metrics = evaluate_scores(test, made_scores(80, 1), resamples=20, seed=0)
    auroc = next(m for m in metrics if (m.blanks, m.label, m.metric) == ("masked", "Edema", "auroc"))
    header, edema = page.tables[0][:2]
    cell = edema[header.index("AUROC ")]
    assert cell.split() == f"{auroc.value:.3f} {auroc.low:.3f} to {auroc.high:.3f}".split()
    known = test.labels[:, 0] >= 0
    assert edema[1].strip() == str(known.sum())
    assert edema[2].strip() == str(int(test.labels[known, 0].sum()))


def test_what_is_undefined_is_a_dash_with_its_reason_in_words(page: Page) -> None:
    row = next(row for row in page.tables[0] if row[0].startswith(NEVER))
    assert row[0].split(maxsplit=1)[1].strip() == "no positive row"
    assert {cell.strip() for cell in row[3:]} == {"—"}
    of_differences = page.tables[-1]
    assert of_differences[2][4].split(maxsplit=1) == ["—", "no positive row "]
    assert of_differences[1][4:] == ["+0.050 \N{MINUS SIGN}0.050 to +0.150 ", "< 0.001 ", "< 0.001 "]


def test_thousands_are_set_apart(page: Page) -> None:
    assert page.tables[-1][1][2] == "1,234 "


def test_labels_without_a_curve_are_named_below_the_figures(page: Page) -> None:
    sentence = rf"Without a curve, since studies with the finding, or .* missing: {NEVER}\."
    assert len(re.findall(sentence, page.text)) == 2


def test_names_are_text_and_not_markup(page: Page) -> None:
    assert not {"b", "i", "studies"} & {tag for tag, _ in page.tags}
    assert page.text.count(STRANGE) > 4
    assert "Evaluation of <i>one</i> classifier" in page.text


def test_nothing_is_fetched_from_elsewhere(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name in {"src", "href", "srcset", "data", "poster", "action"} & set(attributes):
            assert attributes[name].startswith(("data:image/", "#")), (tag, name)
        assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in page.style
    assert "url(" not in page.style
    for image in page.images():
        if image.startswith(b"<?xml"):
            assert set(re.findall(rb"href=\"(.)", image)) <= {b"#"}
            assert not re.search(rb"url\((?!#)|<(image|script|foreignObject)", image)


def test_every_image_has_a_text_and_is_whole(page: Page) -> None:
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    images = page.images()
    assert len(images) == 3 + len(made_cases(made_scores(120))) - 1
    for image in images:
        ET.fromstring(image) if image.startswith(b"<?xml") else Image.open(io.BytesIO(image)).load()


def test_the_same_data_gives_the_same_bytes(html: str, tmp_path: Path) -> None:
    assert write_page(tmp_path / "again.html") == html
    assert [path.name for path in tmp_path.iterdir()] == ["again.html"]


def test_neither_ids_nor_paths_nor_words_of_a_report_are_on_it(html: str, page: Page) -> None:
    everything = html.encode() + b"".join(page.images())
    for private in (rb"study\d", rb"patient\d", rb"images/", rb"\bab\d{5}", b"Doe", b"pulmonary edema"):
        assert not re.search(private, everything), private
    assert "Edema, own sentence" in page.text
    assert "label as prompt" in page.text


@pytest.mark.parametrize("show", [True, False])
def test_sentences_are_on_it_where_the_caller_asks(show: bool, tmp_path: Path) -> None:
    nothing: dict[str, Any] = {name: [] for name in ("rows", "points", "comparisons", "sanity")}
    cases = made_cases(made_scores(40))
    given = nothing | {"title": "Study", "facts": {}, "quantity": "", "cases": cases, "show_sentences": show}
    write_study_page(tmp_path / "p.html", **given)
    assert (SENTENCE in Page((tmp_path / "p.html").read_text(encoding="utf-8")).text) == show


def test_a_case_without_a_picture_says_so_in_its_place(page: Page) -> None:
    assert "Image not found." in page.text
    assert "Case 2: " in page.text


def test_a_page_without_anything_but_scores_of_one_class_is_written(tmp_path: Path) -> None:
    nothing = dataclasses.replace(made_scores(20), labels=np.zeros((20, 3)))
    text = Page(write_page(tmp_path / "p.html", metrics=[], differences=[], cases=[], test=nothing, scaled=None)).text
    assert text.count(f"missing: Edema, {STRANGE}, {NEVER}.") == 3


def test_a_study_page_has_its_tables_and_its_figure(tmp_path: Path) -> None:
    point = {"arm": "local <MI>", "training": "frozen", "fraction": 0.01}
    write_study_page(
        tmp_path / "study.html",
        title="Study",
        facts={"Seeds": "3"},
        rows=[
            point | {"studies": 12345, "value": 0.8, "low": 0.7, "high": 0.9, "reason": ""},
            point | {"studies": 17, "value": float("nan"), "low": None, "high": None, "reason": "no positive row"},
        ],
        points=[EfficiencyPoint("local <MI>", "frozen", 0.01, 0.8, 0.7, 0.9)],
        quantity="mean AUROC",
        comparisons=[{"a": "local <MI>", "b": "random", "difference": 0.1, "low": 0.0, "high": 0.2, "p": 0.0001}],
        sanity=[{"name": "shuffled labels", "expected": "0.5", "found": "0.501", "verdict": "as expected"}],
        cases=[],
    )
    page = Page((tmp_path / "study.html").read_text(encoding="utf-8"))
    anchors = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert anchors == ["facts", "sanity", "results", "label-efficiency", "comparisons"]
    checks, results, comparisons = ([[cell.strip() for cell in row] for row in table] for table in page.tables)
    assert checks[1] == ["shuffled labels", "0.5", "0.501", "as expected"]
    assert results == [
        ["arm", "training", "fraction", "studies", "value"],
        ["local <MI>", "frozen", "1 %", "12,345", "0.800 0.700 to 0.900"],
        ["local <MI>", "frozen", "1 %", "17", "— no positive row"],
    ]
    assert comparisons[1] == ["local <MI>", "random", "+0.100 +0.000 to +0.200", "< 0.001"]
    assert len(page.images()) == 1


# Figures


def drawn(svg: str, axes: int, colour: str) -> np.ndarray:
    """The line of a colour in one of the axes, as (n, 2) of x and y; the axes go from -0.02 to 1.02 both ways."""
    group = ET.fromstring(svg).find(f".//{SVG}g[@id='axes_{axes}']")
    assert group is not None
    paths = [(path.get("d", ""), path.get("style", "")) for path in group.iter(f"{SVG}path")]
    corners = np.array(re.findall(r"[-\d.]+", paths[0][0]), float).reshape(-1, 2)
    line = next(d for d, style in paths if f"stroke: {colour.lower()}" in style and "1.6" in style)
    places = np.array(re.findall(r"[-\d.]+", line), float).reshape(-1, 2)
    left, top = corners.min(axis=0)
    right, bottom = corners.max(axis=0)
    return (places - [left, bottom]) / [right - left, top - bottom] * 1.04 - 0.02


@pytest.mark.parametrize("rows", [100, 30_000])
def test_the_areas_under_the_curves_are_those_of_scikit_learn(rows: int) -> None:
    scores = made_scores(rows, labels=("Edema",))
    curves = roc_plot(scores), precision_recall_plot(scores)
    counted = np.nan_to_num(scores.labels[:, 0], nan=0.0)
    for colour, truth in (("#0072B2", scores.labels[:, 0]), ("#D55E00", counted)):
        known = truth >= 0
        truth, said = truth[known], scores.probabilities[known, 0]
        x, y = drawn(curves[0], 1, colour).T
        assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(truth, said), abs=0.004)
        x, y = drawn(curves[1], 1, colour).T
        assert np.trapezoid(y, x) == pytest.approx(average_precision_score(truth, said), abs=0.004)


def test_a_large_archive_makes_no_heavy_page() -> None:
    scores = made_scores(30_000, labels=("Edema",))
    assert sum(len(plot(scores)) for plot in (roc_plot, precision_recall_plot)) < 150_000


def titles(svg: str) -> list[str]:
    texts = ET.fromstring(svg).iter(f"{SVG}text")
    return ["".join(text.itertext()) for text in texts]


def test_labels_without_both_classes_are_left_out_of_every_figure() -> None:
    scores = made_scores(60)
    assert undrawn_labels(scores) == [NEVER]
    for svg in (roc_plot(scores), precision_recall_plot(scores), calibration_plot(scores, scores)):
        assert "Edema" in titles(svg)
        assert STRANGE in titles(svg)
        assert NEVER not in titles(svg)


def test_the_reliability_curve_shows_what_was_observed_where_it_was_said() -> None:
    said = np.repeat([0.1, 0.5, 0.9], 20)
    truth = np.concatenate([np.arange(20) < 4, np.arange(20) < 10, np.arange(20) < 15]).astype(float)[:, None]
    ids = np.array([str(row) for row in range(60)])
    scores = Scores(("Edema",), ids, ids, ids, said[:, None], truth)
    svg = calibration_plot(scores, dataclasses.replace(scores, probabilities=scores.probabilities / 2))
    np.testing.assert_allclose(drawn(svg, 1, "#0072B2"), [[0.1, 0.2], [0.5, 0.5], [0.9, 0.75]], atol=1e-3)
    np.testing.assert_allclose(drawn(svg, 1, "#D55E00"), [[0.05, 0.2], [0.25, 0.5], [0.45, 0.75]], atol=1e-3)


def test_each_arm_is_drawn_with_its_own_marker_in_a_panel_a_way_of_training() -> None:
    nan = float("nan")
    points = [
        EfficiencyPoint(arm, training, fraction, value, value - 0.1, value + 0.1)
        for arm, value in (("random $x$", 0.6), ("_local", 0.8))
        for training in ("frozen", "finetune")
        for fraction in (0.01, 0.1, 1.0)
    ]
    points[0] = EfficiencyPoint("random $x$", "frozen", 0.01, nan, nan, nan)
    svg = label_efficiency_plot(points, "mean AUROC")
    assert {"random $x$", "_local", "1 %", "10 %", "100 %", "Frozen encoder", "mean AUROC"} <= set(titles(svg))
    assert undrawn_points(points) == ["random $x$, frozen encoder, 1 %"]
    markers: dict[tuple[int, str], set[str]] = {}
    for axes in (1, 2):
        group = ET.fromstring(svg).find(f".//{SVG}g[@id='axes_{axes}']")
        assert group is not None
        for use in group.iter(f"{SVG}use"):
            if colour := re.search(r"fill: (#0072b2|#d55e00)", use.get("style", "")):
                key = (axes, colour[1])
                markers.setdefault(key, set()).add(f"{use.get('{http://www.w3.org/1999/xlink}href')} {use.get('x')}")
    assert {key: len(found) for key, found in markers.items()} == {
        (1, "#0072b2"): 2,
        (1, "#d55e00"): 3,
        (2, "#0072b2"): 3,
        (2, "#d55e00"): 3,
    }
    shapes = {colour: {use.split()[0] for use in found} for (_, colour), found in markers.items()}
    assert not shapes["#0072b2"] & shapes["#d55e00"]


# Cases


def slow_choice(scores: Scores, label: int, threshold: float, per_label: int) -> set[tuple[str, int]]:
    """In turn from each outcome the surest row that is left, whose study has not been taken."""
    said, truth = scores.probabilities[:, label], scores.labels[:, label]
    left = [row for row in range(len(said)) if truth[row] in (0, 1)]
    chosen: set[tuple[str, int]] = set()
    while left and len(chosen) < per_label:
        for outcome, (called, present) in OUTCOMES.items():
            rows = [row for row in left if (said[row] >= threshold) == called and (truth[row] == 1) == present]
            if rows and len(chosen) < per_label:
                best = max(rows, key=lambda row: (abs(said[row] - (0 if called else 1)), -row))
                chosen.add((outcome, best))
                left = [row for row in left if scores.study[row] != scores.study[best]]
    return chosen


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_cases_are_the_surest_of_each_outcome_in_turn(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 12))
    truth = data.draw(st.lists(st.sampled_from([0.0, 1.0, -1.0, np.nan]), min_size=rows, max_size=rows))
    said = data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=rows, max_size=rows))
    study = np.array(data.draw(st.lists(st.sampled_from("abcdefghijkl"), min_size=rows, max_size=rows, unique=True)))
    scores = Scores(("Edema",), study, study, study, np.array(said)[:, None], np.array(truth)[:, None])
    per_label = data.draw(st.integers(0, 6))
    cases = choose_cases(scores, {"Edema": 0.5}, per_label)
    assert {(case.outcome, case.row) for case in cases} == slow_choice(scores, 0, 0.5, per_label)
    assert [list(OUTCOMES).index(case.outcome) for case in cases] == sorted(
        list(OUTCOMES).index(case.outcome) for case in cases
    )
    assert all((case.probability, case.image) == (said[case.row], study[case.row]) for case in cases)


def test_a_study_in_several_rows_is_a_case_of_a_label_once() -> None:
    study = np.array(["one", "one", "two"])
    said, truth = np.array([[0.9], [0.8], [0.7]]), np.ones((3, 1))
    cases = choose_cases(Scores(("Edema",), study, study, study, said, truth), {"Edema": 0.5}, 3)
    assert [case.row for case in cases] == [0, 2]


@pytest.mark.parametrize("threshold", [None, float("nan")])
def test_a_label_without_a_threshold_has_no_cases(threshold: float | None) -> None:
    thresholds = {"Edema": 0.5} | ({} if threshold is None else {NEVER: threshold})
    assert {case.label for case in choose_cases(made_scores(40), thresholds, 4)} == {"Edema"}


REPORT = [
    "Lungs are clear.",
    "Possible pleural effusion.",
    "There is a left pleural effusion.",
    "Interstitial pulmonary edema.",
    "No pneumothorax.",
]


@pytest.mark.parametrize(
    ("label", "present", "sentence"),
    [
        ("Pleural Effusion", True, REPORT[2]),
        ("Pleural Effusion", False, REPORT[1]),
        ("Pneumothorax", False, REPORT[4]),
        ("Pneumothorax", True, REPORT[4]),
        ("Fracture", True, ""),
        ("Edema Severity >= 2", True, REPORT[3]),
    ],
)
def test_the_sentence_of_a_case_is_one_that_says_what_is_true(label: str, present: bool, sentence: str) -> None:
    assert own_sentence(REPORT, label, present, rule_pack()) == sentence


def case_of(image: Path, label: str = "Pleural Effusion") -> Case:
    return Case(0, label, "true positive", 0.9, 0.5, str(image))


def test_a_picture_is_the_radiograph_and_beside_it_where_its_own_sentence_is_found(tmp_path: Path) -> None:
    asked: list[str] = []

    def corner(images: Any, sentences: Sequence[str]) -> np.ndarray:
        asked.extend(sentences)
        scores = np.zeros((1, 4, 4), np.float32)
        scores[0, 3, 0] = 1
        return scores

    path = tmp_path / "i.npy"
    np.save(path, np.full((320, 320), 100, np.uint8))
    model = GroundingModel(corner, 32, "voi")
    cases = [case_of(path), case_of(path, "Lung Lesion")]
    own, prompted = case_pictures(cases, {str(path): REPORT}, model, rule_pack())
    assert asked == [REPORT[2], "lung lesion"]
    assert (own.sentence, prompted.sentence) == (REPORT[2], "")
    pixels = np.asarray(Image.open(io.BytesIO(own.picture)), int)
    assert (pixels[:, :320] == 100).all()
    right = pixels[:, -320:]
    assert (right[:100] == 100).all(), "the lowest scores leave the picture bare"
    place = np.unravel_index((right[..., 0] - right[..., 2]).argmax(), (320, 320))
    assert place[0] >= 240
    assert place[1] < 80


def test_without_a_pretrained_network_a_picture_is_the_radiograph_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", np.arange(256, dtype=np.uint8).reshape(16, 16))
    (case,) = case_pictures([case_of(tmp_path / "i.npy")], {}, None, rule_pack())
    assert Image.open(io.BytesIO(case.picture)).size == (320, 320)
    assert not case.has_map
    assert not case.problem


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize("name", ["i.npy", "i.png", "i.dcm"])
def test_an_image_that_cannot_be_read_costs_its_own_picture_only(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "fine.npy", np.zeros((8, 8), np.uint8))
    broken, fine = case_pictures([case_of(tmp_path / name), case_of(tmp_path / "fine.npy")], {}, None, rule_pack())
    assert broken.problem == ("image not found" if content is None else "image cannot be read")
    assert not broken.picture
    assert fine.picture
