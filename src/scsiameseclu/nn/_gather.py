"""Exchange of tensors between the processes of a distributed run. In a single process the functions do nothing."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn


def n_processes() -> int:
    """Number of processes that train together. 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_share(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows that this process works on. The rows are divided evenly among the processes, in the order of the ranks."""
    return rows if n_processes() == 1 else np.array_split(rows, n_processes())[dist.get_rank()]


def gather_rows(tensor: Tensor) -> Tensor:
    """Concatenate the rows of all processes in the order of their ranks.

    Parameters
    ----------
    tensor
        Shape ``(n_own, ...)``. The number of rows may differ between processes. The other dimensions must be the same.

    Returns
    -------
    Shape ``(n_all, ...)``, the same on every process. If every process computes a loss of this tensor, the mean of the
    gradients over the processes is the gradient of a single process with all rows.
    :class:`torch.nn.parallel.DistributedDataParallel` computes this mean.
    """
    return tensor if n_processes() == 1 else _GatherRows.apply(tensor)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of parameters over all processes.

    :class:`torch.nn.parallel.DistributedDataParallel` averages only gradients of parameters that exist when training
    starts. This function is for parameters that are created later.

    Parameters
    ----------
    parameters
        Parameters that were created during training.
    """
    if n_processes() == 1:
        return
    for parameter in parameters:
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dist.all_reduce(gradient)
        parameter.grad = gradient / n_processes()


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        sizes = [torch.zeros(1, dtype=torch.long, device=tensor.device) for _ in range(n_processes())]
        dist.all_gather(sizes, torch.tensor([len(tensor)], device=tensor.device))
        lengths = [int(size) for size in sizes]
        ctx.start, ctx.length = sum(lengths[: dist.get_rank()]), len(tensor)
        # all_gather needs tensors of the same shape on every process.
        padded = tensor.new_zeros((max(lengths), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.length]
