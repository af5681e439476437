"""Critics: score an image region with a sentence.

A critic first projects each side on its own (`project_regions`, `project_sentences`) and then scores all pairs of the
projections (`score`), so that the expensive part grows with the number of regions and sentences, not of their pairs.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_INVERSE_TEMPERATURE = 100.0  # as in CLIP (Radford et al. 2021, section 2.5): keeps the softmax from collapsing


class CosineCritic(nn.Module):
    """Separable critic: cosine of linear projections over a learned temperature.

    Args:
        region_features: channels of the image encoder's feature map.
        sentence_features: width of a sentence vector.
        embedding_features: width D of the common space.
        temperature: initial value; learned in the logarithm.
    """

    def __init__(
        self, region_features: int, sentence_features: int, embedding_features: int, temperature: float
    ) -> None:
        super().__init__()
        self.region_projection = nn.Linear(region_features, embedding_features)
        self.sentence_projection = nn.Linear(sentence_features, embedding_features)
        self.log_inverse_temperature = nn.Parameter(torch.tensor(-math.log(temperature)))

    def project_regions(self, regions: Tensor) -> Tensor:
        """(B, R, C) features of regions -> (B, R, D), unit length."""
        return F.normalize(self.region_projection(regions), dim=-1)

    def project_sentences(self, sentences: Tensor) -> Tensor:
        """(N, H) sentence vectors -> (N, D), unit length."""
        return F.normalize(self.sentence_projection(sentences), dim=-1)

    def score(self, regions: Tensor, sentences: Tensor) -> Tensor:
        """Scores of all pairs: (B, R, D) and (N, D) -> (B, R, N)."""
        scale = self.log_inverse_temperature.exp().clamp(max=MAX_INVERSE_TEMPERATURE)
        return scale * (regions @ sentences.T)
