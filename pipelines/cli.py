"""The command line `cxr-local-mi`: every subcommand is a thin shell over one importable function.

Exit codes: 0 done; 2 the request or its input cannot be used (one sentence on stderr says what to do); 1 a defect of
the program; 130 interrupted. Logs and progress go to stderr, results to files.
"""

import os

# Threads that spin at a barrier stop one another where jobs share cores: a training step took 10 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a bar for loading a small text model is noise

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from fire.parser import DefaultParseValue
from local_mi.errors import ConfigurationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from preprocessing.errors import InputError

if TYPE_CHECKING:
    from preprocessing.ingest_summary import IngestSummary
    from preprocessing.report_records import RejectedReport

app = typer.Typer(
    name="cxr-local-mi",
    help="From DICOM chest radiographs and reports to a pretrained image encoder and a pathology classifier.",
    epilog="The usual way: ingest, pretrain, train, evaluate, export. `cxr-local-mi demo` walks it on synthetic "
    "studies. Research only, not for clinical use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
stderr = Console(stderr=True)

MOST_SHOWN = 12
"""Values of one fact in a summary."""


class Stage(StrEnum):
    """What a run folder can hold."""

    PRETRAIN = "pretrain"
    TRAIN = "train"


class Encoder(StrEnum):
    """How the classifier uses its encoder."""

    FINETUNE = "finetune"
    FROZEN = "frozen"


class Views(StrEnum):
    """How images of one study become one."""

    MEAN = "mean"
    MAX = "max"


class Scale(StrEnum):
    """Of a study."""

    SMALL = "small"
    FULL = "full"


OnProgress = Callable[[int, int | None], None]
Store = Annotated[Path, typer.Argument(help="A store made by `ingest` (the folder with datalist.json).")]
Run = Annotated[Path, typer.Argument(help="Folder of the run: weights, records, logs. Made if needed.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the bundle's configuration, for instance `--set max_epochs=50` or "
        "`--set train#dataloader#pin_memory=true`. Repeat for more. An unknown key is refused.",
    ),
]


def main() -> None:
    """Entry point: runs a subcommand and turns a known error into one sentence and exit code 2."""
    try:
        app()
    except (InputError, ConfigurationError) as error:
        _refuse(str(error))
    except OSError as error:  # a full disk, no permission
        _refuse(f"{error.strerror or error}: {error.filename or 'while writing'}")


def _refuse(sentence: str) -> None:
    stderr.print(f"cxr-local-mi: {sentence}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cxr-local-mi {version('cxr-local-mi')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command()
def phantoms(
    folder: Annotated[Path, typer.Argument(help="New folder for DICOM files, reports, labels and ground truth.")],
    studies: Annotated[int, typer.Option(min=1, help="Number of studies.")] = 200,
    size: Annotated[int, typer.Option(min=64, help="Rows and columns of an image, in pixels.")] = 512,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    difficulty: Annotated[
        str, typer.Option(help="easy, medium or hard: contrast, overlap, noise, label noise.")
    ] = "medium",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Make synthetic chest studies as DICOM files and reports, with ground truth beside them."""
    from preprocessing.phantoms import DIFFICULTIES, write_phantoms

    if difficulty not in DIFFICULTIES:
        raise InputError(f"difficulty '{difficulty}' is unknown; choose one of {', '.join(DIFFICULTIES)}")

    with _progress("drawing studies") as on_progress:
        summary = write_phantoms(
            folder,
            studies=studies,
            size=size,
            seed=seed,
            difficulty=DIFFICULTIES[difficulty],
            workers=workers,
            on_progress=on_progress,
        )
    stderr.print(f"{summary.studies} studies, {summary.images} images in {folder}", highlight=False)


@app.command()
def ingest(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder of DICOM files and ZIP archives, searched through all its folders; a ZIP; a DICOMDIR; a .txt "
            "list of files; or a manifest, a CSV or Parquet table of PNG and JPEG images with the columns image, "
            "study, patient and, if known, view, text or report, split. With --dataset, the folder of that data set."
        ),
    ],
    store: Annotated[
        Path, typer.Argument(help="The store to make, or to bring up to date: only new and changed files are read.")
    ],
    reports: Annotated[
        Path | None,
        typer.Option(
            help="Folder of text files (named by StudyInstanceUID or accession number), DICOM SR, HL7 v2, FHIR "
            "and Open-i XML in any mix; one such file; or a CSV/Parquet with a text column. May be SOURCE itself."
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet with `report` and `study` or `accession`: which report is of which study."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV or Parquet: `study`, then a column a label with 1, 0, -1 (uncertain) or blank. Without it, the "
            "labels are those of the data set or, failing that, those that the reports say."
        ),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(
            help="What SOURCE is: folder, or a public data set by name (openi, mimic-cxr, mimic-cxr-jpg, chexpert, "
            "chexpert-plus, nih14, padchest, vindr-cxr, brax, covid-chestxray)."
        ),
    ] = "folder",
    private: Annotated[
        Path | None,
        typer.Option(help="Folder for ledger, key and the link back to identities; default STORE.private."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="File of the key of the pseudonyms, if it is not in the private folder.")
    ] = None,
    identities: Annotated[
        bool, typer.Option(help="Keep the link from pseudonyms back to identities in the private folder.")
    ] = True,
    size: Annotated[int, typer.Option(min=32, help="Rows and columns of a stored image.")] = 512,
    preset: Annotated[str, typer.Option(help="How pixels become a picture: voi, percentile or mimic-jpg.")] = "voi",
    image_format: Annotated[str, typer.Option(help="Of the stored images: npy or png.")] = "npy",
    bit_depth: Annotated[int, typer.Option(help="Of the stored images: 8 or 16.")] = 8,
    interpolation: Annotated[
        str, typer.Option(help="How images are scaled: area, bilinear, bicubic or lanczos.")
    ] = "area",
    crop: Annotated[bool, typer.Option("--crop", help="Cut images to the collimator or shutter declared.")] = False,
    reduced_resolution: Annotated[
        bool,
        typer.Option("--reduced-resolution", help="Decode JPEG 2000 no finer than needed: much faster, not exact."),
    ] = False,
    for_processing: Annotated[
        str, typer.Option(help="Images FOR PROCESSING: reject, or convert (logarithm, then percentiles).")
    ] = "reject",
    burned_in: Annotated[str, typer.Option(help="Images with BurnedInAnnotation YES: reject or accept.")] = "reject",
    captures: Annotated[str, typer.Option(help="Secondary captures and colour: reject or accept.")] = "reject",
    text_policy: Annotated[
        str,
        typer.Option(
            help="Sections that feed pretraining: findings+impression, impression, findings, "
            "impression-else-findings-else-body."
        ),
    ] = "findings+impression",
    redact: Annotated[
        bool,
        typer.Option("--redact", help="Replace what looks like a name, date, phone or record number in sentences."),
    ] = False,
    headings: Annotated[
        Path | None, typer.Option(help="YAML with your hospital's headings; see docs/reports.md.")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(help="YAML with your hospital's phrases for labels; see docs/reports.md.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split by patient.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    scheduler: Annotated[
        str, typer.Option(help="Address or file of a Dask scheduler, whose workers convert instead.")
    ] = "",
) -> None:
    """Turn DICOM radiographs (or PNG/JPEG) and reports into a store: images, tables, rejects, a MONAI datalist."""
    from preprocessing.configuration import IngestConfiguration
    from preprocessing.ingest import ingest as run_ingest
    from preprocessing.tables import is_table

    configuration = IngestConfiguration(
        dataset=dataset,
        preset=preset,
        size=size,
        image_format=image_format,
        bit_depth=bit_depth,
        interpolation=interpolation,
        crop=crop,
        reduced_resolution=reduced_resolution,
        for_processing=for_processing,
        burned_in=burned_in,
        captures=captures,
        text_policy=text_policy,
        redact=redact,
        headings=headings,
        rules=rules,
        seed=seed,
        workers=workers,
        scheduler=scheduler,
    )
    with _progress("ingesting") as on_progress:
        is_manifest = is_table(source)
        summary = run_ingest(
            None if is_manifest else source,
            store,
            manifest=source if is_manifest else None,
            reports=reports,
            pairs=pairs,
            labels=labels,
            private=private,
            key=key,
            identities=identities,
            configuration=configuration,
            on_progress=on_progress,
        )
    _print_summary(summary, redacted=redact)


@app.command()
def scan(
    source: Annotated[Path, typer.Argument(help="As for `ingest`, but for a manifest.")],
    for_processing: Annotated[
        str, typer.Option(help="Count images FOR PROCESSING as ingest would: reject or convert.")
    ] = "reject",
    burned_in: Annotated[str, typer.Option(help="Count BurnedInAnnotation YES so: reject or accept.")] = "reject",
    captures: Annotated[str, typer.Option(help="Count secondary captures and colour so: reject or accept.")] = "reject",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Count what is in an archive from headers alone, and what ingest would take and leave out; writes nothing."""
    from pipelines.scan import print_scan
    from preprocessing.configuration import IngestConfiguration
    from preprocessing.header_scan import scan_archive

    configuration = IngestConfiguration(
        for_processing=for_processing, burned_in=burned_in, captures=captures, workers=workers
    )
    with _progress("scanning") as on_progress:
        summary = scan_archive(source, configuration.selection, workers=workers, on_progress=on_progress)
    print_scan(summary, Console(), MOST_SHOWN)


@app.command()
def label(
    file: Annotated[
        Path, typer.Argument(help="A report: text, DICOM SR, HL7, FHIR or Open-i XML; or a table of them.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON a report, with positions.")] = False,
    rules: Annotated[Path | None, typer.Option(help="YAML that adds to the rules; see docs/reports.md.")] = None,
    headings: Annotated[Path | None, typer.Option(help="YAML that adds to the headings; see docs/reports.md.")] = None,
) -> None:
    """Show the sections, sentences and labels of a report, and which words decided each label."""
    from pipelines import label as labelling

    def tell(report: "RejectedReport") -> None:
        stderr.print(f"{report.origin}: {report.reason}: {report.detail}", markup=False, highlight=False)

    console = Console()
    for report in labelling.label_file(file, rules, headings, tell):
        if as_json:
            typer.echo(labelling.as_json(report))
        else:
            labelling.print_report(report, console)


@app.command()
def pretrain(store: Store, run: Run, settings: Settings = None) -> None:
    """Pretrain image and text encoders by local mutual information between regions and sentences."""
    from pipelines.bundle import pretrain as run_pretrain

    stderr.print(f"encoder: {run_pretrain(store, run, _parsed(settings))}", highlight=False)


@app.command()
def train(
    store: Store,
    run: Run,
    pretrained: Annotated[
        Path | None,
        typer.Option(help="Encoder weights (image_encoder.safetensors of a pretraining run); none: random."),
    ] = None,
    encoder: Annotated[
        Encoder, typer.Option(help="finetune: all weights are trained. frozen: a linear probe, the head alone.")
    ] = Encoder.FINETUNE,
    settings: Settings = None,
) -> None:
    """Train the multi-label pathology classifier, from pretrained encoder weights or from none."""
    from pipelines.bundle import train as run_train

    weights = run_train(store, run, pretrained, _parsed(settings), encoder)
    stderr.print(f"classifier: {weights}", highlight=False)


@app.command()
def evaluate(
    store: Store,
    run: Run,
    stage: Annotated[
        Stage, typer.Option(help="train: the classifier. pretrain: retrieval and mutual information.")
    ] = Stage.TRAIN,
    against: Annotated[
        Path | None, typer.Option(help="Another classifier's run: paired differences, this one less that one.")
    ] = None,
    views: Annotated[Views, typer.Option(help="How the probabilities of a study's images are combined.")] = Views.MEAN,
    resamples: Annotated[int, typer.Option(min=100, help="Of the test patients, for the intervals.")] = 1000,
    specificity: Annotated[float, typer.Option(min=0, max=1, help="At which the sensitivity is given.")] = 0.9,
    show_sentences: Annotated[
        bool, typer.Option("--show-sentences", help="Print sentences of reports on the page, which may travel.")
    ] = False,
    settings: Settings = None,
) -> None:
    """Evaluate a run on the held-out test split.

    Of a classifier: metrics.json, metrics.csv and a page, evaluation.html, in the run; thresholds and temperatures are
    chosen on the validation split. Of a pretraining: pretrain_metrics.json.
    """
    if stage is Stage.PRETRAIN:
        from pipelines.bundle import evaluate as evaluate_pretraining

        for name, value in evaluate_pretraining(store, run, stage, _parsed(settings)).items():
            typer.echo(f"{name}\t{'undefined' if value is None else f'{value:.4f}'}")
        return
    from pipelines.evaluation import evaluate_classifier

    evaluated = evaluate_classifier(
        store,
        run,
        against=against,
        views=views.value,
        resamples=resamples,
        specificity=specificity,
        show_sentences=show_sentences,
        overrides=_parsed(settings),
    )
    for line in evaluated.lines():
        typer.echo(line)
    stderr.print(f"page: {evaluated.page}\nfigures: {evaluated.table}", highlight=False)


@app.command()
def inference(store: Store, run: Run, settings: Settings = None) -> None:
    """Write predictions.csv: a probability a label for every image of the test split."""
    from pipelines.bundle import inference as run_inference

    stderr.print(f"predictions: {run_inference(store, run, _parsed(settings))}", highlight=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a pretraining run, of a classifier's, or of both.")],
    folder: Annotated[Path, typer.Argument(help="Folder for `encoder` and, of a classifier's run, `classifier`.")],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="torchscript, torch-export or onnx, beside safetensors, which is always written. Repeat for more; "
            "without it, all that can be written.",
        ),
    ] = None,
    data_licence: Annotated[str, typer.Option(help="Licence of the training data, for the model card.")] = "",
) -> None:
    """Export a run's networks so that others load them without this project, each format loaded back and compared."""
    from pipelines.export import export_run

    for exported in export_run(run, folder, formats, data_licence):
        for name, difference in exported.differences.items():
            typer.echo(f"{exported.folder.name}\t{name}\t{difference:.3g}")
        for name, why in exported.left_out.items():
            stderr.print(f"{exported.folder.name}: no {name}: {why}", highlight=False, markup=False)
        for note in exported.notes:
            stderr.print(f"{exported.folder.name}: {note}", highlight=False, markup=False)
        stderr.print(f"{exported.folder}", highlight=False, markup=False)


@app.command()
def predict(
    source: Annotated[
        Path,
        typer.Argument(
            help="Radiographs: a folder, file, ZIP archive, DICOMDIR, .txt list or table as for `ingest`; or a store. "
            "With --from, the folder into which images are fetched."
        ),
    ],
    folder: Annotated[
        Path, typer.Argument(help="Folder for the tables and results. The same again: only what is new.")
    ],
    model: Annotated[Path, typer.Option(help="An exported classifier: the folder that `export` wrote.")],
    maps: Annotated[
        bool, typer.Option("--maps", help="A heat map of each finding that is called present: PNG and NIfTI.")
    ] = False,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="For the archive: a structured report, and captures of the heat maps.")
    ] = False,
    send: Annotated[
        str, typer.Option(metavar="HOST:PORT:AET", help="Send the DICOM results to this archive; includes --dicom.")
    ] = "",
    fetch: Annotated[
        str, typer.Option("--from", metavar="HOST:PORT:AET", help="Fetch chest radiographs from this archive first.")
    ] = "",
    date: Annotated[
        str, typer.Option(help="Of the studies fetched: YYYYMMDD or YYYYMMDD-YYYYMMDD; left out: yesterday and today.")
    ] = "",
    calling_aet: Annotated[str, typer.Option(help="AE title of this machine, as archives know it.")] = "CXRLOCALMI",
    listen_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port for archives that send by C-MOVE; without it, C-GET is used."),
    ] = None,
    watch: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Do it again so often, until interrupted.")
    ] = None,
    for_processing: Annotated[
        str, typer.Option(help="Images FOR PROCESSING: reject, or convert (logarithm, then percentiles).")
    ] = "reject",
    burned_in: Annotated[str, typer.Option(help="Images with BurnedInAnnotation YES: reject or accept.")] = "reject",
    captures: Annotated[str, typer.Option(help="Secondary captures and colour: reject or accept.")] = "reject",
    batch_size: Annotated[int, typer.Option(min=1, help="Images that the network sees at a time.")] = 16,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read and decode.")] = 2,
) -> None:
    """Predict findings in radiographs: calibrated probabilities, decisions, heat maps, DICOM results.

    Writes predictions.parquet, predictions.csv and run.json. Research only, not for clinical use.
    """
    from pipelines.classifier import load_classifier
    from pipelines.predict import PredictionOptions
    from pipelines.prediction_batch import Archives, predict_in_rounds
    from pipelines.prediction_ledger import Wanted
    from preprocessing.configuration import IngestConfiguration

    selection = IngestConfiguration(for_processing=for_processing, burned_in=burned_in, captures=captures).selection
    if (date or listen_port) and not fetch:
        raise InputError("--date and --listen-port say what and how to fetch; name the archive with --from")
    archives = Archives(fetch, date, send, calling_aet, listen_port)
    archives.check()
    options = PredictionOptions(selection, Wanted(maps, dicom or bool(send)), workers, batch_size)
    for done in predict_in_rounds(source, folder, load_classifier(model), options, archives, watch, _step):
        for line in done.lines():
            stderr.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command()
