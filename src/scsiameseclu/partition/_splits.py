"""Splits of the tree over the clusters: how separate, how significant, and carried by which genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

from scsiameseclu.partition._tree import null_separability, separability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scsiameseclu.partition._hierarchy import Hierarchy
    from scsiameseclu.partition._space import Space

N_DRAWS = 99
N_GENES = 10
_MAX_CELLS = 400
"""Cells of a side that a split is measured on."""
_MAX_NULL_CELLS = 200
"""Cells of a side in the draws of one population, and in what they are compared with."""
_ENOUGH_ABOVE = 5
"""Draws at least as separable as what was found, after which no more are made: the split is not significant."""
_CLUMPING = 1.6
"""Factor on the separability of the draws.

Training gathers cells around each other, also where there is one population. Models trained on one simulated
population, with three and four clusters asked for, had splits of up to 1.4 relative separability, most below 1.
"""
_MIN_SPREAD = 0.1
"""Added to the standard deviation of a gene within the sides, in units of its standard deviation over all cells."""


def describe(
    hierarchy: Hierarchy,
    groups: NDArray[np.integer],
    space: Space,
    expression: NDArray[np.floating] | None = None,
    genes: Sequence[str] = (),
    n_draws: int = N_DRAWS,
) -> list[dict[str, Any]]:
    """Describe every split, the topmost first.

    Parameters
    ----------
    hierarchy
        The tree.
    groups
        Small group of each cell, ``(n_obs,)``.
    space
        The cells.
    expression
        Expression of the genes in each cell, each gene in units of its standard deviation, ``(n_obs, n_genes)``.
    genes
        Names of the genes.
    n_draws
        Draws of one population behind each p value, at most.

    Returns
    -------
    One dictionary of builtins per split: ``node`` and its ``parent`` (None for the root), the nodes ``left`` and
    ``right`` on its two sides, ``n_left`` and ``n_right`` cells, ``n_clusters`` that there are once this split and all
    above are made, ``separability``, relative to one population cut in two, ``p_value``, and ``genes``: up to 10 names
    with the standardised difference, positive if higher on the left.
    """
    parents = {
        int(child): hierarchy.n_groups + merge for merge, pair in enumerate(hierarchy.children) for child in pair
    }
    order = np.random.default_rng(space.random_state).permutation(space.n_obs)
    splits = []
    for merge in range(hierarchy.n_groups - 2, -1, -1):
        node, (left, right) = hierarchy.n_groups + merge, hierarchy.children[merge].tolist()
        sides = [order[np.isin(groups[order], hierarchy.members(child))] for child in (left, right)]
        found, p_value = measure(space, sides[0], sides[1], n_draws)
        splits.append(
            {
                "node": node,
                "parent": parents.get(node),
                "left": left,
                "right": right,
                "n_left": len(sides[0]),
                "n_right": len(sides[1]),
                "n_clusters": hierarchy.n_groups - merge,
                "separability": found,
                "p_value": p_value,
                "genes": {} if expression is None else carriers(expression, sides[0], sides[1], genes),
            }
        )
    return splits


def measure(
    space: Space, first: NDArray[np.integer], second: NDArray[np.integer], n_draws: int = N_DRAWS
) -> tuple[float, float]:
    """Relative separability of two groups of cells, and its p value if both are halves of one population.

    Both are taken in decoded expression and in the embedding; the smaller separability and the larger p value count.
    For the p value, one population is drawn from a normal distribution with the covariance of both groups together, cut
    across its leading axis in the same shares, and its separability is computed in the same way, again and again, times
    1.6, because training gathers the cells of one population into clumps that a normal distribution does not have. The
    p value is the share of draws that are at least as separable as what was found, which counts as a draw itself.
    Drawing ends early once 5 draws are (Besag and Clifford, Biometrika 1991).

    Parameters
    ----------
    space
        The cells.
    first, second
        Rows of the two groups, in random order.
    n_draws
        Draws at most.
    """
    share = len(first) / (len(first) + len(second))
    null = null_separability(share)
    relative, p_values = [], []
    for points in (space.expression, space.embedding):
        points = points.astype(np.float64)
        relative.append(separability(points[first[:_MAX_CELLS]], points[second[:_MAX_CELLS]]) / null)
        sides = points[first[:_MAX_NULL_CELLS]], points[second[:_MAX_NULL_CELLS]]
        p_values.append(p_value_of(*sides, share, n_draws, space.random_state))
    return float(min(relative)), float(max(p_values))


def p_value_of(
    first: NDArray[np.floating], second: NDArray[np.floating], share: float, n_draws: int, random_state: int
) -> float:
    """P value of the separability of two groups (see :func:`measure`); ``share`` is the first group's of both."""
    if min(len(first), len(second)) < 4:
        return 1.0  # too few cells to leave some out
    rng = np.random.default_rng(random_state)
    found = separability(first, second)
    spreads = _spreads(first, second, share)
    n_above = 0
    for draw in range(1, n_draws + 1):
        drawn = separability(*_one_population(spreads, len(first), len(second), share, rng))
        n_above += _CLUMPING * drawn >= found
        if n_above == _ENOUGH_ABOVE:
            return n_above / draw
    return (1 + n_above) / (1 + n_draws)


def _spreads(first: NDArray[np.floating], second: NDArray[np.floating], share: float) -> NDArray[np.float64]:
    """Standard deviations of both groups together along their principal axes, the largest first."""
    between = first.mean(axis=0) - second.mean(axis=0)
    joint = share * np.cov(first.T, ddof=0) + (1.0 - share) * np.cov(second.T, ddof=0)
    joint = np.atleast_2d(joint) + share * (1.0 - share) * np.outer(between, between)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(joint)[::-1], 0.0))


def _one_population(
    spreads: NDArray[np.float64], n_first: int, n_second: int, share: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cells of one normal population on the two sides of a cut across its leading axis."""
    # Groups are larger than what is looked at of them: the cut is where the share of the whole groups says.
    below = (1.0 - share) * rng.random(n_second), (1.0 - share) + share * rng.random(n_first)
    sides = ndtri(below[1]), ndtri(below[0])
    cells = [rng.normal(size=(len(side), len(spreads))) for side in sides]
    for side, values in zip(sides, cells, strict=True):
        values[:, 0] = side
    return cells[0] * spreads, cells[1] * spreads


def carriers(
    expression: NDArray[np.floating], first: NDArray[np.integer], second: NDArray[np.integer], genes: Sequence[str]
) -> dict[str, float]:
    """The 10 genes that differ most between two groups of cells, with the difference over the spread within them.

    Parameters
    ----------
    expression
        Expression of the genes, each in units of its standard deviation, ``(n_obs, n_genes)``.
    first, second
        Rows of the two groups.
    genes
        Names of the genes, the first columns of ``expression``.
    """
    columns = len(genes)
    one, other = (expression[np.sort(rows[:_MAX_CELLS]), :columns] for rows in (first, second))
    spread = np.sqrt(0.5 * (one.var(axis=0) + other.var(axis=0))) + _MIN_SPREAD
    difference = (one.mean(axis=0) - other.mean(axis=0)) / spread
    best = np.argsort(-np.abs(difference), kind="stable")[:N_GENES]
    return {str(genes[at]): float(difference[at]) for at in best}
