"""Synthetic chest studies with ground truth: the data that the demo, tests, benchmarks and grounding score run on.

Stands before ingest: what it writes is what a hospital would hand over (DICOM files and free-text reports), and beside
it what no hospital has, the truth. Nothing here is a model of a patient; do not train for clinical use on it.

    OUT/dicom/<patient>/<study>/<image>.dcm
    OUT/reports/<StudyInstanceUID or accession number>.txt
    OUT/labels.csv            what training sees: read off the reports, with label noise; blank is unmentioned
    OUT/truth/labels.csv      what the pictures show; -1 where the report is unsure
    OUT/truth/findings.csv    a row a finding: side, zone, size, box in the frontal picture
    OUT/truth/studies.csv     a row a study: patient, images, edema severity
    OUT/truth/sentences.jsonl a line a sentence of FINDINGS and IMPRESSION: status, and the box it speaks of
    OUT/phantoms.json         configuration, versions, counts

How: `plan` draws the findings by lot, `anatomy`, `findings`, `devices` and
`lateral` draw them on `canvas`, `detector` exposes, `reports` words, `dicom_files`
encodes, and `study` puts one study together.
"""

from preprocessing.phantoms.difficulty import DIFFICULTIES, LABELS, Difficulty
from preprocessing.phantoms.study import PhantomStudy, StudyPlan, draw_frontal, draw_side, make_study, plan_study
from preprocessing.phantoms.writing import PhantomSummary, write_phantoms

__all__ = [
    "DIFFICULTIES",
    "LABELS",
    "Difficulty",
    "PhantomStudy",
    "PhantomSummary",
    "StudyPlan",
    "draw_frontal",
    "draw_side",
    "make_study",
    "plan_study",
    "write_phantoms",
]
