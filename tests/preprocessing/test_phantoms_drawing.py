"""Synthetic findings: where the truth says they are, as strong as the difficulty says, as common as intended."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from preprocessing.phantoms import DIFFICULTIES, LABELS, Difficulty, StudyPlan, draw_frontal, draw_side, plan_study
from preprocessing.phantoms.plan import DEVICES, SHARES, Finding, sample_findings

EASY, HARD = DIFFICULTIES["easy"], DIFFICULTIES["hard"]
SIZE = 160
EXAMPLES = [
    Finding("Cardiomegaly", size="large", seed=1),
    *(Finding("Edema", grade=grade, seed=1) for grade in (1, 2, 3)),
    *(
        Finding(label, side=side, size=size, seed=1)
        for label in ("Pleural Effusion", "Pneumothorax")
        for side in ("right", "left")
        for size in ("small", "moderate", "large")
    ),
    *(
        Finding(label, side=side, zone=zone, size="moderate", seed=1)
        for label in ("Consolidation", "Lung Lesion")
        for side in ("right", "left")
        for zone in ("upper", "mid", "lower")
    ),
    *(Finding("Support Devices", kind=kind, side="left", distance=4, seed=1) for kind in DEVICES),
]


def example(finding: Finding | None, difficulty: Difficulty = EASY, index: int = 3) -> StudyPlan:
    """A study with that finding and no other, in a field without collimation."""
    plan = plan_study(11, index, SIZE, difficulty)
    view = plan.views[0]
    view = replace(view, exposure=replace(view.exposure, collimation=(0.0, 0.0, 0.0, 0.0)))
    return replace(plan, views=(view,), findings=(finding,) if finding else ())


def name(finding: Finding) -> str:
    words = (finding.label, finding.kind, finding.side, finding.zone, finding.size, str(finding.grade or ""))
    return "-".join(word for word in words if word)


@pytest.mark.parametrize("finding", EXAMPLES, ids=name)
def test_a_finding_changes_the_picture_in_its_box_and_hardly_elsewhere(finding: Finding) -> None:
    """The oracle is the same study drawn without it: nothing else, the noise included, may differ."""
    drawn, (box,) = draw_frontal(example(finding))
    healthy, _ = draw_frontal(example(None))
    assert box is not None
    change = np.abs(drawn - healthy)
    inside = np.zeros(change.shape, bool)
    inside[box[0] : box[2], box[1] : box[3]] = True
    strong = change > 0.25 * np.percentile(change[inside], 98)
    assert np.percentile(change[inside], 98) > 0.04
    assert (strong & inside).sum() > 0.8 * strong.sum()
    assert change[inside].mean() > 4 * change[~inside].mean()


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_patients_right_is_at_the_left_of_the_picture(side: str) -> None:
    plan = example(Finding("Pleural Effusion", side=side, size="moderate", seed=1))
    _, (box,) = draw_frontal(plan)
    assert box is not None
    middle = plan.views[0].frame.pixels((0.0, 0.0))[0]
    assert box[3] < middle + 5 if side == "right" else box[1] > middle - 5


def test_zones_lie_one_under_the_other() -> None:
    tops = []
    for zone in ("upper", "mid", "lower"):
        _, (box,) = draw_frontal(example(Finding("Lung Lesion", side="left", zone=zone, size="small", seed=2)))
        assert box is not None
        tops.append(box[0])
        assert box[2] - box[0] < 0.12 * SIZE  # a nodule is a small thing
    assert tops[0] < tops[1] < tops[2]


def test_a_greater_grade_of_edema_makes_the_lungs_brighter() -> None:
    def brightness(grade: int) -> float:
        picture, (box,) = draw_frontal(example(Finding("Edema", grade=grade, seed=1)))
        assert box is not None
        return float(picture[box[0] : box[2], box[1] : box[3]].mean())

    assert brightness(1) + 0.01 < brightness(2) < brightness(3) - 0.02


@pytest.mark.parametrize("label", ["Consolidation", "Lung Lesion", "Pleural Effusion"])
def test_contrast_scales_the_signal_in_the_box(label: str) -> None:
    finding = Finding(label, side="right", zone="" if label == "Pleural Effusion" else "upper", size="moderate", seed=1)

    def signal(contrast: float) -> float:
        difficulty = replace(EASY, contrast=contrast)
        with_it, (box,) = draw_frontal(example(finding, difficulty))
        without, _ = draw_frontal(example(None, difficulty))
        assert box is not None
        return float((with_it - without)[box[0] : box[2], box[1] : box[3]].mean())

    assert 0 < signal(0.25) < 0.7 * signal(0.5) < 0.7 * signal(1.0) * 0.9


def test_noise_and_overlap_make_the_background_busier() -> None:
    """Busyness is what is left in a lung after a wide median is taken off."""

    def busyness(**change: float) -> float:
        picture, _ = draw_frontal(example(None, replace(EASY, **change)))
        eight_bits = np.rint(picture * 255).astype(np.uint8)
        return float(np.std(eight_bits.astype(float) - cv2.medianBlur(eight_bits, 15)))

    assert busyness(noise=0.06) > 1.2 * busyness(noise=0.0)
    assert busyness(overlap=1.0) > 1.05 * busyness(overlap=0.0)


def test_the_picture_is_the_same_at_every_size_but_for_its_grain() -> None:
    plans = [plan_study(11, 3, size, EASY) for size in (128, 384)]
    small, large = (draw_frontal(plan)[0] for plan in plans)
    shrunk = cv2.resize(large, small.shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.corrcoef(shrunk.flat, small.flat)[0, 1] > 0.99


def test_people_stances_and_exposures_differ_the_more_the_greater_the_variation() -> None:
    def spread(variation: float) -> dict[str, float]:
        plans = [plan_study(11, index, 96, replace(HARD, variation=variation)) for index in range(30)]
        parts = {"body": [vars(p.body) for p in plans], "pose": [vars(p.pose) for p in plans]}
        parts["exposure"] = [vars(p.views[0].exposure) for p in plans]
        measured = {"body": "width", "pose": "inspiration", "exposure": "level"}
        return {part: float(np.std([each[name] for each in parts[part]])) for part, name in measured.items()}

    little, much = spread(0.2), spread(1.0)
    assert all(0 < little[part] < much[part] for part in little)
    plans = [replace(plan_study(11, index, 96, HARD), findings=()) for index in (0, 1, 3, 4)]
    corners = [draw_frontal(plan)[0][:78, :78] for plan in plans]  # every detector has that many pixels
    assert all(np.abs(a - b).mean() > 0.02 for i, a in enumerate(corners) for b in corners[:i])


def test_values_stay_in_range_and_the_trunk_is_brighter_than_the_lungs() -> None:
    picture, _ = draw_frontal(example(None))
    frame = example(None).views[0].frame
    assert picture.dtype == np.float32
    assert 0 <= picture.min() < 0.1
    assert picture.max() <= 1
    column, row = np.rint(frame.pixels([(-75.0, -20.0), (0.0, 160.0)])).astype(int).T
    assert picture[row[0], column[0]] < picture[row[1], column[1]] - 0.2


def test_a_lateral_shows_fluid_at_the_back_of_the_base() -> None:
    plan = next(p for p in (plan_study(11, i, SIZE, EASY) for i in range(50)) if len(p.views) == 2)
    fluid = Finding("Pleural Effusion", side="left", size="large", seed=1)
    change = draw_side(replace(plan, findings=(fluid,))) - draw_side(replace(plan, findings=()))
    rows, columns = np.nonzero(change > 0.5 * change.max())
    assert change.max() > 0.1
    assert rows.mean() > change.shape[0] / 2
    assert columns.mean() > change.shape[1] / 2


@pytest.mark.parametrize("level", DIFFICULTIES)
def test_each_label_is_neither_rare_nor_common_and_sides_are_balanced(level: str) -> None:
    difficulty = DIFFICULTIES[level]
    random = np.random.default_rng(0)
    studies = [sample_findings(random, difficulty) for _ in range(3000)]
    kinds = [{f.label for f in study if f.drawn} for study in studies]
    counts = Counter(label for labels in kinds for label in labels)
    counts["No Finding"] = sum(not {f.label for f in study} - {"Support Devices"} for study in studies)
    assert set(counts) == set(LABELS)
    assert all(0.10 <= count / len(studies) <= 0.35 for count in counts.values()), counts
    assert sum(map(len, kinds)) / len(studies) == pytest.approx(difficulty.findings_per_study, rel=0.05)
    for label in ("Pleural Effusion", "Pneumothorax", "Consolidation", "Lung Lesion"):
        right = np.mean([f.side == "right" for study in studies for f in study if f.label == label])
        assert right == pytest.approx(0.5, abs=0.06)


def test_findings_per_study_and_uncertainty_have_their_effect() -> None:
    def drawn(**change: float) -> list[Finding]:
        random = np.random.default_rng(0)
        return [f for _ in range(500) for f in sample_findings(random, replace(EASY, **change))]

    few, many = (drawn(findings_per_study=mean, uncertainty=0.0) for mean in (0.5, 1.5))
    assert len(few) < 0.5 * len(many)
    assert all(f.certain and f.drawn for f in drawn(uncertainty=0.0))
    doubtful = [f for f in drawn(uncertainty=0.5) if not f.certain]
    assert {f.drawn for f in doubtful} == {True, False}
    assert set(SHARES) == set(LABELS[1:])
