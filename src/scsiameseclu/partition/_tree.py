"""Agglomerative merging of small groups of cells by their separability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.special import ndtri

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHRINKAGE = 0.3
_MAX_CELLS = 400
"""Largest number of cells per group for its separability, which changes little with more cells."""


def separability(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    r"""Distance of two groups on the axis that separates them best, in units of their standard deviations.

    The axis :math:`w = S^{-1} (m_1 - m_2)` is Fisher's linear discriminant. The covariance :math:`S` within the groups
    is shrunk by 0.3 towards a multiple of the identity. The axis is computed on one half of the cells. On the other
    half, projected on the axis, the difference of the means is divided by the sum of the two standard deviations. Then
    the halves are swapped. Because axis and distance come from different cells, chance differences do not increase the
    separability. Because each group has its own standard deviation, groups may differ in width.

    Parameters
    ----------
    first, second
        Cells of the two groups in random order, ``(n_1, n_dims)`` and ``(n_2, n_dims)``.

    Returns
    -------
    Mean over the two halves. The value is about 0, and may be negative, for groups that do not differ.
    """
    return float(np.mean([_on_discriminant(first, second, half) for half in (0, 1)]))


def _on_discriminant(first: NDArray[np.floating], second: NDArray[np.floating], half: int) -> float:
    halves = [(cells[half::2], cells[1 - half :: 2]) for cells in (first, second)]
    if min(len(part) for pair in halves for part in pair) < 2:
        halves = [(first, first), (second, second)]  # too few cells for two halves
    (fit_1, test_1), (fit_2, test_2) = halves
    mean_1, mean_2 = fit_1.mean(axis=0), fit_2.mean(axis=0)
    residuals = np.concatenate([fit_1 - mean_1, fit_2 - mean_2])
    within = residuals.T @ residuals / max(len(residuals) - 2, 1)
    size = np.trace(within) / len(within)
    within = (1.0 - _SHRINKAGE) * within + (_SHRINKAGE * size + 1e-9) * np.eye(len(within))
    axis = np.linalg.solve(within, mean_1 - mean_2)
    scores_1, scores_2 = test_1 @ axis, test_2 @ axis
    return float((scores_1.mean() - scores_2.mean()) / np.maximum(scores_1.std() + scores_2.std(), 1e-9))


def null_separability(share: float) -> float:
    r"""Separability of the two sides of a standard normal distribution that is cut into two sides.

    Let :math:`t` be the cut, :math:`p` the share above the cut and :math:`\varphi` the normal density. The upper side
    has mean :math:`h = \varphi(t)/p` and variance :math:`1 + t h - h^2`. The lower side has mean
    :math:`h = -\varphi(t)/(1-p)` and the variance by the same formula. The separability is 1.32 for two halves, and
    larger for uneven cuts, because the tail of a population looks well separated.

    Parameters
    ----------
    share
        Share of the distribution on one side of the cut, between 0 and 1.

    Returns
    -------
    Difference of the means over the sum of the standard deviations.
    """
    p = float(np.clip(min(share, 1.0 - share), 1e-4, 0.5))
    cut = float(ndtri(1.0 - p))
    density = float(np.exp(-0.5 * cut**2) / np.sqrt(2.0 * np.pi))
    upper, lower = density / p, -density / (1.0 - p)
    variances = 1.0 + cut * upper - upper**2, 1.0 + cut * lower - lower**2
    return float((upper - lower) / (np.sqrt(variances[0]) + np.sqrt(variances[1])))


class MergeTree:
    """Merge small groups until one group is left. The pair of neighbouring groups with the lowest score merges first.

    The *relative separability* of two groups is their :func:`separability`, divided by the separability of a single
    population that is cut in the same shares (:func:`null_separability`). The score of two groups is their relative
    separability times a power of the smaller group's share of all cells. With the power 0 only separability counts,
    and tiny groups may stay while large groups merge. With a positive power small groups merge earlier.

    Parameters
    ----------
    points
        Cells, ``(n_obs, n_dims)``.
    groups
        Number of the initial small group of each cell, from 0 without gaps, ``(n_obs,)``.
    graph
        Neighbour graph of the cells, symmetric. Groups without an edge between them are merged last.
    size_power
        Power of the smaller group's share of all cells.
    random_state
        Seed of the random order in which cells of a group are taken.
    known
        Relative separabilities that are already known, by pair of groups. The tree adds its own values. Trees over the
        same cells and small groups can share this dictionary. By default nothing is shared.
    within
        Number of the cluster of every small group, ``(n_groups,)``. Small groups of the same cluster are merged until
        each cluster is one group, and clusters are merged after that. By default any two groups may merge at any time.
    """

    def __init__(
        self,
        points: NDArray[np.floating],
        groups: NDArray[np.integer],
        graph: sparse.csr_matrix,
        size_power: float,
        random_state: int = 0,
        known: dict[tuple[frozenset[int], frozenset[int]], float] | None = None,
        within: NDArray[np.integer] | None = None,
    ) -> None:
        order = np.random.default_rng(random_state).permutation(len(points))
        points = np.asarray(points, dtype=np.float64)
        n_groups = int(groups.max()) + 1
        by_group = order[np.argsort(groups[order], kind="stable")]
        bounds = np.searchsorted(groups[by_group], np.arange(n_groups + 1))
        rows = [by_group[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
        rank = np.argsort(order)
        self._cells = {group: points[each[:_MAX_CELLS]] for group, each in enumerate(rows)}
        self._rank = {group: rank[each[:_MAX_CELLS]] for group, each in enumerate(rows)}
        self._sizes = dict(enumerate(np.bincount(groups, minlength=n_groups).astype(int)))
        self._n_obs, self._power = len(points), size_power
        self._known = {} if known is None else known
        self._members = {group: frozenset([group]) for group in range(n_groups)}
        member = sparse.csr_matrix((np.ones(len(groups)), (np.arange(len(groups)), groups)), (len(groups), n_groups))
        self._joined = np.asarray((member.T @ graph @ member).todense()) > 0
        self.leaves = n_groups
        self._within = np.zeros(n_groups, dtype=np.int64) if within is None else np.array(within, dtype=np.int64)
        self.merges = self._merge_all()

    def cut(self, n_clusters: int) -> NDArray[np.int64]:
        """Cluster of every small group, from 0, ``(n_groups,)``.

        Raises
        ------
        ValueError
            If there are fewer small groups than clusters.
        """
        if not 1 <= n_clusters <= self.leaves:
            raise ValueError(f"Expected from 1 to {self.leaves} clusters, found {n_clusters}.")
        cluster = np.arange(self.leaves)
        for kept, gone in self.merges[: self.leaves - n_clusters]:
            cluster[cluster == gone] = kept
        return np.unique(cluster, return_inverse=True)[1]

    def _score(self, first: int, second: int) -> float:
        n_1, n_2 = self._sizes[first], self._sizes[second]
        pair = self._members[first], self._members[second]
        if pair not in self._known:
            apart = separability(self._cells[first], self._cells[second])
            self._known[pair] = apart / null_separability(n_1 / (n_1 + n_2))
        return self._known[pair] * (min(n_1, n_2) / self._n_obs) ** self._power

    def _merge_all(self) -> list[tuple[int, int]]:
        """Pairs of merged groups in the order of merging. The second group of a pair becomes part of the first."""
        alive = list(range(self.leaves))
        scores = {pair: self._score(*pair) for pair in self._pairs(alive) if self._joined[pair]}
        merges: list[tuple[int, int]] = []
        while len(alive) > 1:
            if not scores:
                scores = self._scores_anew(alive)
            kept, gone = min(scores, key=lambda pair: scores[pair])
            merges.append((kept, gone))
            linked = self._joined[kept, gone]
            self._join(kept, gone)
            alive.remove(gone)
            if not linked:
                scores = {}  # no edges are left between groups, so the new group may merge with any group
                continue
            scores = {pair: score for pair, score in scores.items() if not {kept, gone} & set(pair)}
            for other in alive:
                if other != kept and self._joined[kept, other] and self._within[kept] == self._within[other]:
                    scores[min(kept, other), max(kept, other)] = self._score(min(kept, other), max(kept, other))
        return merges

    def _pairs(self, alive: list[int]) -> list[tuple[int, int]]:
        """Pairs of groups that belong to the same cluster."""
        return [(i, j) for at, j in enumerate(alive) for i in alive[:at] if self._within[i] == self._within[j]]

    def _scores_anew(self, alive: list[int]) -> dict[tuple[int, int], float]:
        """Scores of the pairs that may merge if no scored pair is left.

        These pairs are groups of the same cluster without an edge between them or, once every cluster is one group,
        pairs of clusters.
        """
        pairs = self._pairs(alive)
        if not pairs:  # every cluster is one group: from now on, any two groups may merge
            self._within[:] = 0
            pairs = self._pairs(alive)
            pairs = [pair for pair in pairs if self._joined[pair]] or pairs
        return {pair: self._score(*pair) for pair in pairs}

    def _join(self, kept: int, gone: int) -> None:
        """Make the group ``gone`` a part of ``kept``.

        Of the cells of both groups, the first 400 in the common random order are kept.
        """
        ranks = np.concatenate([self._rank[kept], self._rank.pop(gone)])
        cells = np.concatenate([self._cells[kept], self._cells.pop(gone)])
        first = np.argsort(ranks)[:_MAX_CELLS]
        self._rank[kept], self._cells[kept] = ranks[first], cells[first]
        self._sizes[kept] += self._sizes.pop(gone)
        self._members[kept] |= self._members.pop(gone)
        self._joined[kept] |= self._joined[gone]
        self._joined[:, kept] |= self._joined[:, gone]
        self._joined[gone], self._joined[:, gone] = False, False
