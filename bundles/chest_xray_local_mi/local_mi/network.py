"""The joint network of pretraining: image encoder, text encoder and critic."""

from torch import Tensor, nn

from local_mi.critics import CosineCritic
from local_mi.encoders import feature_channels, feature_map
from local_mi.text import TextEncoder


class LocalMINetwork(nn.Module):
    """Scores every region of every image of a batch with every sentence of the batch.

    Args:
        image_encoder: a 2D network of `monai.networks.nets` (see `encoders.feature_map`).
        text_model: directory of a Hugging Face model and its tokenizer.
        pooling: `mean` or `cls`, how a sentence's tokens make one vector.
        embedding_features: width D of the critic's space.
        temperature: the critic's initial temperature.
    """

    def __init__(
        self, image_encoder: nn.Module, text_model: str, pooling: str, embedding_features: int, temperature: float
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = TextEncoder(text_model, pooling)
        self.critic = CosineCritic(
            feature_channels(image_encoder), self.text_encoder.features, embedding_features, temperature
        )

    def forward(
        self, image: Tensor, token_ids: Tensor, attention_mask: Tensor, sentence_row: Tensor
    ) -> dict[str, Tensor]:
        """Projected features and the scores of all pairs.

        Args:
            image: (B, 1, H, W) in [0, 1].
            token_ids: (U, T) of the U different sentences of the batch.
            attention_mask: (U, T), 1 for a token, 0 for padding.
            sentence_row: (N,) the row of each of the batch's N sentences.

        Returns:
            `regions` (B, R, D), `sentences` (N, D) and `scores` (B, R, N).
        """
        regions = self.encode_regions(image).flatten(1, 2)
        sentences = self.encode_sentences(token_ids, attention_mask)[sentence_row]
        return {"regions": regions, "sentences": sentences, "scores": self.critic.score(regions, sentences)}

    def encode_regions(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, h, w, D): the critic's projection of each cell of the last feature map."""
        features = feature_map(self.image_encoder, image).permute(0, 2, 3, 1)  # (B, h, w, C)
        return self.critic.project_regions(features)

    def encode_sentences(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(U, T) -> (U, D)."""
        return self.critic.project_sentences(self.text_encoder(token_ids, attention_mask))
