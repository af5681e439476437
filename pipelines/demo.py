"""The whole way on synthetic studies: phantoms, ingest, pretrain, train, evaluate, ground, export."""

import json
import shutil
import time
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from local_mi.evaluation import MACRO
from local_mi.files import write_json

from pipelines.bundle import evaluate, pretrain, train
from pipelines.evaluation import evaluate_classifier
from pipelines.export import export_run
from pipelines.ground import draw_grounding, ground, load_grounding_model, read_radiograph
from pipelines.grounding_score import PlacedSentence, PointingScore, placed_sentences, pointing_score
from pipelines.phantom_store import Step, make_phantom_store
from preprocessing.configuration import IngestConfiguration
from preprocessing.errors import InputError
from preprocessing.phantoms import DIFFICULTIES

MARKER = "demo.json"  # a folder with it, made by the demo, may be replaced
MADE_BY = "cxr-local-mi demo"
OWN_FOLDERS = ("phantoms", "store", "store.private", "pretrain", "classifier_local", "classifier_random", "encoder")
IMAGE_SIZE = 256
EXPORT_FORMATS = ("safetensors", "torchscript", "torch-export")  # those that need no further package
DIFFICULTY = "easy"  # learnt in minutes; see `cxr-local-mi phantoms --difficulty`


@dataclass(frozen=True)
class DemoResult:
    """What the demo showed on held-out studies.

    Args:
        folder: with everything it made.
        studies: held-out studies in retrieval.
        retrieval_at_10: share of held-out images whose own report is among the ten nearest, and the other way round.
        retrieval_chance: of the same.
        auroc_local: mean area under the ROC curve of the classifier from local weights, few labels.
        auroc_random: of the classifier from random weights, the same labels.
        labelled_share: of the training patients.
        pointing: of sentences with a known place.
        export_difference: largest feature difference of the exported encoder, of all its formats.
        seconds: wall time.
    """

    folder: Path
    studies: int
    retrieval_at_10: tuple[float, float]
    retrieval_chance: float
    auroc_local: float | None
    auroc_random: float | None
    labelled_share: float
    pointing: PointingScore
    export_difference: float
    seconds: float

    def text(self) -> str:
        """For people, with the places of the results."""
        to_report, to_image = self.retrieval_at_10
        rows = {
            "own report among the 10 nearest": f"{to_report:.0%} (image to report), {to_image:.0%} (report to image); "
            f"chance {self.retrieval_chance:.0%}",
            "sentence points into its true box": f"{self.pointing.hits:.0%} of {self.pointing.sentences}, and covers "
            f"{self.pointing.overlap:.0%} of it; chance {self.pointing.chance:.0%}",
            f"mean AUROC, {self.labelled_share:.0%} of training labels": f"{_figure(self.auroc_local)} from local "
            f"weights, {_figure(self.auroc_random)} from random ones",
            "exported encoder": f"loads without this project; features differ by {self.export_difference:.1g} at most",
        }
        return "\n".join(
            [
                f"{self.studies} held-out phantoms (difficulty {DIFFICULTY}), {self.seconds:.0f} s in all:",
                *(f"  {name:<35}{value}" for name, value in rows.items()),
                f"Encoder:  {self.folder / 'encoder' / 'model.safetensors'}",
                f"Metrics:  {self.folder / MARKER}",
                f"Pictures: {self.folder / 'grounding.png'}, {self.folder / 'store' / 'contact_sheet.png'}",
            ]
        )


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def run_demo(
    folder: Path,
    *,
    studies: int,
    workers: int,
    step: Step,
    overrides: dict[str, Any] | None = None,
) -> DemoResult:
    """Run the demo.

    Args:
        folder: new, empty, or of an earlier demo, which is replaced.
        studies: number of synthetic studies.
        workers: processes for phantoms and ingest.
        step: entered with the name of each step; gives what is told of progress.
        overrides: configuration keys for both trainings, over those of `demo.yaml`.

    Raises:
        InputError: the folder holds something else.
    """
    _make_way(folder)
    started = time.monotonic()
    settings = demo_settings(overrides or {})
    store = make_phantom_store(
        folder,
        studies=studies,
        size=IMAGE_SIZE,
        difficulty=DIFFICULTIES[DIFFICULTY],
        configuration=IngestConfiguration(size=int(settings["pretrain"]["image_size"]), workers=workers),
        step=step,
    )
    with step("pretraining by local mutual information"):
        weights = pretrain(store, folder / "pretrain", settings["pretrain"])
        retrieval = evaluate(store, folder / "pretrain", "pretrain", {})
    auroc = {}
    for name, initial in (("local", weights), ("random", None)):
        with step(f"classifier from {name} weights, few labels"):
            run = folder / f"classifier_{name}"
            train(store, run, initial, settings["train"])
            auroc[name] = evaluate_classifier(store, run, overrides={}).value(MACRO, "auroc")
    with step("grounding and export"):
        pointing = _ground(folder)
        (exported,) = export_run(folder / "pretrain", folder, EXPORT_FORMATS)
    held_out = int(retrieval["retrieval/studies"] or 0)
    result = DemoResult(
        folder=folder,
        studies=held_out,
        retrieval_at_10=(
            float(retrieval["retrieval/image_to_report/recall_at_10"] or 0),
            float(retrieval["retrieval/report_to_image/recall_at_10"] or 0),
        ),
        retrieval_chance=min(1.0, 10 / held_out),
        auroc_local=auroc["local"],
        auroc_random=auroc["random"],
        labelled_share=float(settings["train"]["label_fraction"]),
        pointing=pointing,
        export_difference=max(exported.differences.values()),
        seconds=time.monotonic() - started,
    )
    figures = asdict(result) | {"folder": str(folder), "retrieval": retrieval}
    write_json(folder / MARKER, {"made_by": MADE_BY, "difficulty": DIFFICULTY, **figures})
    return result


def _make_way(folder: Path) -> None:
    """Remove what an earlier demo made, and nothing else."""
    if folder.is_dir() and any(folder.iterdir()) and not _is_own(folder / MARKER):
        raise InputError(f"{folder} holds something that is not the demo's; name another folder or empty this one")
    for name in OWN_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MARKER, {"made_by": MADE_BY, "state": "started"})


def _is_own(marker: Path) -> bool:
    try:
        return bool(json.loads(marker.read_text(encoding="utf-8"))["made_by"] == MADE_BY)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def demo_settings(overrides: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Configuration keys of the demo by stage, `pretrain` and `train`, with overrides for both."""
    settings = yaml.safe_load(files("pipelines").joinpath("demo.yaml").read_text(encoding="utf-8"))
    return {stage: keys | overrides for stage, keys in settings.items()}


def _ground(folder: Path) -> PointingScore:
    """Measure the maps of the test split's sentences, and draw one sentence's."""
    store, model = folder / "store", load_grounding_model(folder / "pretrain")
    sentences = placed_sentences(folder / "phantoms", store, folder / "store.private", "test")
    shown = _sentence_to_show(sentences)
    radiograph = read_radiograph(store / shown.path, model.image_size, model.preset)
    draw_grounding(ground(model, radiograph, shown.sentence), shown.sentence, folder / "grounding.png", [shown.box])
    return pointing_score(model, store, sentences)


def _sentence_to_show(sentences: list[PlacedSentence]) -> PlacedSentence:
    """The first about an effusion, whatever the network makes of it; else the first."""
    if not sentences:
        raise InputError("no held-out sentence has a known place; the demo needs more studies")
    return next((placed for placed in sentences if placed.finding == "Pleural Effusion"), sentences[0])
