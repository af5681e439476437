"""Zero-shot scores are the pairing score of the definition, the one that held-out retrieval is measured by."""

import json
import math
from collections.abc import Callable
from statistics import median

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi import zero_shot
from local_mi.held_out_pairs import HeldOutPairs
from local_mi.network import LocalMINetwork
from local_mi.text_models import prepare_text_model
from local_mi.tokens import TokenTable, tokenized_reports
from local_mi.zero_shot import all_scores, encode_reports, label_scores, nearest, project_images
from monai.networks.nets import resnet18
from slow_oracles import slow_aggregate
from torch import Tensor

SMALL_BERT = {"vocabulary_size": 200, "hidden_size": 16, "layers": 1, "heads": 2, "max_tokens": 48}
REPORTS = [
    ["Small left pleural effusion.", "No pneumothorax."],
    ["No pneumothorax.", "Heart size is normal, lungs are clear.", "Right basal opacity."],
    ["Endotracheal tube above the carina."],
    ["No pneumothorax."],
    ["Right basal opacity.", "Small left pleural effusion.", "Right basal opacity."],
]
objectives = pytest.mark.parametrize("objective", ["local", "global", "local+global"])
critics = pytest.mark.parametrize("critic", ["separable", "concatenation"])
encodings = pytest.mark.parametrize("encoding", ["sentence", "report-once"])


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("text")
    np.save(folder / "i.npy", np.zeros((4, 4), np.uint8))
    items = [{"image": "i.npy", "study": f"s{k}", "patient": "p", "sentences": s} for k, s in enumerate(REPORTS)]
    (folder / "datalist.json").write_text(json.dumps({"training": items}))
    return prepare_text_model(str(folder / "text_model"), None, str(folder / "datalist.json"), SMALL_BERT)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that every loop has a whole chunk and a rest."""
    for name, size in {"TEXT_CHUNK": 3, "REPORT_CHUNK": 2, "REGION_PAIRS": 40}.items():
        monkeypatch.setattr(zero_shot, name, size)


def network_of(
    text_model: str, objective: str, critic: str = "separable", aggregation: str = "logsumexp"
) -> LocalMINetwork:
    torch.manual_seed(0)
    encoder = resnet18(spatial_dims=2, n_input_channels=1, conv1_t_stride=2, widen_factor=0.125, feed_forward=False)
    return LocalMINetwork(encoder, text_model, "mean", objective, critic, 5, [7, 6], 0.1, aggregation, 0.7, 0).eval()


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 1, 96, 64, generator=torch.Generator().manual_seed(0))


def tokens_of(text_model: str, encoding: str = "sentence") -> TokenTable:
    return tokenized_reports(REPORTS, text_model, encoding, 48, None)


def evaluated(network: LocalMINetwork, tokens: TokenTable) -> tuple[dict[str, Tensor], Tensor]:
    """The network's own projections of the images with the reports, as in validation, and each sentence's report."""
    rows, counts = tokens.sentences_of(np.arange(len(REPORTS)))
    report_of = torch.from_numpy(np.repeat(np.arange(len(REPORTS)), counts))
    drawn = torch.ones(len(rows), dtype=torch.bool)
    with torch.no_grad():
        return network(images(), **tokens.batch(rows), sentence_image=report_of, drawn=drawn), report_of


def slow_score(network: LocalMINetwork, found: dict[str, Tensor], report_of: Tensor, image: int, report: int) -> float:
    """One pair: the mean over sentences of the aggregated regions, and the global critic's score."""
    score = 0.0
    if network.local_critic is not None:
        own = [n for n, owner in enumerate(report_of.tolist()) if owner == report]
        for n in own:
            regions = network.local_critic.score(found["regions"][image], found["sentences"][n : n + 1])[:, 0]
            aggregated = slow_aggregate(list(regions), network.aggregation, network.aggregation_temperature)
            score += float(aggregated) / len(own)
    if network.global_critic is not None:
        pair = found["images"][image : image + 1], found["reports"][report : report + 1]
        score += float(network.global_critic.score(*pair)[0, 0])
    return score


