"""The joint network scores regions with sentences and images with reports, each by the definition."""

import json

import numpy as np
import pytest
import torch
from local_mi.errors import ConfigurationError
from local_mi.network import LocalMINetwork
from local_mi.objectives import OBJECTIVES, MutualInformationObjective
from local_mi.pairs import PairCollator, prepare_pairs
from local_mi.paper_resnet import PaperResNet
from local_mi.text_models import prepare_text_model
from local_mi.tokens import text_batch, tokenized_reports
from monai.networks.nets import DenseNet, ResNet, resnet18
from torch import Tensor, nn

SMALL_BERT = {"vocabulary_size": 200, "hidden_size": 16, "layers": 1, "heads": 2, "max_tokens": 48}
REPORTS = [
    ["Small left pleural effusion.", "No pneumothorax."],
    ["No pneumothorax.", "Heart size is normal, lungs are clear.", "Right basal opacity."],
    ["Endotracheal tube above the carina."],
]


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("text")
    np.save(folder / "i.npy", np.zeros((4, 4), np.uint8))
    items = [{"image": "i.npy", "study": f"s{k}", "patient": "p", "sentences": s} for k, s in enumerate(REPORTS)]
    (folder / "datalist.json").write_text(json.dumps({"training": items}))
    return prepare_text_model(str(folder / "text_model"), None, str(folder / "datalist.json"), SMALL_BERT)


def thin_resnet() -> ResNet:
    return resnet18(spatial_dims=2, n_input_channels=1, conv1_t_stride=2, widen_factor=0.125, feed_forward=False)


def thin_densenet() -> DenseNet:
    return DenseNet(spatial_dims=2, in_channels=1, out_channels=2, init_features=8, growth_rate=4, block_config=(2, 2))


def network_of(text_model: str, objective: str, encoder: nn.Module | None = None, **settings: object) -> LocalMINetwork:
    torch.manual_seed(0)
    defaults = {"pooling": "mean", "critic": "separable", "embedding_features": 5, "hidden_features": [7, 6]}
    defaults |= {"temperature": 0.1, "aggregation": "max", "aggregation_temperature": 1.0, "labels": 0}
    return LocalMINetwork(encoder or thin_resnet(), text_model, objective=objective, **(defaults | settings))


def without_dropout(network: LocalMINetwork) -> LocalMINetwork:
    """Scores as in training, its parts as in evaluation: no random number, no statistics of the batch."""
    network.train()
    network.image_encoder.eval()
    network.text_encoder.eval()
    return network