def ground(
    run: Annotated[Path, typer.Argument(help="Folder of a pretraining run.")],
    image: Annotated[Path, typer.Argument(help="A radiograph: DICOM, PNG, JPEG, or an image of a store.")],
    sentence: Annotated[str, typer.Argument(help='For instance "There is a left pleural effusion."')],
    picture: Annotated[
        Path, typer.Argument(help="The PNG to write; beside it come the scores as a NIfTI, .nii.gz for .png.")
    ],
) -> None:
    """Show where in a radiograph a sentence is found: a picture, and a map that lies over the image in a viewer."""
    from pipelines.ground import ground_file

    scores = ground_file(run, image, sentence, picture)
    stderr.print(f"picture: {picture}\nscores: {scores}", highlight=False)


@app.command("zero-shot")
def zero_shot(
    run: Annotated[Path, typer.Argument(help="Folder of a pretraining run.")],
    source: Annotated[
        Path, typer.Argument(help="A store; or DICOM, PNG or JPEG images: a file, a folder, a .txt list.")
    ],
    table: Annotated[Path, typer.Argument(help="The CSV to write; beside it comes the same as .parquet.")],
    prompts: Annotated[
        Path | None,
        typer.Option(help="YAML of labels with positive and negative prompts; without it, CheXpert's observations."),
    ] = None,
    split: Annotated[str, typer.Option(help="Of a store: training, validation or test.")] = "test",
) -> None:
    """Score text prompts for images with the joint model: labels that nobody trained a classifier for."""
    from pipelines.zero_shot import score_prompts

    with _progress("scoring") as on_progress:
        scored = score_prompts(run, source, prompts, table, split=split, on_progress=on_progress)
    stderr.print(f"{scored.images} images, {scored.unreadable} of them not readable: {scored.csv}", highlight=False)