@objectives
@critics
@encodings
@pytest.mark.usefixtures("small_chunks")
def test_a_report_scores_as_a_loop_over_its_sentences_and_the_images_regions(
    objective: str, critic: str, encoding: str, text_model: str
) -> None:
    network, tokens = network_of(text_model, objective, critic), tokens_of(text_model, encoding)
    scores = all_scores(network, project_images(network, images()), encode_reports(network, tokens))
    with torch.no_grad():
        found = evaluated(network, tokens)
        expected = [[slow_score(network, *found, b, m) for m in range(len(REPORTS))] for b in range(5)]
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@objectives
@pytest.mark.usefixtures("small_chunks")
def test_own_reports_are_found_as_often_as_held_out_retrieval_says(objective: str, text_model: str) -> None:
    network, tokens = network_of(text_model, objective), tokens_of(text_model)
    found, report_of = evaluated(network, tokens)
    metric = HeldOutPairs(network, 1000)
    metric.update((found, {"sentence_image": report_of, "study": torch.arange(len(REPORTS))}))
    figures = metric.compute()
    _, numbers = nearest(network, project_images(network, images()), encode_reports(network, tokens), len(REPORTS))
    ranks = [row.index(own) + 1 for own, row in enumerate(numbers.tolist())]  # no two scores are equal
    assert figures["retrieval/image_to_report/median_rank"] == median(ranks)
    for k in (1, 5):
        assert figures[f"retrieval/image_to_report/recall_at_{k}"] == pytest.approx(np.mean([r <= k for r in ranks]))


@pytest.mark.usefixtures("small_chunks")
def test_each_distinct_sentence_is_encoded_once_whatever_the_number_of_images(text_model: str) -> None:
    network, passages = network_of(text_model, "local+global"), []
    network.text_encoder.register_forward_hook(lambda module, given, vectors: passages.append(len(given[0])))
    reports = encode_reports(network, tokens_of(text_model))
    for _ in range(3):
        nearest(network, project_images(network, images()), reports, 2)
    assert sum(passages) == len({sentence for report in REPORTS for sentence in report})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=4),
    st.integers(1, 9),
    st.integers(1, 8),
)
def test_the_nearest_are_the_first_of_all_when_sorted(scores: list[list[int]], k: int, chunk: int) -> None:
    """Many scores are equal: the earlier report comes first, also across chunks."""
    table = torch.tensor(scores, dtype=torch.float32)
    reports = zero_shot.EncodedReports(torch.empty(0), torch.empty(0), torch.arange(8))

    def of_chunk(network: object, batch: object, encoded: object, first: int, last: int) -> Tensor:
        return table[:, first:last]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zero_shot, "REPORT_CHUNK", chunk)
        patch.setattr(zero_shot, "report_scores", of_chunk)
        best, numbers = nearest(None, None, reports, k)  # type: ignore[arg-type]
    for row, values, found in zip(scores, best.tolist(), numbers.tolist(), strict=True):
        expected = sorted(range(7), key=lambda n: (-row[n], n))[:k]
        assert found == expected
        assert values == [row[n] for n in expected]


def test_a_label_is_the_softmax_of_mean_scores_and_without_negative_prompts_the_mean_score() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.5, -1.0], [0.0, -3.0, 4.0, 2.0]])
    found = label_scores(scores, [[0, 1], [3], [2, 0]], [[2], [0, 1, 2], []])
    for row, (a, b, c, d) in zip(found.tolist(), scores.tolist(), strict=True):
        pairs = [((a + b) / 2, c), (d, (a + b + c) / 3)]
        probabilities = [math.exp(yes) / (math.exp(yes) + math.exp(no)) for yes, no in pairs]
        assert row == pytest.approx([*probabilities, (c + a) / 2])


def test_confident_probabilities_do_not_tie() -> None:
    first, second = label_scores(torch.tensor([[30.0, 0.0], [31.0, 0.0]]), [[0]], [[1]])[:, 0].tolist()
    assert first < second < 1


@pytest.mark.parametrize("side", [project_images, lambda network, batch: encode_reports(network, batch)])
def test_nothing_keeps_a_gradient(side: Callable[..., object], text_model: str) -> None:
    network = network_of(text_model, "local+global")
    made = side(network, images() if side is project_images else tokens_of(text_model))
    assert not any(value.requires_grad for value in vars(made).values())
