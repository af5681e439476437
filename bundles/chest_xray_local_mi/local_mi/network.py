"""The joint network of pretraining: image encoder, text encoder and critics."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from local_mi.aggregations import aggregate_regions, check_aggregation
from local_mi.critics import Critic, make_critic
from local_mi.encoders import feature_sizes, idle_parts, image_features
from local_mi.errors import ConfigurationError
from local_mi.gather import gather_rows
from local_mi.objectives import objective_terms
from local_mi.text import TextEncoder


class LocalMINetwork(nn.Module):
    """Scores the images of a batch with its sentences and reports, as an objective asks for.

    Args:
        image_encoder: a 2D network (see `encoders.image_features`).
        text_model: directory of a Hugging Face model and its tokenizer.
        pooling: `mean` or `cls`, how a sentence's tokens make one vector.
        objective: a name of `objectives.OBJECTIVES`; a critic is made for each of its terms.
        critic: `separable` or `concatenation`.
        embedding_features: width D of the separable critic's space.
        hidden_features: the two hidden widths of the concatenation critic.
        temperature: the separable critic's initial temperature.
        aggregation: a name of `aggregations.AGGREGATIONS`.
        aggregation_temperature: its tau, in units of the scores.
        labels: number of labels of the supervised term; 0 for none.

    Raises:
        ConfigurationError: one of the names is unknown.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        text_model: str,
        pooling: str,
        objective: str,
        critic: str,
        embedding_features: int,
        hidden_features: Sequence[int],
        temperature: float,
        aggregation: str,
        aggregation_temperature: float,
        labels: int,
    ) -> None:
        super().__init__()
        terms = objective_terms(objective)
        check_aggregation(aggregation, aggregation_temperature)
        self.objective, self.aggregation, self.aggregation_temperature = objective, aggregation, aggregation_temperature
        self.image_encoder = image_encoder
        self.text_encoder = TextEncoder(text_model, pooling)
        local_features, global_features = feature_sizes(image_encoder)

        def new_critic(features: int) -> Critic:
            return make_critic(
                critic, features, self.text_encoder.features, embedding_features, hidden_features, temperature
            )

        self.local_critic: Critic | None = new_critic(local_features) if "local" in terms else None
        self.global_critic: Critic | None = new_critic(global_features) if "global" in terms else None
        self.head: nn.Linear | None = nn.Linear(global_features, labels) if labels else None
        for part in idle_parts(image_encoder, pooled="global" in terms or labels > 0):
            part.requires_grad_(False)

    def forward(
        self,
        image: Tensor,
        token_ids: Tensor,
        attention_mask: Tensor,
        token_span: Tensor,
        span_tokens: Tensor,
        sentence_span: Tensor,
        sentence_image: Tensor,
        drawn: Tensor,
    ) -> dict[str, Tensor]:
        """Scores in training, projections in evaluation.

        Args:
            image: (B, 1, H, W) in [0, 1].
            token_ids: (P, T) of the P passages of the batch.
            attention_mask: (P, T), 1 for a token, 0 for padding.
            token_span: (P, T) span of each token, -1 for none.
            span_tokens: (U,) number of tokens of each span.
            sentence_span: (N,) span of each of the batch's N sentences.
            sentence_image: (N,) row of each sentence's image.
            drawn: (N,) bool, which sentences the local term takes.

        Returns:
            In training, over all processes: `local` (B, N) scores of images with drawn sentences, `global` (B, B) of
            images with reports, `logits` (B, L). In evaluation, of this process: `regions` (B, R, D) and `sentences`
            (N, D), `images` (B, D) and `reports` (B, D), `logits`. Each where the objective has it.
        """
        local_map, pooled = image_features(self.image_encoder, image)
        spans = self.text_encoder(token_ids, attention_mask, token_span, span_tokens)
        sentences = spans[sentence_span]  # (N, H)
        found = {} if self.head is None else {"logits": self.head(pooled)}
        if self.local_critic is not None:
            found["regions"] = self.local_critic.project_left(_regions(local_map))
            found["sentences"] = self.local_critic.project_right(sentences)
        if self.global_critic is not None:
            found["images"] = self.global_critic.project_left(pooled)
            found["reports"] = self.global_critic.project_right(report_means(sentences, sentence_image, len(image)))
        return self._scored(found, drawn) if self.training else found

    def score_regions(self, regions: Tensor, sentences: Tensor) -> Tensor:
        """The local critic's scores of projections: (B, R, D) and (N, D) -> (B, R, N)."""
        scores = self._local().score(regions.flatten(0, 1), sentences)
        return scores.view(*regions.shape[:2], len(sentences))

    def score_reports(self, images: Tensor, reports: Tensor) -> Tensor:
        """The global critic's scores of projections: (B, D) and (M, D) -> (B, M)."""
        return self._global().score(images, reports)

    def score_images(self, regions: Tensor, sentences: Tensor) -> Tensor:
        """Aggregated scores: (B, R, D) and (N, D) -> (B, N)."""
        scores = self.score_regions(regions, sentences)
        return aggregate_regions(scores, self.aggregation, self.aggregation_temperature)

    def region_scores(self, image: Tensor, text: dict[str, Tensor]) -> Tensor:
        """Where sentences are found: (B, 1, H, W) and a batch of text (`tokens.text_batch`) -> (B, h, w, N).

        Raises:
            ConfigurationError: the objective has no local term.
        """
        critic = self._local()
        local_map, _ = image_features(self.image_encoder, image)
        regions = critic.project_left(_regions(local_map))
        scores = self.score_regions(regions, critic.project_right(self._sentences(text)))
        return scores.view(len(image), *local_map.shape[2:], -1)

    def report_scores(self, image: Tensor, text: dict[str, Tensor]) -> Tensor:
        """How images go with sentences, each as a report of its own: (B, 1, H, W) and a batch of text -> (B, N).

        Raises:
            ConfigurationError: the objective has no global term.
        """
        critic = self._global()
        _, pooled = image_features(self.image_encoder, image)
        return self.score_reports(critic.project_left(pooled), critic.project_right(self._sentences(text)))

    def _scored(self, found: dict[str, Tensor], drawn: Tensor) -> dict[str, Tensor]:
        """Scores of this process's images with the texts of all processes, then of all images.

        Sentences travel between processes, and finished scores; the much larger region features do not.
        """
        scores = {}
        if self.local_critic is not None:
            scores["local"] = gather_rows(self.score_images(found["regions"], gather_rows(found["sentences"][drawn])))
        if self.global_critic is not None:
            scores["global"] = gather_rows(self.score_reports(found["images"], gather_rows(found["reports"])))
        if self.head is not None:
            scores["logits"] = gather_rows(found["logits"])
        return scores

    def _local(self) -> Critic:
        if self.local_critic is None:
            raise ConfigurationError("the objective `global` scores no regions; use `local` or `local+global`")
        return self.local_critic

    def _global(self) -> Critic:
        if self.global_critic is None:
            raise ConfigurationError("the objective `local` scores no reports; use `global` or `local+global`")
        return self.global_critic

    def _sentences(self, text: dict[str, Tensor]) -> Tensor:
        arguments = (text[key] for key in ("token_ids", "attention_mask", "token_span", "span_tokens"))
        vectors: Tensor = self.text_encoder(*arguments)[text["sentence_span"]]
        return vectors


def _regions(local_map: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C)."""
    return local_map.flatten(2).transpose(1, 2)


def report_means(sentences: Tensor, image_of: Tensor, images: int) -> Tensor:
    """Means over each report's sentences of vectors or scores: (N, H) -> (B, H), in float32 on the way."""
    total = sentences.new_zeros(images, sentences.shape[1], dtype=torch.float32)
    total = total.index_add(0, image_of, sentences.float())
    return (total / torch.bincount(image_of, minlength=images).clamp(min=1)[:, None]).to(sentences.dtype)
