"""Estimators, critics and aggregations together find the information that is known to be there, and no other."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from local_mi.aggregations import aggregate_regions
from local_mi.bounds import donsker_varadhan, info_nce
from local_mi.critics import make_critic
from local_mi.objectives import MutualInformationObjective
from slow_oracles import AGGREGATIONS, ESTIMATORS, distinct_studies
from torch import Tensor, nn

every_aggregation = pytest.mark.parametrize("aggregation", AGGREGATIONS)


def others(batch: int) -> Tensor:
    """(B, B): all pairs but the matched ones."""
    return ~torch.eye(batch, dtype=torch.bool)


def dv_of(scores: Tensor) -> float:
    return float(donsker_varadhan(scores.diagonal(), scores, others(len(scores))))


def info_nce_of(scores: Tensor) -> float:
    return float(info_nce(scores.diagonal(), scores, others(len(scores)))[0].mean())


def log_normal(value: Tensor, mean: Tensor, deviation: float) -> Tensor:
    return -0.5 * ((value - mean) / deviation) ** 2 - math.log(deviation) - 0.5 * math.log(2 * math.pi)


def optimal_scores(x: Tensor, y: Tensor, rho: float) -> Tensor:
    """`log p(y|x) / p(y)` of all pairs of d-dimensional Gaussians, each dimension correlated by rho."""
    around_x = torch.cdist(rho * x, y) ** 2 / (1 - rho**2)
    return 0.5 * (y**2).sum(dim=1)[None] - 0.5 * around_x - x.shape[1] / 2 * math.log(1 - rho**2)


def correlated(batch: int, dimensions: int, rho: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    x, noise = (torch.randn(batch, dimensions, generator=random, dtype=torch.float64) for _ in range(2))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def mean_and_error(values: list[float]) -> tuple[float, float]:
    measured = torch.tensor(values, dtype=torch.float64)
    return float(measured.mean()), float(measured.std()) / math.sqrt(len(values))


# Gaussians with the optimal critic: information, batch, then value and deviation over batches of each estimator.
TABLE = [
    (2, 64, (2.02, 0.25), (1.82, 0.19), 60),
    (2, 512, (1.99, 0.09), (1.96, 0.08), 12),
    (6, 2048, (5.99, 0.10), (5.45, 0.04), 2),
    (10, 64, (11.45, 1.33), (4.12, 0.04), 60),
]


@pytest.mark.parametrize(("information", "batch", "dv", "nce", "repeats"), TABLE)
def test_correlated_gaussians_with_the_optimal_critic(
    information: float, batch: int, dv: tuple[float, float], nce: tuple[float, float], repeats: int
) -> None:
    dimensions = 20
    rho = math.sqrt(1 - math.exp(-2 * information / dimensions))
    random = torch.Generator().manual_seed(0)
    scores = [optimal_scores(*correlated(batch, dimensions, rho, random), rho) for _ in range(repeats)]
    for estimate, (value, deviation) in ((dv_of, dv), (info_nce_of, nce)):
        mean, _ = mean_and_error([estimate(one) for one in scores])
        rounding = 0.005  # of the published value
        assert abs(mean - value) < 4 * deviation / math.sqrt(repeats) + rounding
    assert all(info_nce_of(one) < math.log(batch) for one in scores)


@pytest.mark.parametrize(
    ("rho", "information", "nce"), [(0.5, 0.1438, 0.143), (0.9, 0.8304, 0.826), (0.99, 1.9585, 1.953)]
)
def test_one_dimensional_gaussians_with_the_optimal_critic(rho: float, information: float, nce: float) -> None:
    assert -0.5 * math.log(1 - rho**2) == pytest.approx(information, abs=1e-4)
    random = torch.Generator().manual_seed(0)
    scores = [optimal_scores(*correlated(512, 1, rho, random), rho) for _ in range(30)]
    for estimate, expected in ((info_nce_of, nce), (dv_of, information)):
        mean, error = mean_and_error([estimate(one) for one in scores])
        assert abs(mean - expected) < 4 * error + 0.0005


@pytest.mark.parametrize("estimate", [dv_of, info_nce_of])
def test_independent_pairs_have_no_information_whatever_the_critic_believes(
    estimate: Callable[[Tensor], float],
) -> None:
    random = torch.Generator().manual_seed(0)
    values = []
    for _ in range(40):
        x, y = (torch.randn(128, 1, generator=random, dtype=torch.float64) for _ in range(2))
        values.append(estimate(optimal_scores(x, y, 0.9)))
    mean, error = mean_and_error(values)
    assert mean < 4 * error


@pytest.mark.parametrize("estimate", [dv_of, info_nce_of])
def test_information_of_independent_blocks_adds_up(estimate: Callable[[Tensor], float]) -> None:
    random = torch.Generator().manual_seed(0)
    together, apart = [], []
    rhos = (0.5, 0.7)
    for _ in range(20):
        blocks = [optimal_scores(*correlated(512, 2, rho, random), rho) for rho in rhos]
        together.append(estimate(blocks[0] + blocks[1]))
        apart.append(estimate(blocks[0]) + estimate(blocks[1]))
    truth = sum(-math.log(1 - rho**2) for rho in rhos)
    mean, error = mean_and_error(together)
    assert mean == pytest.approx(truth, abs=4 * error + 0.01)  # InfoNCE of 512 candidates is a little low
    assert mean == pytest.approx(mean_and_error(apart)[0], abs=4 * error + 0.01)


def test_a_monotone_change_of_variable_changes_nothing() -> None:
    """The optimal critic of x and z = y^3 from the densities of z: its derivative is in both and falls out."""
    rho, random = 0.9, torch.Generator().manual_seed(0)
    x, y = correlated(256, 1, rho, random)
    z = y[:, 0] ** 3
    root = z.sign() * z.abs() ** (1 / 3)
    log_derivative = torch.log(3 * root**2)  # dz / dy
    given_x = log_normal(root[None], rho * x, math.sqrt(1 - rho**2)) - log_derivative[None]
    scores = given_x - (log_normal(root, torch.zeros_like(root), 1.0) - log_derivative)[None]
    for estimate in (dv_of, info_nce_of):
        assert estimate(scores) == pytest.approx(estimate(optimal_scores(x, y, rho)), abs=1e-9)


@pytest.mark.parametrize("kinds", [2, 5, 16])
def test_texts_of_g_kinds_saturate_at_log_g(kinds: int) -> None:
    """Duplicated texts stay among the candidates, as in the reported estimate: information cannot exceed ln G."""
    batch = 25 * kinds
    text = torch.arange(batch) % kinds
    scores = torch.where(text[:, None] == text[None], 60.0, 0.0)
    assert info_nce_of(scores) == pytest.approx(math.log(kinds), abs=1e-4)


# Discrete variables: a table of probabilities, and the critic log p(x, y) / (p(x) p(y)) looked up in it.

Outcome = tuple[int, ...]


def marginal(joint: dict[tuple[Outcome, Outcome], float], side: int) -> dict[Outcome, float]:
    total: dict[Outcome, float] = {}
    for outcomes, probability in joint.items():
        total[outcomes[side]] = total.get(outcomes[side], 0.0) + probability
    return total


def estimates_of_table(joint: dict[tuple[Outcome, Outcome], float], copies: int) -> tuple[float, float]:
    """Donsker-Varadhan and InfoNCE of a batch that holds each outcome as often as it is probable.

    Donsker-Varadhan over all pairs, matched ones too: exactly the product of the marginals.
    """
    of_x, of_y = marginal(joint, 0), marginal(joint, 1)
    batch = [outcomes for outcomes, p in joint.items() for _ in range(round(p * copies))]
    impossible = -60.0
    scores = torch.tensor(
        [
            [math.log(joint[x, y] / (of_x[x] * of_y[y])) if joint.get((x, y)) else impossible for _, y in batch]
            for x, _ in batch
        ],
        dtype=torch.float64,
    )
    dv = float(donsker_varadhan(scores.diagonal(), scores, torch.ones_like(scores, dtype=torch.bool)))
    return dv, info_nce_of(scores)


def joint_of_bits(
    x: Callable[..., Outcome], y: Callable[..., Outcome], bits: int
) -> dict[tuple[Outcome, Outcome], float]:
    joint: dict[tuple[Outcome, Outcome], float] = {}
    for values in itertools.product((0, 1), repeat=bits):
        key = x(*values), y(*values)
        joint[key] = joint.get(key, 0.0) + 0.5**bits
    return joint


def test_exclusive_or_is_known_of_both_bits_and_of_neither() -> None:
    def exclusive_or(a: int, b: int) -> Outcome:
        return (a ^ b,)

    parts = [joint_of_bits(lambda a, b: (a,), exclusive_or, 2), joint_of_bits(lambda a, b: (b,), exclusive_or, 2)]
    for part in parts:
        assert estimates_of_table(part, 200) == pytest.approx((0, 0), abs=1e-12)
    dv, nce = estimates_of_table(joint_of_bits(lambda a, b: (a, b), exclusive_or, 2), 200)
    assert dv == pytest.approx(math.log(2), abs=1e-12)
    assert nce == pytest.approx(math.log(2), abs=1e-9)
    assert dv > 0  # synergy: the parts, which tell nothing, add up to less than the whole


def test_copies_tell_twice_in_parts_what_they_tell_once_together() -> None:
    """Redundancy: the sum of the parts' information is no lower bound on that of the whole."""
    part = estimates_of_table(joint_of_bits(lambda a: (a,), lambda a: (a,), 1), 200)
    whole = estimates_of_table(joint_of_bits(lambda a: (a,), lambda a: (a, a), 1), 200)
    assert [2 * value for value in part] == pytest.approx([2 * math.log(2)] * 2, abs=1e-9)
    assert whole == pytest.approx([math.log(2)] * 2, abs=1e-9)
    assert 2 * part[0] > whole[0]