@app.command("nearest-reports")
def nearest_reports(
    run: Annotated[Path, typer.Argument(help="Folder of a pretraining run.")],
    store: Annotated[Path, typer.Argument(help="A store whose reports are searched.")],
    images: Annotated[list[Path], typer.Argument(help="Radiographs: DICOM, PNG, JPEG, or images of a store.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Reports for each image.")] = 10,
    split: Annotated[str | None, typer.Option(help="Search training, validation or test alone.")] = None,
    show_sentences: Annotated[
        bool, typer.Option("--show-sentences", help="Print the sentences of the reports, which are private.")
    ] = False,
) -> None:
    """Find the reports of a store that go best with an image, by the joint model."""
    from pipelines.notice import NOTICE
    from pipelines.zero_shot import nearest_reports as nearest

    with _progress("reading") as on_progress:
        neighbours = nearest(run, store, images, k, split=split, show_sentences=show_sentences, on_progress=on_progress)
    stderr.print(NOTICE)
    typer.echo("\t".join(("image", "rank", "study", "view", "score", *(("sentences",) if show_sentences else ()))))
    for found in neighbours:
        if found.unusable is not None:
            stderr.print(f"{found.image}: {found.unusable}", highlight=False, markup=False)
        for rank, report in enumerate(found.reports, 1):
            cells = (str(found.image), str(rank), report.study, report.view, f"{report.score:.4f}")
            typer.echo("\t".join((*cells, *((" ".join(report.sentences),) if report.sentences is not None else ()))))


