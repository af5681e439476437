"""A hospital's night batch: fetch a day's radiographs, predict, send the results; once, or again and again.

Around `predict`. Every part does only what is not done yet, so that a round that failed is made good by the next one.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pipelines.classifier import Classifier
from pipelines.predict import OnProgress, PredictionOptions, PredictionSummary, predict
from pipelines.prediction_ledger import open_prediction_ledger
from pipelines.prediction_results import DICOM
from preprocessing.errors import InputError
from preprocessing.sources import file_version
from preprocessing.store import locked

Step = Callable[[str], AbstractContextManager[OnProgress]]


@dataclass(frozen=True)
class Archives:
    """Where images come from and results go to.

    Args:
        fetch_from: `HOST:PORT:AET` of the archive that has the images; blank for none.
        day: `YYYYMMDD` or a range of what is fetched; blank for the day on which a round begins and the one before.
        send_to: `HOST:PORT:AET` of the archive that takes the results; blank for none.
        calling_aet: AE title of this machine.
        listen_port: of this machine, for archives that send by C-MOVE; by C-GET where None.
    """

    fetch_from: str = ""
    day: str = ""
    send_to: str = ""
    calling_aet: str = "CXRLOCALMI"
    listen_port: int | None = None

    def check(self) -> None:
        """Raise InputError for an address, a title or a day that is none, and where pynetdicom is missing."""
        if self.fetch_from or self.send_to:
            from pipelines.archive_fetch import checked_day
            from pipelines.archive_peer import checked_aet, parse_peer

            for address in filter(None, (self.fetch_from, self.send_to)):
                parse_peer(address)
            checked_aet(self.calling_aet)
            if self.day:
                checked_day(self.day)


@dataclass(frozen=True)
class Round:
    """What one round did.

    Args:
        summary: of the prediction; None where there was no file yet.
        fetched: images fetched now, and `not_fetched` those that could not be, by reason.
        sent: results stored by the archive now, and `not_sent` those that were refused, by reason.
    """

    summary: PredictionSummary | None
    fetched: int
    not_fetched: dict[str, int]
    sent: int
    not_sent: dict[str, int]

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"fetched: {self.fetched}"] if self.fetched or self.not_fetched else []
        lines += [f"not fetched: {count} ({reason})" for reason, count in self.not_fetched.items()]
        lines += self.summary.lines() if self.summary else ["no files yet"]
        lines += [f"sent: {self.sent}"] if self.sent or self.not_sent else []
        return lines + [f"not sent: {count} ({reason})" for reason, count in self.not_sent.items()]


def predict_in_rounds(
    source: Path,
    folder: Path,
    classifier: Classifier,
    options: PredictionOptions,
    archives: Archives,
    every: float | None,
    step: Step,
) -> Iterator[Round]:
    """Fetch, predict and send; yield what was done.

    Args:
        source: see `predict`; the folder into which is fetched, where an archive is named for that.
        folder: of the predictions.
        classifier: what predicts.
        options: how.
        archives: see there.
        every: seconds from the beginning of a round to that of the next; None for one round.
        step: entered with the name of each step; gives what is told of progress.

    Raises:
        InputError, OSError: see `predict`, `archive.fetch_day` and `archive.send_files`. Where rounds are repeated, an
            archive that is not there ends no more than the round.
    """
    if every is None and archives.send_to:
        _ask_whether_there(archives)
    for _ in itertools.count() if every is not None else [None]:
        began = time.monotonic()
        yield _round(source, folder, classifier, options, archives, every is not None, step)
        time.sleep(max(0.0, began + (every or 0) - time.monotonic()))


def _ask_whether_there(archives: Archives) -> None:
    """Before hours of work whose results nobody would take."""
    from pipelines.archive import echo, parse_peer

    echo(parse_peer(archives.send_to), archives.calling_aet)


def _round(
    source: Path,
    folder: Path,
    classifier: Classifier,
    options: PredictionOptions,
    archives: Archives,
    is_watch: bool,
    step: Step,
) -> Round:
    fetched, not_fetched = 0, dict[str, int]()
    if archives.fetch_from:
        fetched, not_fetched = _patiently(is_watch, lambda: _fetch(source, archives, step))
    summary = None
    if not (is_watch or archives.fetch_from) or _has_files(source, folder):
        with step("predicting") as on_progress:
            summary = predict(source, folder, classifier, options, on_progress)
    sent, not_sent = 0, dict[str, int]()
    if archives.send_to and summary is not None:
        sent, not_sent = _patiently(is_watch, lambda: _send(folder, archives, step))
    return Round(summary, fetched, not_fetched, sent, not_sent)


def _patiently(is_watch: bool, work: Callable[[], tuple[int, dict[str, int]]]) -> tuple[int, dict[str, int]]:
    """Let an archive that is down be asked again by the next round, where there will be one."""
    try:
        return work()
    except InputError as error:
        if not is_watch:
            raise
        return 0, {str(error): 1}


def _has_files(source: Path, folder: Path) -> bool:
    """Whether there is anything to predict; a folder that is watched may be empty still."""
    folder = folder.absolute()
    within = source.absolute().rglob("*")
    return source.is_file() or any(path.is_file() for path in within if not path.is_relative_to(folder))


def _fetch(folder: Path, archives: Archives, step: Step) -> tuple[int, dict[str, int]]:
    from pipelines.archive import fetch_day, parse_peer  # pynetdicom need not be installed

    today = datetime.now().astimezone()
    day = archives.day or f"{today - timedelta(days=1):%Y%m%d}-{today:%Y%m%d}"
    with step("fetching") as on_progress:
        fetched = fetch_day(
            parse_peer(archives.fetch_from),
            day,
            folder,
            archives.calling_aet,
            on_progress,
            listen_port=archives.listen_port,
        )
    return fetched.fetched, fetched.failed


def _send(folder: Path, archives: Archives, step: Step) -> tuple[int, dict[str, int]]:
    """Send the results that the archive has not stored yet as they are now."""
    from pipelines.archive import parse_peer, send_files

    peer = parse_peer(archives.send_to)
    outcomes: Counter[str] = Counter()
    with locked(folder, "folder of predictions"), open_prediction_ledger(folder, {}, "") as ledger:
        files = sorted((folder / DICOM).glob("*/*.dcm"))
        names = {path: path.relative_to(folder).as_posix() for path in files}
        versions = {path: file_version(str(path)) for path in files}
        unsent = [path for path in files if not ledger.is_sent(names[path], versions[path], str(peer))]
        with step("sending") as on_progress:
            sending = send_files(unsent, peer, archives.calling_aet)
            for done, (path, reason) in enumerate(sending if unsent else (), 1):
                outcomes[reason] += 1
                if not reason:
                    ledger.record_sent(names[path], versions[path], str(peer))
                on_progress(done, len(unsent))
    return outcomes.pop("", 0), dict(outcomes)