def information_of_covariance(covariance: Tensor, of_x: list[int], of_y: list[int]) -> float:
    """`1/2 log (|C_x| |C_y| / |C|)` of jointly Gaussian variables."""
    blocks = [covariance[part][:, part] for part in (of_x, of_y, of_x + of_y)]
    return 0.5 * float(blocks[0].logdet() + blocks[1].logdet() - blocks[2].logdet())


def two_sentences(between: float) -> Tensor:
    """Covariance of X, Y_1, Y_2: corr(X, Y_k) = 0.6, and `between` the sentences."""
    return torch.tensor([[1, 0.6, 0.6], [0.6, 1, between], [0.6, between, 1]], dtype=torch.float64)


@pytest.mark.parametrize(("between", "jointly"), [(0.0, 0.6365), (0.9, 0.2382)])
def test_the_sum_over_sentences_is_a_lower_bound_without_redundancy_only(between: float, jointly: float) -> None:
    """Liao et al. argue for the typical case; two sentences that say the same are the other one."""
    covariance = two_sentences(between)
    parts = [information_of_covariance(covariance, [0], [k]) for k in (1, 2)]
    whole = information_of_covariance(covariance, [0], [1, 2])
    assert sum(parts) == pytest.approx(0.446, abs=5e-4)
    assert whole == pytest.approx(jointly, abs=5e-4)
    assert (sum(parts) <= whole) == (between == 0)
    torch.manual_seed(0)
    sampled = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
    coefficients = torch.linalg.solve(covariance[1:, 1:], covariance[1:, 0])  # of X on both sentences
    rest = math.sqrt(1 - float(coefficients @ covariance[1:, 0]))
    measured = []
    for _ in range(20):
        x, y = sampled.sample((400,)).split([1, 2], dim=1)
        together = log_normal(x, (y @ coefficients)[None], rest) - log_normal(x, torch.zeros_like(x), 1.0)
        each = sum(info_nce_of(optimal_scores(x, y[:, [k]], 0.6)) for k in (0, 1))
        measured.append((each, info_nce_of(together)))
    for expected, values in zip((0.446, jointly), zip(*measured, strict=True), strict=True):
        mean, error = mean_and_error(list(values))
        assert mean == pytest.approx(expected, abs=4 * error + 0.005)