@app.command()
def bundle(
    target: Annotated[Path, typer.Argument(help="A new folder, or a new file that ends in .zip.")],
    run: Annotated[
        Path | None, typer.Option(help="A run whose weights travel, with the configuration that fits them.")
    ] = None,
) -> None:
    """Copy the MONAI bundle out, bare or with the weights of a run, to use it with `python -m monai.bundle`."""
    from pipelines.bundle_copy import copy_bundle

    stderr.print(f"bundle: {copy_bundle(target, run)}", highlight=False)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for all that the demo makes.")] = Path("demo"),
    studies: Annotated[int, typer.Option(min=100, help="Number of synthetic studies.")] = 1200,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Walk the whole way on synthetic studies: phantoms, ingest, pretrain, train, evaluate, export."""
    from pipelines.demo import run_demo

    result = run_demo(folder, studies=studies, workers=workers, step=_step)
    typer.echo(result.text())


@app.command()
def study(
    folder: Annotated[Path, typer.Argument(help="Folder of the study; one that was stopped goes on.")],
    store: Annotated[
        Path | None, typer.Option(help="A store with reports and labels; without it, phantoms are made.")
    ] = None,
    scale: Annotated[
        Scale, typer.Option(help="small: an hour on two cores. full: for GPUs. See pipelines/study.yaml.")
    ] = Scale.SMALL,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; one a GPU, or one a core where there is none.")
    ] = None,
) -> None:
    """Find out what pretraining is worth: every objective, frozen and finetuned, with few and with many labels."""
    from pipelines.study_report import run_study

    report = run_study(folder, store, scale.value, workers, _step)
    typer.echo(report.text())
    stderr.print(f"page: {report.page}", highlight=False)


@contextmanager
def _step(description: str) -> Iterator[OnProgress]:
    """A heading on stderr; a bar under it as soon as there is progress to show."""
    stderr.rule(description, align="left")
    with ExitStack() as stack:
        bar: list[OnProgress] = []

        def on_progress(done: int, total: int | None) -> None:
            if not bar:
                bar.append(stack.enter_context(_progress(description)))
            bar[0](done, total)

        yield on_progress


class _RateColumn(ProgressColumn):
    """Files, studies or whatever is counted, a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


