"""Tensors of all processes in one, with gradients: negatives come from the whole batch of a data-parallel run."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """Number of processes that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.compiler.disable
def gather_rows(tensor: Tensor) -> Tensor:
    """The first dimension of all processes' tensors, one after the other by rank; the tensor itself in one process.

    The gradient of the local part is the sum of what every process computes for it, so that a loss computed alike on
    all processes has, after DistributedDataParallel's average, the gradient of one process with all rows.

    Args:
        tensor: (n, ...), n may differ between processes.

    Returns:
        (sum of n, ...).
    """
    if processes() == 1:
        return tensor
    gathered: Tensor = _GatherRows.apply(tensor)
    return gathered


def rows_before(rows: int, device: torch.device) -> int:
    """How many rows the processes of lower rank hold, where this one holds `rows`."""
    return 0 if processes() == 1 else sum(_sizes(rows, device)[: dist.get_rank()])


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        sizes = _sizes(len(tensor), tensor.device)
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])  # collectives want one shape
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        ctx.start, ctx.length = sum(sizes[: dist.get_rank()]), len(tensor)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)  # not autograd's own, which others may hold
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.length]


def _sizes(rows: int, device: torch.device) -> list[int]:
    own = torch.tensor([rows], device=device)
    sizes = [torch.empty_like(own) for _ in range(processes())]
    dist.all_gather(sizes, own)
    return [int(size) for size in sizes]
