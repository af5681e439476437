"""One synthetic study: who, how positioned and exposed, with which findings; its pictures, boxes and report.

Part of the phantom generator (see `phantoms`). Everything follows from seed, index, size and difficulty, so that a
study is the same whichever others are made, in whatever order and process.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta

import cv2
import numpy as np
from pydicom import uid

from preprocessing.phantoms.anatomy import draw_chest
from preprocessing.phantoms.body import Body, Pose, sample_body, sample_pose
from preprocessing.phantoms.canvas import Box, Frame, Layer, random_stream
from preprocessing.phantoms.detector import Exposure, expose, open_field, sample_exposure
from preprocessing.phantoms.devices import add_look_alikes
from preprocessing.phantoms.dicom_files import Encoding, dicom_object, file_bytes, sample_encoding, stored_values
from preprocessing.phantoms.difficulty import LABELS, Difficulty
from preprocessing.phantoms.findings import draw_findings
from preprocessing.phantoms.lateral import draw_lateral
from preprocessing.phantoms.plan import Finding, sample_findings
from preprocessing.phantoms.reports import PATHOLOGIES, Report, phrases, write_report

_VISITS = (0, 1, 1, 2, 3, 4, 4, 4, 5, 6)
"""Patient of each of ten studies in a row: some come more than once, and it can be told from the index alone."""

_FIELDS = (((1.0, 0.83), 420.0, 0.45), ((1.0, 1.0), 385.0, 0.3), ((0.84, 1.0), 415.0, 0.25))
"""Shape of the detector as shares of its long side (rows, columns), long side in mm, how often."""


@dataclass(frozen=True)
class View:
    """One exposure of a study: detector, processing, file format; `position` is "PA", "AP" or "LL"."""

    position: str
    frame: Frame
    exposure: Exposure
    encoding: Encoding
    spacing_mm: float


@dataclass(frozen=True)
class StudyPlan:
    """All that decides a study, before anything is drawn. `identifiers` are DICOM keywords and values."""

    seed: int
    index: int
    difficulty: Difficulty
    patient: int
    body: Body
    pose: Pose
    findings: tuple[Finding, ...]
    views: tuple[View, ...]
    identifiers: Mapping[str, str]
    facts: Mapping[str, str]

    def stream(self, name: str) -> np.random.Generator:
        """Random numbers for one purpose of this study."""
        return random_stream(self.seed, name, self.index)

    def image_uid(self, number: int) -> str:
        """SOP Instance UID of a view; 0 is the frontal one."""
        return _uid(self.seed, "image", self.index, number)


def plan_study(seed: int, index: int, size: int, difficulty: Difficulty) -> StudyPlan:
    """Draw lots for a study. `size` is the long side of its pictures in pixels."""
    patient = index // len(_VISITS) * (max(_VISITS) + 1) + _VISITS[index % len(_VISITS)]
    body = sample_body(random_stream(seed, "body", patient), difficulty.variation)
    findings = sample_findings(random_stream(seed, "findings", index), difficulty)
    random = random_stream(seed, "positioning", index)
    ill = any(f.drawn and f.label in ("Support Devices", "Edema") for f in findings)
    position = "AP" if random.random() < (0.5 if ill else 0.12) else "PA"
    pose = sample_pose(random, difficulty.variation, position)
    positions = [position, "LL"] if position == "PA" and random.random() < 0.4 else [position]
    views = tuple(_plan_view(random, p, body, size, difficulty) for p in positions)
    identifiers, facts = _identify(seed, index, patient, body)
    return StudyPlan(seed, index, difficulty, patient, body, pose, findings, views, identifiers, facts)


def _plan_view(random: np.random.Generator, position: str, body: Body, size: int, difficulty: Difficulty) -> View:
    choice = int(random.choice(len(_FIELDS), p=[share for _, _, share in _FIELDS]))
    (tall, wide), length, _ = _FIELDS[choice if position != "LL" else 0]
    rows, columns = round(size * tall), round(size * wide)
    scale = size / length
    spread = difficulty.variation * np.array([9.0, 9.0, 0.022]) * random.standard_normal(3).clip(-2.2, 2.2)
    middle = np.array([6.0, 22.0]) if position == "LL" else np.array([0.0, 16.0])
    origin = (np.array([columns, rows]) - 1) / 2 - (middle + spread[:2]) * scale
    frame = Frame(rows, columns, scale * body.scale, (float(origin[0]), float(origin[1])), float(spread[2]))
    exposure = sample_exposure(random, difficulty.variation, difficulty.noise, position == "AP")
    if position == "LL":  # the automatic exposure and the processing follow the greater thickness
        exposure = replace(exposure, level=exposure.level + 0.5, latitude=exposure.latitude * 1.25)
    return View(position, frame, exposure, sample_encoding(random), length / size)


def draw_frontal(plan: StudyPlan) -> tuple[Layer, list[Box | None]]:
    """The frontal picture (rows, columns) in [0, 1], air dark, and the box of each of `plan.findings` in it."""
    view = plan.views[0]
    chest = draw_chest(view.frame, plan.body, plan.pose, plan.difficulty.overlap)
    boxes = draw_findings(chest, plan.findings, plan.difficulty.contrast)
    add_look_alikes(chest, plan.stream("look-alikes"))
    picture = expose(chest.attenuation(), view.frame, view.exposure, plan.stream("noise"))
    return _mark_side(picture, plan, view), [_visible(box, view) for box in boxes]


def draw_side(plan: StudyPlan) -> Layer:
    """The lateral picture (rows, columns) in [0, 1] of a study whose second view it is."""
    view = plan.views[1]
    attenuation = draw_lateral(
        view.frame, plan.body, plan.pose, plan.findings, plan.difficulty.contrast, plan.difficulty.overlap
    )
    return expose(attenuation, view.frame, view.exposure, plan.stream("noise of the lateral"))


def _visible(box: Box | None, view: View) -> Box | None:
    """The part of a box that the collimator leaves open."""
    if box is None:
        return None
    field = open_field(view.frame, view.exposure)
    row0, column0 = max(box[0], field[0]), max(box[1], field[1])
    row1, column1 = min(box[2], field[2]), min(box[3], field[3])
    return (row0, column0, row1, column1) if row1 > row0 and column1 > column0 else None


def _mark_side(picture: Layer, plan: StudyPlan, view: View) -> Layer:
    """A lead letter at the upper edge, as radiographers lay it, on the side that it names."""
    random = plan.stream("marker")
    rows, columns = picture.shape
    side = "R" if random.random() < 0.6 else "L"
    unit = max(rows, columns) / 256
    column = (10 if side == "R" else columns / unit - 20) + random.uniform(-3, 6)
    place = (round(column * unit), round((24 + random.uniform(-6, 10)) * unit))
    if random.random() < 0.75:
        ink = np.zeros(picture.shape, np.uint8)
        cv2.putText(
            ink, side, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42 * unit, 255, max(1, round(1.2 * unit)), cv2.LINE_AA
        )
        picture = np.maximum(picture, ink.astype(np.float32) * np.float32(0.97 / 255))
    return picture


@dataclass(frozen=True)
class PhantomStudy:
    """A finished study.

    Args:
        plan: what it was made from.
        files: (SOP Instance UID, DICOM file) of each image, frontal first.
        boxes: of each of `plan.findings` in the frontal view.
        report: text and statements.
        labels: what training sees, noise included: 1, 0, -1 or None.
        truth: what the picture shows: 1, 0, or -1 where the report is unsure.
    """

    plan: StudyPlan
    files: tuple[tuple[str, bytes], ...]
    boxes: tuple[Box | None, ...]
    report: Report
    labels: Mapping[str, int | None]
    truth: Mapping[str, int]


def make_study(seed: int, index: int, size: int, difficulty: Difficulty) -> PhantomStudy:
    """Study `index` of the endless series that a seed, a size (long side in pixels) and a difficulty define."""
    plan = plan_study(seed, index, size, difficulty)
    frontal, boxes = draw_frontal(plan)
    # What the collimator or the edge of the picture hides is not in the study.
    shown = [(f, b) for f, b in zip(plan.findings, boxes, strict=True) if b is not None or not f.drawn]
    plan, boxes = replace(plan, findings=tuple(f for f, _ in shown)), [b for _, b in shown]
    pictures = [frontal, *([draw_side(plan)] if len(plan.views) > 1 else [])]
    views = "both" if len(plan.views) > 1 else plan.pose.view.lower()
    report = write_report(plan.stream("report"), plan.findings, boxes, views, plan.facts)
    labels = _with_noise(report.label_values(), plan)
    return PhantomStudy(plan, tuple(_files(plan, pictures)), tuple(boxes), report, labels, _truth(plan.findings))


def _files(plan: StudyPlan, pictures: list[Layer]) -> Iterator[tuple[str, bytes]]:
    random = plan.stream("headers")
    for number, (view, picture) in enumerate(zip(plan.views, pictures, strict=True)):
        image, blank = plan.image_uid(number), random.random() < 0.06
        identifiers = {
            **plan.identifiers,
            "SOPInstanceUID": image,
            "SeriesInstanceUID": _uid(plan.seed, "series", plan.index, number),
            "SeriesNumber": str(number + 1),
            "InstanceNumber": "1",
            "SeriesDescription": "Chest lateral" if view.position == "LL" else f"Chest {view.position}",
            "ViewPosition": "" if blank else view.position,
            "PatientOrientation": "P\\F" if view.position == "LL" else "L\\F",
        }
        stored = stored_values(picture, view.encoding)
        yield image, file_bytes(dicom_object(stored, view.encoding, identifiers, view.position, view.spacing_mm))


def _truth(findings: tuple[Finding, ...]) -> dict[str, int]:
    values = dict.fromkeys(LABELS, 0)
    for finding in findings:
        values[finding.label] = 1 if finding.certain else -1
    values["No Finding"] = int(not any(values[label] for label in PATHOLOGIES))
    return values


def _with_noise(values: Mapping[str, int | None], plan: StudyPlan) -> dict[str, int | None]:
    """Some entries turned round: 1 and -1 to 0, 0 to 1; a blank stays one."""
    wrong = plan.stream("label noise").random(len(LABELS)) < plan.difficulty.label_noise
    return {
        label: int(not value) if flip and value is not None else value
        for (label, value), flip in zip(values.items(), wrong, strict=True)
    }


def _uid(seed: int, kind: str, *numbers: int) -> str:
    return str(uid.generate_uid(entropy_srcs=["cxr-local-mi phantom", str(seed), kind, *map(str, numbers)]))


def _identify(seed: int, index: int, patient: int, body: Body) -> tuple[dict[str, str], dict[str, str]]:
    """Invented identifiers of a study, as DICOM keywords, and the same as a report would print them."""
    people = phrases()["people"]
    random = random_stream(seed, "identity", patient)
    family, given = random.choice(people["families"]), random.choice(people["women" if body.female else "men"])
    born = date(1935, 1, 1) + timedelta(days=int(random.integers(0, 24000)))
    first_visit = date(2016, 1, 1) + timedelta(days=int(random.integers(0, 2500)))
    institution = str(random.choice(people["institutions"]))
    random = random_stream(seed, "visit", index)
    day = first_visit + timedelta(days=31 * (index % len(_VISITS)) + int(random.integers(0, 28)))
    radiologist, referrer = (str(random.choice(people["families"])) for _ in range(2))
    time = f"{random.integers(7, 20):02d}{random.integers(60):02d}{random.integers(60):02d}"
    record, accession = f"MRN{_scatter(seed, patient)}", f"AC{_scatter(seed + 1, index)}"
    identifiers = {
        "SpecificCharacterSet": "ISO_IR 100" if patient % 3 else "ISO_IR 192",
        "PatientName": f"{family}^{given}",
        "PatientID": record,
        "IssuerOfPatientID": institution,
        "PatientBirthDate": f"{born:%Y%m%d}",
        "PatientSex": "F" if body.female else "M",
        "PatientAge": f"{(day - born).days // 365:03d}Y",
        "StudyInstanceUID": _uid(seed, "study", index),
        "StudyDate": f"{day:%Y%m%d}",
        "SeriesDate": f"{day:%Y%m%d}",
        "AcquisitionDate": f"{day:%Y%m%d}",
        "ContentDate": f"{day:%Y%m%d}",
        "StudyTime": time,
        "ContentTime": time,
        "StudyID": str(index),
        "AccessionNumber": accession,
        "ReferringPhysicianName": f"{referrer}^^^Dr",
        "InstitutionName": institution,
        "StationName": f"ROOM{patient % 7}",
        "Manufacturer": "Phantom Imaging",
        "StudyDescription": "Chest radiograph",
        "BodyPartExamined": "CHEST",
        "KVP": "120",
    }
    facts = {
        "age": str((day - born).days // 365),
        "person": "woman" if body.female else "man",
        "radiologist": radiologist,
        "referrer": referrer,
        "patient": f"{family}, {given}",
        "record": record,
        "birth": f"{born:%d/%m/%Y}",
        "accession": accession,
        "institution": institution,
    }
    return identifiers, facts


def _scatter(seed: int, number: int) -> str:
    """A nine-digit number that no other number of the same seed gets (multiplication by a unit modulo 10^9)."""
    return f"{(number * 387_420_489 + seed * 7_919 + 123_456_789) % 10**9:09d}"
