"""A page of results of made-up scores: three labels, one with a strange name and one that nobody has."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from local_mi.calibration import apply_temperature
from local_mi.evaluation import Difference, evaluate_scores
from local_mi.scores import Scores
from PIL import Image

from pipelines.case_gallery import Case, choose_cases
from pipelines.results_page import write_evaluation_page

STRANGE = 'Mass <b>&"5 mm"'
NEVER = "Fracture"
LABELS = ("Edema", STRANGE, NEVER)
SENTENCE = "There is mild pulmonary edema in Mrs Doe."


def made_scores(rows: int, seed: int = 0, labels: Sequence[str] = LABELS) -> Scores:
    """Plausible scores; nobody has a fracture, and of one in three nothing is known."""
    random = np.random.default_rng(seed)
    truth = (random.random((rows, len(labels))) < 0.3).astype(float)
    said = 1 / (1 + np.exp(-random.normal(2 * truth - 1.5)))
    truth[random.random(truth.shape) < 0.3] = np.nan
    truth[:5] = -1
    truth[:, [name == NEVER for name in labels]] = 0
    study = np.array([f"study{row:05}" for row in range(rows)])
    patient = np.array([f"patient{row // 2:05}" for row in range(rows)])
    image = np.array([f"images/ab{row:05}.npy" for row in range(rows)])
    return Scores(tuple(labels), study, patient, image, said, truth)


def png(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side), 90, np.uint8)).save(buffer, format="png")
    return buffer.getvalue()


def made_cases(scores: Scores) -> list[Case]:
    cases = choose_cases(scores, dict.fromkeys(LABELS, 0.4), 3)
    pictured = [dataclasses.replace(case, picture=png(8), has_map=True) for case in cases]
    pictured[0] = dataclasses.replace(pictured[0], sentence=SENTENCE)
    pictured[1] = dataclasses.replace(pictured[1], picture=b"", problem="image not found")
    return pictured


def difference(label: str, value: float | None, reason: str = "") -> Difference:
    low, high = (None, None) if value is None else (value - 0.1, value + 0.1)
    p = None if value is None else 0.0004
    return Difference("masked", label, "auroc", value, low, high, p, p, 0, 1234, 56, reason)


def write_page(path: Path, **changes: Any) -> str:
    test = made_scores(120)
    scaled = dataclasses.replace(test, probabilities=apply_temperature(test.probabilities, 1.5))
    given: dict[str, Any] = {
        "title": "Evaluation of <i>one</i> classifier",
        "facts": {"Store": "synthetic <studies>"},
        "metrics": evaluate_scores(test, made_scores(80, 1), resamples=20, seed=0),
        "test": test,
        "scaled": scaled,
        "differences": [difference("Edema", 0.05), difference(NEVER, None, "no positive row")],
        "cases": made_cases(test),
    }
    write_evaluation_page(path, **(given | changes))
    return path.read_text(encoding="utf-8")
