"""The transport of cells to cluster masses that the targets of the head are made by."""

import math
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from scsiameseclu.ot._exact import ExactResult, exact_transport
from scsiameseclu.ot._sinkhorn import SinkhornResult, sinkhorn

Transport: TypeAlias = Literal["entropic", "exact"]


def check_transport(transport: Transport, marginal_relaxation: float = math.inf) -> None:
    """Refuse an unknown kind of transport, and relaxed masses where the solver holds masses exactly.

    Raises
    ------
    ValueError
        If ``transport`` is neither ``"entropic"`` nor ``"exact"``, if ``marginal_relaxation`` is negative, or if
        ``marginal_relaxation`` is finite with exact transport.
    """
    if transport not in get_args(Transport):
        raise ValueError(f"Expected transport 'entropic' or 'exact', found {transport!r}.")
    if not marginal_relaxation >= 0:
        raise ValueError(
            f"Expected marginal_relaxation >= 0, found {marginal_relaxation}; pass inf to hold the marginals exactly."
        )
    if transport == "exact" and not math.isinf(marginal_relaxation):
        raise ValueError(
            f"Expected marginal_relaxation=inf with transport='exact', found {marginal_relaxation}: exact transport "
            "holds the masses. Leave marginal_relaxation out, or ask for transport='entropic'."
        )


def transport_to_masses(
    logits: Tensor,
    masses: Tensor,
    transport: Transport = "entropic",
    *,
    marginal_relaxation: float = math.inf,
    **kwargs: Any,
) -> SinkhornResult | ExactResult:
    """Transport cells of equal mass to clusters.

    Parameters
    ----------
    logits
        Scores, shape ``(n, K)``.
    masses
        Mass of each cluster, shape ``(K,)``, total 1.
    transport
        ``"entropic"``: the mean probabilities of the cells are the masses, see :func:`scsiameseclu.ot.sinkhorn`.
        ``"exact"``: the shares of the cells by likeliest cluster are the masses, see
        :func:`scsiameseclu.ot.exact_transport`.
    marginal_relaxation, **kwargs
        Further arguments of :func:`scsiameseclu.ot.sinkhorn`; exact transport has none of them.

    Returns
    -------
    Result of the solver, with ``column_duals`` and ``marginal_error``. The error is the error of the plan. With exact
    transport, cells on the border between two clusters may have another likeliest cluster than in the plan.

    Raises
    ------
    ValueError
        If the solver refuses the input, or by the rules of :func:`check_transport`.
    """
    check_transport(transport, marginal_relaxation)
    if transport == "exact":
        return exact_transport(logits, masses)
    return sinkhorn(logits, masses, marginal_relaxation=marginal_relaxation, **kwargs)
