"""The local objective, forward and backward, beside loops over pairs and beside the matrix products it needs.

Random region features (64 images of 64 regions, 128 wide) and one sentence an image (256 wide) go through the critic's
projections, the scores of all pairs, aggregation and symmetric InfoNCE with masks. Value and gradients are compared
with the loop's before anything is timed. Times are of processor time on one core, the best of rounds in which the ways
take turns in one process. Memory is the peak of a fresh process above what it had after a tiny step. Name parts to run
them alone, as in `bench_objective.py memory loops limit`, which is what runs without arguments; `chunks` tries other
values of `critics.CHUNK_ELEMENTS`.
"""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
import torch.nn.functional as F
from local_mi import critics
from local_mi.aggregations import aggregate_regions
from local_mi.critics import Critic, SeparableCritic, make_critic
from local_mi.objectives import MutualInformationObjective
from torch import Tensor

BATCH, REGIONS, REGION_FEATURES, TEXT_FEATURES = 64, 64, 128, 256
EMBEDDING, HIDDEN, TEMPERATURE, TAU = 128, (1024, 512), 0.1, 1.0
DISTINCT_SENTENCES = 1000
TINY, CHECKED = 8, 16
"""Batches: of a step before memory is measured, and of the comparison of values and gradients with the loop's."""
LARGE, LARGE_MIB = 1024, 2048
"""The batch with which the separable critic must stay below so much memory, the process as a whole."""
FAST_ROUNDS, SLOW_ROUNDS = 15, 2
LAYOUTS = (1024, 4096, 16384, 65536)
"""Pairs that the limit does at once; the last is far beyond any cache. The fastest counts."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A critic, an objective, and a batch: `regions` (B, R, 128) and `sentences` (B, 256) with gradient."""

    critic: Critic
    objective: MutualInformationObjective
    aggregation: str
    regions: Tensor
    sentences: Tensor
    pairs: dict[str, Tensor]

    def leaves(self) -> list[Tensor]:
        return [self.regions, self.sentences, *self.critic.parameters()]

    def gradients(self) -> list[Tensor]:
        return [leaf.grad for leaf in self.leaves() if leaf.grad is not None]

    def forget(self) -> None:
        for leaf in self.leaves():
            leaf.grad = None


def problem(critic: str, aggregation: str, batch: int) -> Problem:
    """Every eighth image is a second view of the study before it; some sentences are said of several images."""
    torch.manual_seed(0)
    study = torch.arange(batch)
    study[7::8] = study[6::8]
    said, rows = torch.randint(DISTINCT_SENTENCES, (batch,)), torch.arange(batch)
    return Problem(
        make_critic(critic, REGION_FEATURES, TEXT_FEATURES, EMBEDDING, HIDDEN, TEMPERATURE),
        MutualInformationObjective("local", "infonce", 1.0, 0.0, 0.99),
        aggregation,
        torch.randn(batch, REGIONS, REGION_FEATURES, requires_grad=True),
        torch.randn(batch, TEXT_FEATURES, requires_grad=True),
        {
            "study": study,
            "sentence_image": rows,
            "sentence_hash": said,
            "drawn": torch.ones(batch, dtype=torch.bool),
            "report_image": rows,
            "report_hash": said,
        },
    )


def here(given: Problem) -> Tensor:
    """Loss of a step, after its backward pass, as the network and the objective compute it."""
    given.forget()
    left = given.critic.project_left(given.regions)
    right = given.critic.project_right(given.sentences)
    scores = given.critic.score(left.flatten(0, 1), right).view(*left.shape[:2], -1)
    loss: Tensor = given.objective({"local": aggregate_regions(scores, given.aggregation, TAU)}, given.pairs)
    loss.backward()
    return loss.detach()


def on_pairs(critic: Critic, region: Tensor, sentence: Tensor) -> Tensor:
    """A critic by its definition: (..., 128) and (..., 256) -> (...)."""
    if isinstance(critic, SeparableCritic):
        left = F.normalize(critic.left_projection(region), dim=-1)
        right = F.normalize(critic.right_projection(sentence), dim=-1)
        return (left * right).sum(dim=-1) * critic.log_inverse_temperature.exp()
    pair = torch.cat([region, sentence], dim=-1)
    scores: Tensor = critic.last(critic.second(critic.first(pair).relu()).relu())[..., 0]
    return scores


