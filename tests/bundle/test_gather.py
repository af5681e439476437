"""Two processes do what one does with both their batches: rows, losses, figures, moving averages and gradients.

Nothing here knows of `local_mi`'s network: a small one scores its own images with the sentences of all processes and
gathers the rows, under DistributedDataParallel and gloo.
"""

import itertools
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from local_mi.aggregations import aggregate_regions
from local_mi.critics import make_critic
from local_mi.gather import gather_rows, rows_before
from local_mi.objectives import MutualInformationObjective
from slow_oracles import ESTIMATORS, Reports, random_reports
from torch import Tensor, nn

PROCESSES = 2
STEPS = 2
OBJECTIVES = ("global", "local", "local+global")
RUNS = [
    (objective, estimator, critic)
    for objective, estimator in itertools.product(OBJECTIVES, ESTIMATORS)
    for critic in ("separable", "concatenation")
]
IMAGES = (4, 3)  # of each process: the last batch of an epoch may not split evenly


class SmallNetwork(nn.Module):
    """(B, R, 5) cells and (N, 4) sentences to the scores that the objective takes."""

    def __init__(self, objective: str, critic: str) -> None:
        super().__init__()
        self.terms = objective.split("+")
        self.image_encoder = nn.Linear(5, 6)
        self.text_encoder = nn.Linear(4, 6)
        self.critics = nn.ModuleDict({term: make_critic(critic, 6, 6, 3, (7, 5), 0.5) for term in self.terms})
        self.head = nn.Linear(6, 2)

    def forward(self, cells: Tensor, sentences: Tensor, image_of: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        regions, texts = self.image_encoder(cells).tanh(), self.text_encoder(sentences).tanh()
        found = {"logits": gather_rows(self.head(regions.mean(dim=1)))}
        if "local" in self.terms:
            critic = self.critics["local"]
            all_texts = gather_rows(critic.project_right(texts[drawn]))
            scores = critic.score(critic.project_left(regions).flatten(0, 1), all_texts)
            aggregated = aggregate_regions(scores.view(*regions.shape[:2], -1), "logsumexp", 0.5)
            found["local"] = gather_rows(aggregated)
        if "global" in self.terms:
            critic = self.critics["global"]
            reports = torch.stack([texts[image_of == b].mean(dim=0) for b in range(len(cells))])
            all_reports = gather_rows(critic.project_right(reports))
            found["global"] = gather_rows(critic.score(critic.project_left(regions.mean(dim=1)), all_reports))
        return found


def batches_of(step: int) -> list[dict[str, Any]]:
    """The batch of each process: different numbers of images and of sentences, a study on both, repeated sentences."""
    together = random_reports(14 + step, sum(IMAGES), 5, 9, drawn_share=0.5)
    random = torch.Generator().manual_seed(step)
    cells = torch.randn(sum(IMAGES), 3, 5, generator=random, dtype=torch.float64)
    labels = torch.tensor([0.0, 1.0, -1.0, torch.nan])[torch.randint(4, (sum(IMAGES), 2), generator=random)]
    batches = []
    for rank in range(PROCESSES):
        rows = slice(sum(IMAGES[:rank]), sum(IMAGES[: rank + 1]))
        reports = Reports(together.study[rows], together.texts[rows], together.drawn[rows])
        vectors = torch.randn(sum(map(len, reports.texts)), 4, generator=random, dtype=torch.float64)
        pairs = reports.pairs() | {"label": labels[rows]}
        batches.append({"cells": cells[rows], "sentences": vectors, "pairs": pairs})
    return batches


def joined(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """Both batches in one: rows of images are counted on."""
    pairs = {key: torch.cat([batch["pairs"][key] for batch in batches]) for key in batches[0]["pairs"]}
    for key in ("sentence_image", "report_image"):
        counted = [batch["pairs"][key] + sum(IMAGES[:rank]) for rank, batch in enumerate(batches)]
        pairs[key] = torch.cat(counted)
    return {
        "cells": torch.cat([batch["cells"] for batch in batches]),
        "sentences": torch.cat([batch["sentences"] for batch in batches]),
        "pairs": pairs,
    }


def trained(run: tuple[str, str, str], batches: list[dict[str, Any]], distributed: bool) -> dict[str, Tensor]:
    """Losses, figures, moving averages and gradients of every step of plain gradient descent."""
    objective, estimator, critic = run
    torch.manual_seed(0)
    network = SmallNetwork(objective, critic).double()
    loss_function = MutualInformationObjective(objective, estimator, 0.3, 0.5, 0.75)
    model = nn.parallel.DistributedDataParallel(network) if distributed else network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    record = {}
    for step, batch in enumerate(batches):
        pairs = batch["pairs"]
        prediction = model(batch["cells"], batch["sentences"], pairs["sentence_image"], pairs["drawn"])
        loss = loss_function(prediction, pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record[f"{step} loss"] = loss.detach()
        record |= {f"{step} figure {name}": value for name, value in loss_function.figures.items()}
        record |= {f"{step} state {name}": value.clone() for name, value in loss_function.state_dict().items()}
        record |= {
            f"{step} gradient {name}": p.grad.clone() for name, p in network.named_parameters() if p.grad is not None
        }
    return record


def ragged(rank: int, dtype: torch.dtype, rows: tuple[int, int]) -> Tensor:
    """Rows of a process, with values that no other has."""
    values = torch.arange(rows[rank] * 3).view(rows[rank], 3) + 100 * rank
    return values % 2 == 0 if dtype == torch.bool else values.to(dtype)


RAGGED = [
    (dtype, rows)
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool)
    for rows in ((2, 3), (0, 4), (3, 0), (1, 1))
]


def gathered_rows(rank: int) -> list[Tensor]:
    return [gather_rows(ragged(rank, dtype, rows)) for dtype, rows in RAGGED]


def gradients_of_gathered_rows(rank: int) -> dict[str, Tensor]:
    """Of losses in which the processes weigh the rows differently, and two gathered tensors share their gradient."""
    weights = torch.arange(1.0, 16.0).view(5, 3) * (rank + 1)
    own, other = (ragged(rank, torch.float32, (2, 3)).requires_grad_() for _ in range(2))
    ((gather_rows(own) + gather_rows(other)) * weights).sum().backward()
    assert own.grad is not None
    assert other.grad is not None
    return {"own": own.grad, "other": other.grad}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    results = {
        "rows": gathered_rows(rank),
        "rows_before": rows_before(IMAGES[rank], torch.device("cpu")),
        "gradients": gradients_of_gathered_rows(rank),
        "runs": [trained(run, [batches_of(step)[rank] for step in range(STEPS)], distributed=True) for run in RUNS],
    }
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found; forked, since a new interpreter takes seconds to import."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.start_processes(work, args=(str(folder),), nprocs=PROCESSES, start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


def test_rows_of_all_processes_follow_one_another_by_rank(of_processes: list[dict[str, Any]]) -> None:
    for k, (dtype, rows) in enumerate(RAGGED):
        expected = torch.cat([ragged(rank, dtype, rows) for rank in range(PROCESSES)])
        for found in of_processes:
            torch.testing.assert_close(found["rows"][k], expected, atol=0, rtol=0)
    assert [found["rows_before"] for found in of_processes] == [0, IMAGES[0]]


def test_the_gradient_of_a_row_is_the_sum_of_what_all_processes_compute_for_it(
    of_processes: list[dict[str, Any]],
) -> None:
    expected = torch.arange(1.0, 16.0).view(5, 3) * (1 + 2)
    for side in ("own", "other"):
        found = torch.cat([result["gradients"][side] for result in of_processes])
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("run", RUNS, ids=" ".join)
def test_two_processes_equal_one_with_both_batches(
    of_processes: list[dict[str, Any]], run: tuple[str, str, str]
) -> None:
    expected = trained(run, [joined(batches_of(step)) for step in range(STEPS)], distributed=False)
    assert any("gradient" in name for name in expected)
    for found in of_processes:
        torch.testing.assert_close(found["runs"][RUNS.index(run)], expected, atol=1e-7, rtol=1e-6, equal_nan=True)


def test_the_batches_have_what_makes_processes_differ() -> None:
    for step in range(STEPS):
        batches = batches_of(step)
        studies = [set(batch["pairs"]["study"].tolist()) for batch in batches]
        texts = [set(batch["pairs"]["sentence_hash"].tolist()) for batch in batches]
        counts = [int(batch["pairs"]["drawn"].sum()) for batch in batches]
        assert studies[0] & studies[1]
        assert studies[0] ^ studies[1]
        assert texts[0] & texts[1]
        assert counts[0] != counts[1]


def test_one_process_without_a_group_keeps_its_tensor() -> None:
    tensor = torch.ones(3, 2)
    assert gather_rows(tensor) is tensor
    assert rows_before(3, torch.device("cpu")) == 0