# Trained critics.


def cube(y: Tensor) -> Tensor:
    return y**3


def same(y: Tensor) -> Tensor:
    return y


class TrainedCritic(nn.Module):
    """Encoders of both sides, where the critic is only linear in them, and the critic."""

    def __init__(self, critic: str, dimensions: int) -> None:
        super().__init__()
        width = 32 if critic == "separable" else dimensions
        self.left, self.right = (
            nn.Sequential(nn.Linear(dimensions, 64), nn.ReLU(), nn.Linear(64, width))
            if critic == "separable"
            else nn.Identity()
            for _ in range(2)
        )
        self.critic = make_critic(critic, width, width, 16, (32, 16), 0.5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.critic.score(self.critic.project_left(self.left(x)), self.critic.project_right(self.right(y)))


def train(
    critic: str, estimator: str, transform: Callable[[Tensor], Tensor], rho: float, steps: int, batch: int
) -> nn.Module:
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    model = TrainedCritic(critic, 1)
    objective = MutualInformationObjective("global", estimator, 1.0, 0.0, 0.9)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        x, y = correlated(batch, 1, rho, random)
        loss = objective({"global": model(x.float(), transform(y).float())}, distinct_studies(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


@pytest.mark.parametrize(
    ("critic", "estimator", "transform", "held_out"),
    [
        ("separable", "infonce", same, info_nce_of),
        ("separable", "infonce", cube, info_nce_of),
        ("separable", "dv", same, dv_of),
        ("concatenation", "infonce", same, info_nce_of),
        ("concatenation", "dv", same, dv_of),
        ("concatenation", "mine", same, dv_of),
        ("concatenation", "jsd", same, dv_of),
    ],
)
def test_a_trained_critic_finds_nine_tenths_of_the_information_of_held_out_pairs(
    critic: str, estimator: str, transform: Callable[[Tensor], Tensor], held_out: Callable[[Tensor], float]
) -> None:
    rho = 0.9
    model = train(critic, estimator, transform, rho, steps=160, batch=64)
    random = torch.Generator().manual_seed(2)
    values, shuffled = [], []
    with torch.no_grad():
        for _ in range(8):
            x, y = correlated(512, 1, rho, random)
            scores = model(x.float(), transform(y).float())
            values.append(held_out(scores))
            shuffled.append(held_out(scores.roll(1, dims=1)))
    mean, error = mean_and_error(values)
    truth = -0.5 * math.log(1 - rho**2)
    assert 0.9 * truth < mean < truth + 4 * error
    assert mean_and_error(shuffled)[0] < 4 * mean_and_error(shuffled)[1]


# Regions: what an aggregation makes of noise, and whether it finds the one region that carries a sentence.


def objective_of(scores: Tensor, estimator: str) -> tuple[float, float]:
    """Minus the loss of (B, B) aggregated scores of distinct studies, and the figure that is logged."""
    module = MutualInformationObjective("local", estimator, 1.0, 0.0, 0.9)
    loss = module({"local": scores}, distinct_studies(len(scores)))
    return -float(loss), float(module.figures["local_mi_nats"])


@pytest.mark.parametrize("regions", [16, 64, 196])
@every_aggregation
def test_independent_pairs_have_no_more_information_than_sampling_noise(aggregation: str, regions: int) -> None:
    """Jensen-Shannon is not in nats: of independent pairs it is at most `-2 log 2`."""
    random = torch.Generator().manual_seed(regions)
    batches = [torch.randn(48, regions, 48, generator=random) for _ in range(12)]
    aggregated = [aggregate_regions(scores, aggregation, 0.5) for scores in batches]
    for estimator in ESTIMATORS:
        values = [objective_of(scores, estimator) for scores in aggregated]
        assert all(value == pytest.approx(figure, abs=1e-6) for value, figure in values)
        mean, error = mean_and_error([value for value, _ in values])
        assert mean <= (-2 * math.log(2) if estimator == "jsd" else 0.0) + 4 * error


@pytest.mark.parametrize(("regions", "invented"), [(16, 1.27), (64, 1.86), (196, 2.23)])
def test_a_maximum_over_matched_pairs_alone_would_invent_information(regions: int, invented: float) -> None:
    """Shows that the test above can fail; the figures are those of the method's description."""
    random = torch.Generator().manual_seed(regions)
    values: dict[str, list[float]] = {"dv": [], "nce": []}
    for _ in range(4):
        matched = torch.randn(1024, regions, generator=random).amax(dim=1)
        mismatched = torch.randn(1024, 1024, generator=random)
        values["nce"].append(float(info_nce(matched, mismatched, others(1024))[0].mean()))
        values["dv"].append(float(donsker_varadhan(matched, mismatched, others(1024))))
    for measured in values.values():
        assert mean_and_error(measured)[0] == pytest.approx(invented, abs=0.06)


def test_the_winning_region_of_the_matched_pair_would_invent_information_when_used_for_the_others() -> None:
    random = torch.Generator().manual_seed(0)
    values = []
    for _ in range(4):
        scores = torch.randn(256, 64, 256, generator=random)
        rows = torch.arange(256)
        winner = scores[rows, :, rows].argmax(dim=1)  # (B,), of each image with its own sentence
        values.append(info_nce_of(scores[rows, winner]))
    assert mean_and_error(values)[0] == pytest.approx(1.81, abs=0.06)


@every_aggregation
def test_a_planted_region_is_found(aggregation: str) -> None:
    """Signal in one of 64 cells of each image: the bound sees it, and its gradient goes to that cell above all."""
    random = torch.Generator().manual_seed(0)
    batch, regions, strength = 32, 64, 12.0
    scores = torch.randn(batch, regions, batch, generator=random)
    place = torch.randint(regions, (batch,), generator=random)
    rows = torch.arange(batch)
    scores[rows, place, rows] += strength
    scores.requires_grad_()
    loss = MutualInformationObjective("local", "infonce", 1.0, 0.0, 0.9)(
        {"local": aggregate_regions(scores, aggregation, 0.5)}, distinct_studies(batch)
    )
    loss.backward()
    assert scores.grad is not None
    if aggregation == "mean":  # dilutes the one cell among 64 to 12 / 64
        assert 0.0 < -float(loss.detach()) < 0.5
        return
    assert -float(loss.detach()) > 0.8 * math.log(batch)
    assert torch.equal(scores.grad[rows, :, rows].abs().argmax(dim=1), place)


def planted_images(batch: int, regions: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noise in all regions; one of them also has what the sentence says, in 4 of 8 directions of its features.

    Returns (B, R, 8) regions, (B, 4) sentences and the place (B,) of each.
    """
    sentences = torch.randn(batch, 4, generator=random)
    cells = 0.3 * torch.randn(batch, regions, 8, generator=random)
    place = torch.randint(regions, (batch,), generator=random)
    directions = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(7)))[0][:4]
    cells[torch.arange(batch), place] += 2 * sentences @ directions
    return cells, sentences, place


@pytest.mark.parametrize(
    ("critic", "aggregation", "estimator"),
    [
        ("separable", "max", "infonce"),
        ("separable", "logsumexp", "infonce"),
        ("separable", "attention", "infonce"),
        ("separable", "logsumexp", "dv"),
        ("concatenation", "max", "infonce"),
        ("separable", "logsumexp", "mine"),
        ("concatenation", "max", "jsd"),
    ],
)
def test_a_critic_that_the_objective_trains_finds_the_planted_region(
    critic: str, aggregation: str, estimator: str
) -> None:
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    model = make_critic(critic, 8, 4, 8, (32, 16), 0.2)
    objective = MutualInformationObjective("local", estimator, 1.0, 0.0, 0.9)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def region_scores(regions: Tensor, sentences: Tensor) -> Tensor:
        scores = model.score(model.project_left(regions.flatten(0, 1)), model.project_right(sentences))
        return scores.view(*regions.shape[:2], len(sentences))

    for _ in range(150):
        regions, sentences, _ = planted_images(24, 64, random)
        scores = aggregate_regions(region_scores(regions, sentences), aggregation, 0.5)
        loss = objective({"local": scores}, distinct_studies(24))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        regions, sentences, place = planted_images(64, 64, random)
        scores = region_scores(regions, sentences)
        winner = scores.diagonal(dim1=0, dim2=2).argmax(dim=0)
        information = info_nce_of(aggregate_regions(scores, aggregation, 0.5))
    assert float((winner == place).float().mean()) > 0.9  # chance is 1 / 64
    assert information > 0.5 * math.log(64)
