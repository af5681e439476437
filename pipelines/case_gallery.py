"""Studies to look at: where a classifier was surest, right and wrong, with what a pretrained network sees there.

Neither ids nor, by itself, words of a report are in a case: `sentence` is for who asks for it.
"""

import dataclasses
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from local_mi.labels import SEVERITY_LABELS
from local_mi.scores import Scores
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from PIL import Image

from pipelines.ground import GroundingModel, ground, read_radiograph
from pipelines.score_maps import Grounding, blended, scaled, score_range
from preprocessing.assertions import assertions
from preprocessing.lexicon import RulePack
from preprocessing.rule_files import SEVERITY

OUTCOMES = {
    "true positive": (True, True),
    "false positive": (True, False),
    "false negative": (False, True),
    "true negative": (False, False),
}
"""Whether a finding was called present, and whether it is."""

SHOWN = 320  # pixels of a picture's long side
GAP = 8  # pixels between the two pictures
WITHOUT_MODEL = 64  # the network's view is not needed then


@dataclass(frozen=True)
class Case:
    """A study as an example of how a label was judged.

    Args:
        row: of the study in the scores.
        label: name.
        outcome: a key of `OUTCOMES`.
        probability: that the label is present, in [0, 1].
        threshold: called present from here on.
        image: path of the study's first image.
        picture: PNG; empty until `case_pictures`, and where the image cannot be read.
        has_map: whether the picture shows, at its right, where the network finds the sentence.
        sentence: of the study's own report, that the map is of; empty where the map is of the label's name.
        problem: why there is no picture; empty where there is one.
    """

    row: int
    label: str
    outcome: str
    probability: float
    threshold: float
    image: str
    picture: bytes = b""
    has_map: bool = False
    sentence: str = ""
    problem: str = ""


def choose_cases(scores: Scores, thresholds: Mapping[str, float], per_label: int) -> list[Case]:
    """For every label the surest cases, right and wrong, in turn from the outcomes that exist.

    Args:
        scores: a row a study; of a study in several rows, the surest one is taken.
        thresholds: by label name; called present from here on. A label without one has no cases.
        per_label: how many cases a label has at most.

    Returns:
        By label, then by outcome as in `OUTCOMES`, the surest first; of equals, the earlier row.
    """
    cases: list[Case] = []
    for k, name in enumerate(scores.label_names):
        threshold = thresholds.get(name, np.nan)
        if np.isfinite(threshold):
            cases += _of_label(scores, k, float(threshold), per_label)
    return cases


def _of_label(scores: Scores, label: int, threshold: float, per_label: int) -> list[Case]:
    probabilities, truth = scores.probabilities[:, label], scores.labels[:, label]
    by_outcome = []
    for outcome, (called, present) in OUTCOMES.items():
        rows = np.flatnonzero(
            ((probabilities >= threshold) == called) & (truth == present) & np.isfinite(probabilities)
        )
        sureness = probabilities[rows] if called else -probabilities[rows]
        surest_first = rows[np.argsort(-sureness, kind="stable")]
        by_outcome.append([(outcome, int(row)) for row in surest_first])
    in_turn = (case for turn in itertools.zip_longest(*by_outcome) for case in turn if case is not None)
    chosen = itertools.islice(_once_a_study(in_turn, scores.study), per_label)
    order = list(OUTCOMES)
    return [
        Case(row, scores.label_names[label], outcome, float(probabilities[row]), threshold, str(scores.image[row]))
        for outcome, row in sorted(chosen, key=lambda case: order.index(case[0]))
    ]


def _once_a_study(cases: Iterator[tuple[str, int]], study: NDArray[np.str_]) -> Iterator[tuple[str, int]]:
    seen: set[str] = set()
    for outcome, row in cases:
        if study[row] not in seen:
            seen.add(study[row])
            yield outcome, row


def case_pictures(
    cases: Sequence[Case], sentences: Mapping[str, Sequence[str]], model: GroundingModel | None, pack: RulePack
) -> list[Case]:
    """Add to each case its radiograph as stored and, beside it, where a pretrained network finds what is said of it.

    Args:
        cases: whose `image` can be read from here.
        sentences: of the study's report, by the case's `image`.
        model: of a pretraining run (`pipelines.ground.load_grounding_model`); `None` for radiographs alone.
        pack: rules that say what a sentence speaks of (`preprocessing.lexicon.rule_pack`).

    Returns:
        The same cases with `picture`, or with `problem` where an image cannot be read.
    """
    return [_with_picture(case, sentences.get(case.image, ()), model, pack) for case in cases]


def own_sentence(sentences: Sequence[str], label: str, present: bool, pack: RulePack) -> str:
    """The first sentence that says of a label what is true; else the first that speaks of it; else nothing.

    Args:
        sentences: of a report.
        label: name of an observation of the rules, or of `SEVERITY_LABELS`.
        present: whether the label is present.
        pack: the rules.
    """
    grade = SEVERITY_LABELS.get(label)
    said = [
        (assertion.value if grade is None else int(assertion.value >= grade), sentence)
        for sentence in sentences
        for assertion in assertions(sentence, pack)
        if assertion.observation == (label if grade is None else SEVERITY)
    ]
    return max(said, key=lambda one: one[0] == present, default=(0, ""))[1]  # the first of equals


def _with_picture(case: Case, sentences: Sequence[str], model: GroundingModel | None, pack: RulePack) -> Case:
    size, preset = (model.image_size, model.preset) if model else (WITHOUT_MODEL, "voi")
    try:
        radiograph = read_radiograph(Path(case.image), size, preset)
    except (OSError, ValueError):  # what they say holds a path
        missing = not Path(case.image).is_file()
        return dataclasses.replace(case, problem="image not found" if missing else "image cannot be read")
    row_mm, column_mm = np.linalg.norm(radiograph.affine[:3, :2], axis=0)
    rows, columns = radiograph.picture.shape
    scale = SHOWN / max(rows * row_mm, columns * column_mm)
    shape = (max(1, round(rows * row_mm * scale)), max(1, round(columns * column_mm * scale)))
    plain = scaled(radiograph.picture, shape)
    if model is None:
        return dataclasses.replace(case, picture=_png(plain))
    sentence = own_sentence(sentences, case.label, OUTCOMES[case.outcome][1], pack)
    grounding = ground(model, radiograph, sentence or case.label.lower())
    both = _side_by_side(plain, _marked(plain, grounding))
    return dataclasses.replace(case, picture=_png(both), has_map=True, sentence=sentence)


def _marked(picture: NDArray[np.float32], grounding: Grounding) -> NDArray[np.float64]:
    """Colours over the picture, the clearer the higher the score: yellow to red, (rows, columns, 3)."""
    scores = scaled(grounding.pixel_scores(), picture.shape)
    return blended(picture, np.asarray(Normalize(*score_range(scores))(scores)))


def _side_by_side(plain: NDArray[np.float32], marked: NDArray[np.float64]) -> NDArray[np.float64]:
    gap = np.ones((len(plain), GAP, 3))
    return np.concatenate([np.repeat(plain[..., None], 3, axis=2), gap, marked], axis=1)


def _png(picture: NDArray[np.floating[Any]]) -> bytes:
    buffer = io.BytesIO()
    pixels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()