def regions_at_once(critic: Critic, image: Tensor, sentence: Tensor) -> Tensor:
    return on_pairs(critic, image, sentence.expand(len(image), -1))


def region_by_region(critic: Critic, image: Tensor, sentence: Tensor) -> Tensor:
    return torch.stack([on_pairs(critic, region, sentence) for region in image])


SIMPLE_AGGREGATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": torch.max,
    "logsumexp": lambda scores: TAU * (scores / TAU).exp().mean().log(),
}


def loop(given: Problem, score: Callable[[Critic, Tensor, Tensor], Tensor]) -> Tensor:
    """Loss of a step, after its backward pass, with a Python loop over images and sentences."""
    given.forget()
    aggregate = SIMPLE_AGGREGATIONS[given.aggregation]
    rows = [
        torch.stack([aggregate(score(given.critic, image, sentence)) for sentence in given.sentences])
        for image in given.regions
    ]
    loss = simple_info_nce(torch.stack(rows), given.pairs)
    loss.backward()
    return loss.detach()


def simple_info_nce(scores: Tensor, pairs: dict[str, Tensor]) -> Tensor:
    """Minus the bound from (B, N) scores of the first B images with one sentence of each of N images.

    Cross-entropy over each sentence's images and each image's sentences, without those that are no negatives.
    """
    images = len(scores)
    study, said = pairs["study"], pairs["sentence_hash"]
    matched = torch.eye(*scores.shape, dtype=torch.bool)
    negative = (study[:images, None] != study) & (said[:images, None] != said)
    kept = scores.masked_fill(~negative & ~matched, -torch.inf)
    own = torch.arange(images)
    to_texts = F.cross_entropy(kept, own, reduction="none") - torch.log1p(negative.sum(dim=1))
    to_images = F.cross_entropy(kept.T[:images], own, reduction="none") - torch.log1p(negative.sum(dim=0)[:images])
    return 0.5 * (to_texts.mean() + to_images.mean())


def of_images(given: Problem, images: int) -> Problem:
    """The same batch with its first images alone, for loops that would take too long; all sentences stay."""
    regions = given.regions.detach()[:images].requires_grad_()
    return Problem(given.critic, given.objective, given.aggregation, regions, given.sentences, given.pairs)


def check(given: Problem) -> None:
    """Raise where the loop has another value or other gradients, beyond what float32 leaves open."""
    expected = loop(given, regions_at_once)
    gradients = given.gradients()
    torch.testing.assert_close(here(given), expected, rtol=1e-4, atol=1e-5)
    for ours, gradient in zip(given.gradients(), gradients, strict=True):
        error, norm = float((ours - gradient).norm()), float(gradient.norm())
        if error > 1e-3 * norm + 1e-6:  # the last bias has none: the bound does not change with a shift
            raise AssertionError(f"a gradient of shape {tuple(ours.shape)} and norm {norm:.1e} is off by {error:.1e}")


