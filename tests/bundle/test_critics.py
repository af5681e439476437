"""The separable critic scores every region with every sentence: a cosine over a learned temperature."""

import math

import pytest
import torch
from local_mi.critics import MAX_INVERSE_TEMPERATURE, CosineCritic


@pytest.fixture
def critic() -> CosineCritic:
    torch.manual_seed(0)
    return CosineCritic(region_features=6, sentence_features=5, embedding_features=4, temperature=0.2)


def test_score_is_the_cosine_of_the_projections_over_the_temperature(critic: CosineCritic) -> None:
    regions, sentences = torch.randn(3, 7, 6), torch.randn(5, 5)
    critic.requires_grad_(False)
    scores = critic.score(critic.project_regions(regions), critic.project_sentences(sentences))
    assert scores.shape == (3, 7, 5)
    for b in range(3):
        for r in range(7):
            for n in range(5):
                left = critic.region_projection.weight @ regions[b, r] + critic.region_projection.bias
                right = critic.sentence_projection.weight @ sentences[n] + critic.sentence_projection.bias
                cosine = (left * right).sum() / (left.norm() * right.norm())
                assert float(scores[b, r, n]) == pytest.approx(float(cosine) / 0.2, abs=1e-5)


def test_scoring_in_chunks_of_images_changes_nothing(critic: CosineCritic) -> None:
    regions, sentences = critic.project_regions(torch.randn(7, 4, 6)), critic.project_sentences(torch.randn(3, 5))
    chunks = [critic.score(chunk, sentences) for chunk in regions.split(2)]
    torch.testing.assert_close(torch.cat(chunks), critic.score(regions, sentences))


def test_the_length_of_features_does_not_matter_without_bias(critic: CosineCritic) -> None:
    torch.nn.init.zeros_(critic.region_projection.bias)
    regions, sentences = torch.randn(2, 3, 6), critic.project_sentences(torch.randn(4, 5))
    one, ten = (critic.score(critic.project_regions(k * regions), sentences) for k in (1, 10))
    torch.testing.assert_close(one, ten)


def test_scores_stay_within_the_largest_inverse_temperature(critic: CosineCritic) -> None:
    torch.nn.init.constant_(critic.log_inverse_temperature, math.log(1e6))
    regions = critic.project_regions(torch.randn(2, 9, 6))
    scores = critic.score(regions, regions[0])
    assert float(scores.abs().max()) == pytest.approx(MAX_INVERSE_TEMPERATURE, rel=1e-5)


def test_a_zero_feature_gives_finite_scores_and_gradients(critic: CosineCritic) -> None:
    torch.nn.init.zeros_(critic.region_projection.bias)
    regions = torch.zeros(1, 2, 6, requires_grad=True)
    critic.score(critic.project_regions(regions), critic.project_sentences(torch.randn(3, 5))).sum().backward()
    assert regions.grad is not None
    assert torch.isfinite(regions.grad).all()


def test_every_parameter_learns(critic: CosineCritic) -> None:
    critic.score(critic.project_regions(torch.randn(2, 3, 6)), critic.project_sentences(torch.randn(4, 5)))[
        0, 0, 0
    ].backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in critic.parameters())
