"""Labels go from reports into a store, with their evidence; a hospital's own files change what is read."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from made_archive import SMALL, datalist, items, result, write_image, write_report

from preprocessing.errors import InputError
from preprocessing.ingest import ingest
from preprocessing.labels import label_names
from preprocessing.lexicon import rule_pack

TEXTS = {
    1: "FINDINGS: Moderate left pleural effusion. Discussed with Dr. Jane Miller.\nLINES SEEN: A PICC.\n",
    2: "FINDINGS: No pleural effusion. Interstitial edema.\n",
    3: "INDICATION: Effusion.\nIMPRESSION: Normal chest.\n",
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for number in (1, 2, 3, 4):
        write_image(tmp_path / "in" / f"{number}.dcm", number)
        if number in TEXTS:
            write_report(tmp_path / "reports" / f"A{number}.txt", TEXTS[number])
    return tmp_path


def label_of(store: Path, name: str) -> list[int | None]:
    """The label of the studies with a report and without one, by what their sentences begin with."""
    place = datalist(store)["label_names"].index(name)
    found = {item["sentences"][0][:6] if item["sentences"] else "": item["label"][place] for item in items(store)}
    return [found[begin] for begin in ("Modera", "No ple", "Normal", "")]


def test_without_a_table_the_labels_are_those_that_reports_say(archive: Path) -> None:
    store = archive / "out"
    summary = ingest(archive / "in", store, reports=archive / "reports", configuration=SMALL)
    assert datalist(store)["label_names"] == list(label_names(rule_pack()))
    assert label_of(store, "Pleural Effusion") == [1, 0, None, None]
    assert label_of(store, "No Finding") == [None, None, 1, None]
    assert summary.labels["Pleural Effusion"] == {"0": 1, "1": 1}
    studies = pl.read_parquet(store / "studies.parquet")
    assert sorted(studies["edema_severity"].to_list(), key=str) == [2, None, None, None]
    table = pl.read_parquet(store / "report_labels.parquet")
    assert len(table) == 3
    joined = studies.drop_nulls("edema_severity").join(table, on="study", suffix="_read")
    assert joined["edema_severity"].to_list() == joined["edema_severity_read"].to_list() == [2]
    evidence = pl.read_parquet(store / "report_evidence.parquet")
    effusion = evidence.filter((pl.col("observation") == "Pleural Effusion") & (pl.col("value") == 1))
    ((start, end),) = effusion.select("start", "end").rows()
    assert TEXTS[1][start:end] == "pleural effusion"
    assert set(evidence["study"]) <= set(table["study"])


def test_a_given_table_is_not_mixed_with_what_reports_say(archive: Path) -> None:
    labels = archive / "labels.csv"
    labels.write_text("study,Pleural Effusion\nA1,0\nA2,-1\n", encoding="utf-8")
    store = archive / "out"
    ingest(archive / "in", store, reports=archive / "reports", labels=labels, configuration=SMALL)
    assert datalist(store)["label_names"] == ["Pleural Effusion"]
    assert label_of(store, "Pleural Effusion") == [0, -1, None, None]
    read = pl.read_parquet(store / "report_labels.parquet")
    assert sorted(read["Pleural Effusion"].to_list(), key=str) == [0, 1, None]


def test_without_reports_there_are_no_labels(archive: Path) -> None:
    ingest(archive / "in", archive / "out", configuration=SMALL)
    assert datalist(archive / "out")["label_names"] == []
    assert pl.read_parquet(archive / "out" / "report_labels.parquet").is_empty()


def test_redaction_replaces_in_the_store_what_looks_like_an_identifier(archive: Path) -> None:
    for name, redact in (("plain", False), ("redacted", True)):
        configuration = replace(SMALL, redact=redact)
        summary = ingest(archive / "in", archive / name, reports=archive / "reports", configuration=configuration)
        assert summary.identifiers == {"name": 1}
    told = [(archive / name / "datalist.json").read_text(encoding="utf-8") for name in ("plain", "redacted")]
    assert ["Miller" in text for text in told] == [True, False]
    assert "Miller" not in str(pl.read_parquet(archive / "redacted" / "studies.parquet").to_dict(as_series=False))
    with pytest.raises(InputError, match="redact"):
        ingest(archive / "in", archive / "plain", reports=archive / "reports", configuration=configuration)


def test_a_hospitals_own_headings_and_rules_are_part_of_the_store(archive: Path) -> None:
    rules, headings = archive / "rules.yaml", archive / "headings.yaml"
    rules.write_text("version: ours\nobservations:\n  Scoliosis: [normal chest]\n", encoding="utf-8")
    headings.write_text("headings:\n  findings: [lines seen]\n", encoding="utf-8")
    configuration = replace(SMALL, rules=rules, headings=headings)
    ingest(archive / "in", archive / "out", reports=archive / "reports", configuration=configuration)
    assert label_of(archive / "out", "Scoliosis") == [None, None, 1, None]
    assert label_of(archive / "out", "Support Devices") == [1, None, None, None]
    before = result(archive / "out")
    moved = archive / "elsewhere.yaml"
    rules.rename(moved)
    ingest(
        archive / "in", archive / "out", reports=archive / "reports", configuration=replace(configuration, rules=moved)
    )
    assert result(archive / "out") == before
    moved.write_text("version: other\n", encoding="utf-8")
    with pytest.raises(InputError, match="rules"):
        ingest(
            archive / "in",
            archive / "out",
            reports=archive / "reports",
            configuration=replace(configuration, rules=moved),
        )


def test_an_observation_cannot_have_the_name_of_a_column(archive: Path) -> None:
    rules = archive / "rules.yaml"
    rules.write_text("version: 1\nobservations: {split: [crack]}\n", encoding="utf-8")
    with pytest.raises(InputError, match="split"):
        ingest(archive / "in", archive / "out", configuration=replace(SMALL, rules=rules))


@pytest.mark.parametrize("name", ["rules", "headings"])
def test_a_wrong_file_is_told_before_anything_is_written(archive: Path, name: str) -> None:
    wrong = archive / "wrong.yaml"
    wrong.write_text("- no mapping\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"wrong\.yaml"):
        ingest(archive / "in", archive / "out", configuration=replace(SMALL, **{name: wrong}))
    assert not (archive / "out").exists()
    assert not (archive / "out.private").exists()
