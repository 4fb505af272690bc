"""Description of the splits of the tree over the clusters: separability, p value and genes that differ."""

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
"""Largest number of cells per side for the separability of a split."""
_MAX_NULL_CELLS = 200
"""Largest number of cells per side for the p value of a split."""
_ENOUGH_ABOVE = 5
"""Number of draws with at least the separability of the split, after which drawing stops. The split is then not
significant."""
_CLUMPING = 1.6
"""Factor on the separability of the draws.

Training pulls cells together, even within one population. Models trained on one simulated population, with three and
four clusters, had splits with relative separabilities of up to 1.4, most of them below 1.
"""
_MIN_SPREAD = 0.1
"""Number added to the standard deviation of a gene within the sides, in units of its standard deviation over all cells.
"""


def describe(
    hierarchy: Hierarchy,
    groups: NDArray[np.integer],
    space: Space,
    expression: NDArray[np.floating] | None = None,
    genes: Sequence[str] = (),
    n_draws: int = N_DRAWS,
) -> list[dict[str, Any]]:
    """Describe every split of the tree, the topmost split first.

    Parameters
    ----------
    hierarchy
        The tree.
    groups
        Number of the small group of each cell, ``(n_obs,)``.
    space
        The cells.
    expression
        Expression of the genes in each cell, each gene in units of its standard deviation, ``(n_obs, n_genes)``.
    genes
        Names of the genes.
    n_draws
        Largest number of random draws for each p value.

    Returns
    -------
    One dictionary of built-in Python types per split, with the keys

    * ``node``, ``parent``: number of the node that is split, and of its parent (None for the root);
    * ``left``, ``right``: numbers of the two nodes of the split;
    * ``n_left``, ``n_right``: number of cells in these two nodes;
    * ``n_clusters``: number of clusters after this split and all earlier splits in the list;
    * ``separability``: relative separability, see :func:`measure`;
    * ``p_value``: p value, see :func:`measure`;
    * ``genes``: up to 10 genes with their standardised differences, positive if expression is higher on the left.
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
    """Relative separability of two groups of cells, and its p value under the hypothesis of one population.

    Both numbers are computed in decoded expression and in the embedding. The function returns the smaller separability
    and the larger p value.

    The null hypothesis of the p value is one normal distribution with the joint covariance of both groups. Each draw
    samples cells from this distribution, cuts the cells across the leading axis in the same shares as the two groups,
    and computes the separability. The separability of a draw is multiplied by 1.6, because training pulls the cells of
    one population together, which a normal distribution does not show. The p value is the share of draws with at least
    the separability of the two groups, where the two groups count as a draw. Drawing stops early after 5 such draws
    (Besag and Clifford, Biometrika 1991).

    Parameters
    ----------
    space
        The cells.
    first, second
        Row numbers of the two groups, in random order.
    n_draws
        Largest number of draws.

    Returns
    -------
    Relative separability and p value.
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
    """P value of the separability of two groups of cells (see :func:`measure`).

    ``first`` and ``second`` may be samples of the groups. ``share`` is the share of the whole first group in all cells
    of both groups.
    """
    if min(len(first), len(second)) < 4:
        return 1.0  # too few cells for the two halves that separability needs
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
    """Draw cells of one normal population on the two sides of a cut across its leading axis."""
    # The cut follows the share of the whole groups, because n_first and n_second may be sizes of samples.
    below = (1.0 - share) * rng.random(n_second), (1.0 - share) + share * rng.random(n_first)
    sides = ndtri(below[1]), ndtri(below[0])
    cells = [rng.normal(size=(len(side), len(spreads))) for side in sides]
    for side, values in zip(sides, cells, strict=True):
        values[:, 0] = side
    return cells[0] * spreads, cells[1] * spreads


def carriers(
    expression: NDArray[np.floating], first: NDArray[np.integer], second: NDArray[np.integer], genes: Sequence[str]
) -> dict[str, float]:
    """Find the 10 genes that differ most between two groups of cells.

    Parameters
    ----------
    expression
        Expression of the genes, each gene in units of its standard deviation, ``(n_obs, n_genes)``.
    first, second
        Row numbers of the two groups.
    genes
        Names of the genes, which are the first columns of ``expression``.

    Returns
    -------
    Difference of the group means over the standard deviation within the groups, by name of the gene.
    """
    columns = len(genes)
    one, other = (expression[np.sort(rows[:_MAX_CELLS]), :columns] for rows in (first, second))
    spread = np.sqrt(0.5 * (one.var(axis=0) + other.var(axis=0))) + _MIN_SPREAD
    difference = (one.mean(axis=0) - other.mean(axis=0)) / spread
    best = np.argsort(-np.abs(difference), kind="stable")[:N_GENES]
    return {str(genes[at]): float(difference[at]) for at in best}