@contextmanager
def _progress(description: str) -> Iterator[OnProgress]:
    """A progress bar on stderr that is fed with (done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _print_summary(summary: "IngestSummary", *, redacted: bool) -> None:
    """What an ingest run came to, as a table on stderr."""
    table = Table(box=None, show_header=False)
    for name, outcomes in (("image files", summary.files), ("reports", summary.reports)):
        table.add_row(
            name,
            f"{outcomes.seen} seen: {outcomes.accepted} accepted, {outcomes.rejected} rejected, "
            f"{outcomes.duplicates} duplicates",
        )
        for reason, count in sorted(outcomes.reasons.items()):
            table.add_row("", f"{count} {reason}")
    known = summary.files.seen - summary.converted
    earlier = f", {known} known from earlier ones" if known > 0 else ""
    table.add_row("this run", f"{summary.converted} image files read in {summary.seconds:.0f} s{earlier}")
    table.add_row("store", f"{summary.images} images, {summary.studies} studies, {summary.patients} patients")
    table.add_row("", f"{summary.sentences} sentences; studies by report: {_counts(summary.report_status)}")
    for name in (
        "splits",
        "views",
        "modalities",
        "transfer_syntaxes",
        "decoders",
        "presets",
        "vois",
        "original_sizes",
        "flags",
    ):
        table.add_row(name.replace("_", " "), _counts(getattr(summary, name)))
    if summary.labels_matched or summary.labels_unmatched:
        table.add_row(
            "given labels", f"{summary.labels_matched} studies matched, {summary.labels_unmatched} rows of no study"
        )
    present = {name: values["1"] for name, values in summary.labels.items() if "1" in values}
    if present:
        table.add_row("studies with", _counts(present))
    if summary.identifiers:
        done = "replaced" if redacted else "in the sentences; --redact replaces it"
        table.add_row("looks like identifiers", f"{_counts(summary.identifiers)} ({done}; rules miss some)")
    if summary.unmapped_headings or summary.other_unmapped_headings:
        rare = f"; {summary.other_unmapped_headings} rarer ones" if summary.other_unmapped_headings else ""
        table.add_row("unmapped headings", f"{_counts(summary.unmapped_headings)}{rare}")
    stderr.print(table, highlight=False, markup=False)
    stderr.print(f"{summary.store}  (keys and identities: {summary.private})", highlight=False, markup=False)


def _counts(counts: dict[str, int]) -> str:
    """The most frequent, for people; all of them are in run.json."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count} {name}" for name, count in ordered[:MOST_SHOWN]]
    if len(ordered) > MOST_SHOWN:
        shown.append(f"{sum(count for _, count in ordered[MOST_SHOWN:])} of {len(ordered) - MOST_SHOWN} other kinds")
    return ", ".join(shown) or "none"


def _parsed(settings: list[str] | None) -> dict[str, Any]:
    """`key=value` pairs, the values read as `monai.bundle run` reads them."""
    parsed = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise InputError(f"--set {setting!r} has no '='; write --set KEY=VALUE")
        parsed[key] = DefaultParseValue(value)
    return parsed


if __name__ == "__main__":
    main()