def batch_of(
    text_model: str, sentences: str = "all", size: tuple[int, int] = (96, 64), encoding: str = "sentence"
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    random = torch.Generator().manual_seed(0)
    items = [
        {"image": torch.rand(1, *size, generator=random), "study": f"s{k}", "item": k, "report": k, "epoch": 1}
        | {"label": [1.0, float("nan")]}
        for k in range(3)
    ]
    tokens = tokenized_reports(REPORTS, text_model, encoding, 48, None)
    batch = PairCollator(tokens, sentences, True, 0)(items)
    image, pairs, _, text = prepare_pairs(batch, "cpu", False)
    return image, pairs, text


@pytest.mark.parametrize("critic", ["separable", "concatenation"])
def test_a_local_score_is_that_of_the_best_region_with_the_sentence(text_model: str, critic: str) -> None:
    network = without_dropout(network_of(text_model, "local", critic=critic))
    image, _, text = batch_of(text_model)
    with torch.no_grad():
        scores = network(image, **text)["local"]
        network.eval()
        projections = network(image, **text)
        regions = network.region_scores(image, text)
    assert scores.shape == (3, 6)
    assert regions.shape == (3, 3, 2, 6)
    torch.testing.assert_close(scores, regions.flatten(1, 2).max(dim=1).values)
    for b in range(3):
        for n in range(6):
            pairs = [
                network.local_critic.score(region[None], projections["sentences"][n : n + 1])[0, 0]
                for region in projections["regions"][b]
            ]
            torch.testing.assert_close(torch.stack(pairs), regions[b, :, :, n].flatten())


def test_a_global_score_is_that_of_the_image_with_the_mean_of_its_reports_sentences(text_model: str) -> None:
    network = network_of(text_model, "global").eval()
    image, _, text = batch_of(text_model)
    with torch.no_grad():
        found = network(image, **text)
        vectors = network.text_encoder(*(text[k] for k in ("token_ids", "attention_mask", "token_span", "span_tokens")))
        sentences = vectors[text["sentence_span"]]
        for b in range(3):
            own = [sentences[n] for n in range(6) if int(text["sentence_image"][n]) == b]
            report = network.global_critic.project_right((sum(own) / len(own))[None])
            torch.testing.assert_close(found["reports"][b], report[0])
            pooled = network.image_encoder(image[b : b + 1])
            torch.testing.assert_close(found["images"][b], network.global_critic.project_left(pooled)[0])
        alone = network.report_scores(image, text_batch(["No pneumothorax."], text_model, "sentence", 48))
        expected = network.global_critic.score(found["images"], network.global_critic.project_right(sentences[1:2]))
    torch.testing.assert_close(alone, expected)


def test_only_drawn_sentences_are_scored_locally_and_all_make_the_report(text_model: str) -> None:
    network = network_of(text_model, "local+global").train()
    image, pairs, text = batch_of(text_model, "one")
    scores = network(image, **text)
    assert int(pairs["drawn"].sum()) == 3
    assert scores["local"].shape == scores["global"].shape == (3, 3)
    assert len(text["sentence_span"]) == 6


@pytest.mark.parametrize("encoding", ["sentence", "report-once"])
@pytest.mark.parametrize("labels", [0, 2])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_trainable_parameter_gets_a_gradient(text_model: str, objective: str, labels: int, encoding: str) -> None:
    """One without stops data-parallel training."""
    for encoder, size in ((thin_resnet(), (64, 64)), (thin_densenet(), (64, 64)), (PaperResNet(None), (256, 256))):
        network = network_of(text_model, objective, encoder, labels=labels, critic="concatenation").train()
        image, pairs, text = batch_of(text_model, size=size, encoding=encoding)
        objective_of = MutualInformationObjective(objective, "infonce", 1.0, 1.0 if labels else 0.0, 0.9)
        objective_of(network(image, **text), pairs).backward()
        missing = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []


@pytest.mark.parametrize("aggregation", ["max", "logsumexp", "attention"])
@pytest.mark.parametrize("critic", ["separable", "concatenation"])
def test_bfloat16_autocast_gives_the_loss_of_single_precision(text_model: str, critic: str, aggregation: str) -> None:
    settings = {"critic": critic, "aggregation": aggregation, "temperature": 1.0}
    network = without_dropout(network_of(text_model, "local+global", **settings))
    objective = MutualInformationObjective("local+global", "dv", 1.0, 0.0, 0.9)
    image, pairs, text = batch_of(text_model)
    with torch.no_grad():
        exact = objective(network(image, **text), pairs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = objective(network(image, **text), pairs)
    assert rounded.dtype == torch.float32
    assert float(rounded) == pytest.approx(float(exact), abs=0.02)
    assert float(rounded) != float(exact)


def test_the_layout_in_memory_changes_no_score(text_model: str) -> None:
    network = network_of(text_model, "local+global").eval()
    image, _, text = batch_of(text_model)
    with torch.no_grad():
        expected = network(image, **text)
        network.to(memory_format=torch.channels_last)
        found = network(image.contiguous(memory_format=torch.channels_last), **text)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "locale"}, "objective 'locale' is unknown; choose one of global, local, local\\+global"),
        ({"objective": "local", "critic": "bilinear"}, "critic 'bilinear' is unknown; choose separable or concat"),
        ({"objective": "local", "aggregation": "median"}, "aggregation 'median' is unknown; choose one of max"),
        ({"objective": "local", "aggregation_temperature": 0}, "aggregation_temperature is 0; it must be above 0"),
        ({"objective": "local", "critic": "concatenation", "hidden_features": [8]}, "write two widths"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_known_ones(
    text_model: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        network_of(text_model, **settings)


def test_what_an_objective_does_not_score_is_said(text_model: str) -> None:
    image, _, text = batch_of(text_model)
    with pytest.raises(ConfigurationError, match="`global` scores no regions"):
        network_of(text_model, "global").region_scores(image, text)
    with pytest.raises(ConfigurationError, match="`local` scores no reports"):
        network_of(text_model, "local").report_scores(image, text)