def seconds(run: Callable[[], object]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own on one core."""
    with get_context("spawn").Pool(1, torch.set_num_threads, (1,)) as pool:
        return pool.apply(function, arguments)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_of(way: Callable[[Problem], Tensor], critic: str, aggregation: str, batch: int) -> tuple[float, float]:
    """Peak in MiB of the whole process, and above what it was before the batch was made."""
    way(problem(critic, aggregation, TINY))
    before = peak_mib()
    way(problem(critic, aggregation, batch))
    return peak_mib(), peak_mib() - before


def memory() -> None:
    """Peak memory as the batch grows, and that of the separable critic with a large one."""
    looped = partial(loop, score=regions_at_once)
    separable = [(here, "separable", "logsumexp", batch) for batch in (64, 128, 256)]
    concatenation = [(here, "concatenation", "logsumexp", batch) for batch in (32, 64)]
    winners = [(here, "concatenation", "max", batch) for batch in (32, 64, 128)]
    large = [(here, "separable", aggregation, LARGE) for aggregation in ("max", "logsumexp")]
    print(f"\nPeak memory, R {REGIONS}, one sentence\n")
    print("| way, critic, aggregation | B | scores, MiB | peak, MiB | a score, bytes | whole process, MiB |")
    print("|---|---|---|---|---|---|")
    for way, critic, aggregation, batch in [
        (looped, "separable", "logsumexp", BATCH),
        *separable,
        *large,
        *concatenation,
        *winners,
    ]:
        whole, peak = fresh(peak_of, way, critic, aggregation, batch)
        scores = batch * REGIONS * batch
        name = "here" if way is here else "loop"
        print(
            f"| {name}, {critic}, {aggregation} | {batch} | {scores * 4 / 2**20:.1f} | {peak:.0f} "
            f"| {peak * 2**20 / scores:.0f} | {whole:.0f} |",
            flush=True,
        )
    print(
        f"\nOf the concatenation critic's bytes a score, {HIDDEN[1]} say which hidden units are active, up to "
        f"{critics.KEPT_MASK_BYTES // 2**20} MiB in all."
    )
    print(f"Wanted: bytes a score do not grow with B; the whole process below {LARGE_MIB} MiB at B {LARGE}.")


def loops_of(critic: str, aggregation: str) -> dict[str, float]:
    """Seconds here, of the loop over images and sentences, and of the loop over all pairs."""
    check(problem(critic, aggregation, CHECKED))
    given = problem(critic, aggregation, BATCH)
    fast = critic == "separable"
    part, one = of_images(given, BATCH if fast else 2), of_images(given, 1)
    torch.testing.assert_close(loop(one, region_by_region), loop(one, regions_at_once), rtol=1e-4, atol=1e-5)
    found: dict[str, list[float]] = {"here": [], "sentences": [], "pairs": []}
    for _ in range(SLOW_ROUNDS if fast else 1):
        found["here"] += [seconds(partial(here, given)) for _ in range(FAST_ROUNDS if fast else 1)]
        found["sentences"].append(seconds(partial(loop, part, regions_at_once)) * BATCH / len(part.regions))
        found["pairs"].append(seconds(partial(loop, one, region_by_region)) * BATCH)
    return {name: min(times) for name, times in found.items()}


def loops() -> None:
    """Both critics beside loops that a user would write."""
    print(f"\nBeside loops, B {BATCH}, R {REGIONS}, one sentence\n")
    print("| critic, aggregation | here, ms | over images and sentences, s | ratio | over all pairs, s | ratio |")
    print("|---|---|---|---|---|---|")
    for critic, aggregation in (("separable", "logsumexp"), ("separable", "max"), ("concatenation", "logsumexp")):
        found = fresh(loops_of, critic, aggregation)
        ours, sentences, pairs = found["here"], found["sentences"], found["pairs"]
        print(
            f"| {critic}, {aggregation} | {1e3 * ours:.1f} | {sentences:.2f} | {sentences / ours:,.1f} "
            f"| {pairs:.0f} | {pairs / ours:,.0f} |",
            flush=True,
        )
    print(
        "\nThe loop over images and sentences takes all regions at once; the loop over all pairs is extrapolated from "
        "one image, the\nformer with the concatenation critic from two. Wanted: 100 with the separable critic."
    )


class Layers:
    """The matrix products of the concatenation critic's layers and nothing else, in buffers that are made once.

    The first layer is factorised. The others take `rows` pairs at a time, always the same, so that they may stay in the
    cache as no real pairs could.
    """

    def __init__(self, rows: int) -> None:
        first, second = HIDDEN
        self.rows = rows
        self.left, self.left_weight = torch.rand(BATCH * REGIONS, REGION_FEATURES), torch.rand(first, REGION_FEATURES)
        self.right, self.right_weight = torch.rand(BATCH, TEXT_FEATURES), torch.rand(first, TEXT_FEATURES)
        self.of_left, self.of_right = torch.rand(BATCH * REGIONS, first), torch.rand(BATCH, first)
        self.hidden, self.weight = torch.rand(rows, first), torch.rand(second, first)
        self.top, self.last, self.score = torch.rand(rows, second), torch.rand(1, second), torch.rand(rows, 1)
        self.of_hidden, self.of_weight = torch.rand(rows, first), torch.rand(second, first)
        self.of_top, self.of_last = torch.rand(rows, second), torch.rand(1, second)

    def forward(self, pairs: int) -> None:
        torch.mm(self.left, self.left_weight.T, out=self.of_left)
        torch.mm(self.right, self.right_weight.T, out=self.of_right)
        for _ in range(0, pairs, self.rows):
            torch.mm(self.hidden, self.weight.T, out=self.top)
            torch.mm(self.top, self.last.T, out=self.score)

    def backward(self, pairs: int) -> None:
        for _ in range(0, pairs, self.rows):
            torch.mm(self.score.T, self.top, out=self.of_last)
            torch.mm(self.score, self.last, out=self.of_top)
            torch.mm(self.of_top.T, self.hidden, out=self.of_weight)
            torch.mm(self.of_top, self.weight, out=self.of_hidden)
        torch.mm(self.of_left.T, self.left)
        torch.mm(self.of_left, self.left_weight)
        torch.mm(self.of_right.T, self.right)
        torch.mm(self.of_right, self.right_weight)


def limits() -> dict[str, list[float]]:
    """Seconds of the limit's parts and here, which take turns."""
    pairs, winners = BATCH * REGIONS * BATCH, BATCH * BATCH
    layers = {rows: Layers(rows) for rows in LAYOUTS}
    for layer in layers.values():
        layer.forward(layer.rows)
        layer.backward(layer.rows)
    part = max(LAYOUTS)
    ahead = min(layers.values(), key=lambda layer: seconds(partial(layer.forward, part)))
    back = min(layers.values(), key=lambda layer: seconds(partial(layer.backward, part)))
    few = layers[max(rows for rows in LAYOUTS if rows <= winners)]
    ways: dict[str, Callable[[], object]] = {
        "forward": partial(ahead.forward, pairs),
        "backward": partial(back.backward, pairs),
        "winners": partial(few.backward, winners),
        "max": partial(here, problem("concatenation", "max", BATCH)),
        "logsumexp": partial(here, problem("concatenation", "logsumexp", BATCH)),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(SLOW_ROUNDS):
        for name, way in ways.items():
            found[name].append(seconds(way))
    return found


def limit() -> None:
    """The concatenation critic beside its layers' matrix products."""
    found = {name: min(times) for name, times in fresh(limits).items()}
    every, few = found["forward"] + found["backward"], found["forward"] + found["winners"]
    print(
        f"\nConcatenation critic of hidden {HIDDEN} beside its products alone, B {BATCH}, R {REGIONS}, one sentence\n"
    )
    print("| aggregation | here, s | products, s | ratio | with the backward products of winners alone, s | ratio |")
    print("|---|---|---|---|---|---|")
    for name, of_winners in (("logsumexp", None), ("max", few)):
        ours = found[name]
        more = "| | |" if of_winners is None else f"| {of_winners:.2f} | {ours / of_winners:.2f} |"
        print(f"| {name} | {ours:.2f} | {every:.2f} | {ours / every:.2f} {more}")
    print(f"\nForward products {found['forward']:.2f} s, backward {found['backward']:.2f} s. Wanted: at most 1.3.")


def chunk_times() -> dict[int, dict[str, float]]:
    """Best seconds of a step by the logarithm of the chunk and aggregation."""
    given = {name: problem("concatenation", name, BATCH // 2) for name in ("logsumexp", "max")}
    found = {exponent: dict.fromkeys(given, float("inf")) for exponent in range(18, 25)}
    for _ in range(SLOW_ROUNDS):
        for exponent, best in found.items():
            critics.CHUNK_ELEMENTS = 2**exponent
            for name, batch in given.items():
                best[name] = min(best[name], seconds(partial(here, batch)))
    return found


def chunks() -> None:
    """The concatenation critic with chunks of other sizes."""
    print(f"\nConcatenation critic by `CHUNK_ELEMENTS`, B {BATCH // 2}, R {REGIONS}, best of {SLOW_ROUNDS}\n")
    print("| elements | logsumexp, s | max, s |\n|---|---|---|")
    for exponent, best in fresh(chunk_times).items():
        mark = ", the constant" if 2**exponent == critics.CHUNK_ELEMENTS else ""
        print(f"| 2^{exponent}{mark} | {best['logsumexp']:.2f} | {best['max']:.2f} |")


PARTS = {"memory": memory, "loops": loops, "limit": limit}


def main() -> None:
    for name in sys.argv[1:] or PARTS:
        (PARTS | {"chunks": chunks})[name]()


if __name__ == "__main__":
    main()
