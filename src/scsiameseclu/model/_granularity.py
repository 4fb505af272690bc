"""The tree over the clusters, and other granularities after training."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scvi import settings

from scsiameseclu.data._loader import view_keys
from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.nn import ClusterHead
from scsiameseclu.partition import Space
from scsiameseclu.partition._hierarchy import Hierarchy, from_state, grow, to_state
from scsiameseclu.partition._splits import describe
from scsiameseclu.train._first_partition import head_of
from scsiameseclu.train._inference import decode, principal_components

logger = logging.getLogger(__name__)

MAX_TREE_CELLS = 10_000
_AGREEMENT = 0.99
"""Share of the cells that the means of the clusters have to assign as intended; otherwise they are refined."""
_REFINEMENT_STEPS = 200
_REFINEMENT_RATE = 0.05
_TOLERANCE = 0.002
"""Agreement that is given up at most for the likelihood of the last step."""


class GranularityMixin(ModelProtocol):
    """Merge, split and name the clusters of a trained model, without training."""

    cluster_tree_: dict[str, Any] | None

    # -- what users call -----------------------------------------------------------------------------------------

    def cut(self, n_clusters: int | None = None, significance: float | None = None) -> None:
        """Change the number of clusters, in seconds and without training.

        The clusters become those of a cut through ``cluster_tree_``. Clusters are merged if there are to be fewer than
        training found, and split if there are to be more. The embedding stays; the clustering head is fitted to the new
        clusters, so that :meth:`predict` on any cells, :meth:`get_cluster_summary` and saved files follow. A cluster
        that :meth:`rename` named and the cut leaves as it is keeps its name; all others are numbered by size anew.

        Parameters
        ----------
        n_clusters
            Number of clusters, from 1 to the number of small groups at the bottom of the tree.
        significance
            Keep splits with a p value of at most this. From the bottom, the two sides of a split are joined if its p
            value is higher and neither side is split itself.

        Raises
        ------
        RuntimeError
            If the model was not trained, is that of a query, or has no tree and no data to build one from.
        TypeError
            If both arguments are given or none, or ``n_clusters`` is not an integer.
        ValueError
            If there are fewer small groups than clusters, or ``significance`` is not between 0 and 1.

        Examples
        --------
        >>> model.cut(n_clusters=5)
        >>> model.cut(significance=0.05)
        """
        if (n_clusters is None) == (significance is None):
            found = "neither" if n_clusters is None else "both"
            raise TypeError(f"Expected either n_clusters or significance, found {found}; pass exactly one.")
        if n_clusters is not None and (isinstance(n_clusters, bool) or not isinstance(n_clusters, int | np.integer)):
            raise TypeError(f"Expected n_clusters to be an integer, found {n_clusters!r}.")
        if significance is not None and not 0.0 <= significance <= 1.0:
            raise ValueError(f"`significance`: expected a p value between 0 and 1, found {significance}.")
        tree, hierarchy = self._tree()
        if n_clusters is not None:
            clusters = hierarchy.cut(int(n_clusters))
        else:
            p_values = [split["p_value"] for split in reversed(tree["splits"])]
            clusters = hierarchy.cut_at(p_values, float(significance or 0.0))
        sizes = np.bincount(clusters, weights=hierarchy.sizes)
        rank = np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")
        self._regroup(rank[clusters], self._names_after(rank[clusters], np.asarray(tree["current"])))

    def split(self, cluster: str) -> None:
        """Split one cluster in two, at the topmost split of the tree below it.

        The larger part keeps the name, and the other gets the lowest free number and the last place. Clusters without
        cells are left out.

        Parameters
        ----------
        cluster
            Name of the cluster.

        Raises
        ------
        KeyError
            If there is no such cluster.
        RuntimeError
            If the model was not trained, is that of a query, or has no tree and no data to build one from.
        ValueError
            If the cluster is a single small group, which the tree does not divide further.
        """
        tree, hierarchy = self._tree()
        names = self._cluster_names()
        number = self._numbers([cluster])[0]
        current = np.asarray(tree["current"])
        sides = hierarchy.topmost_split(np.flatnonzero(current == number))
        if sides is None:
            raise ValueError(
                f"Expected a cluster that the tree divides, found {str(cluster)!r}, a single small group; train a "
                "model with more clusters to divide it."
            )
        current[min(sides, key=lambda side: hierarchy.sizes[side].sum())] = len(names)
        self._regroup(current, [*names, _free_number(names)])

    def merge(self, clusters: Sequence[str]) -> None:
        """Merge two or more clusters into one, which gets the smallest number, or the first name, of theirs.

        Clusters without cells are left out.

        Parameters
        ----------
        clusters
            Names of the clusters.

        Raises
        ------
        KeyError
            If there is no such cluster.
        RuntimeError
            If the model was not trained, is that of a query, or has no tree and no data to build one from.
        TypeError
            If ``clusters`` is a single name.
        ValueError
            If there are not at least two different clusters.
        """
        tree, _ = self._tree()
        if isinstance(clusters, str):
            raise TypeError(f"Expected a list of cluster names, found {clusters!r}.")
        names = self._cluster_names()
        numbers = sorted(set(self._numbers(clusters)))
        if len(numbers) < 2:
            raise ValueError(f"Expected at least two different clusters to merge, found {list(clusters)}.")
        kept_name = min((names[number] for number in numbers), key=_natural)
        current = np.asarray(tree["current"])
        current[np.isin(current, numbers)] = numbers[0]
        left = [number for number in range(len(names)) if number not in numbers[1:]]
        new_names = [kept_name if number == numbers[0] else names[number] for number in left]
        self._regroup(np.searchsorted(left, current), new_names)

    def rename(self, mapping: Mapping[str, str]) -> None:
        """Name clusters. :meth:`predict`, :meth:`get_cluster_summary` and everything written use the names.

        Names are saved with the model and go along to queries. :meth:`cut` keeps the names of clusters that it leaves
        as they are. A name that is a whole number counts as a number, which a cut may change.

        Parameters
        ----------
        mapping
            New name by present name, for some or all clusters.

        Raises
        ------
        KeyError
            If there is no such cluster.
        RuntimeError
            If the model was not trained.
        ValueError
            If two clusters would have the same name, or a name is empty.
        """
        self._check_clusters()
        self._numbers(list(mapping))
        wanted = {str(old): str(new) for old, new in mapping.items()}
        names = [wanted.get(name, name) for name in self._cluster_names()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Expected a different name for every cluster, found {twice} more than once.")
        if "" in names:
            raise ValueError("Expected names of at least one character, found an empty one.")
        self._rename(names)

    # -- how -----------------------------------------------------------------------------------------------------

    def _numbers(self, clusters: Sequence[str]) -> list[int]:
        """Numbers of clusters by name."""
        names = self._cluster_names()
        unknown = [str(cluster) for cluster in clusters if str(cluster) not in names]
        if unknown:
            raise KeyError(f"Expected names among the clusters {names}, found {unknown}.")
        return [names.index(str(cluster)) for cluster in clusters]

    def _names_after(self, new: NDArray[np.integer], old: NDArray[np.integer]) -> list[str]:
        """Names for new clusters of the small groups: that of the old cluster of the same groups, or a number."""
        of_groups = {tuple(np.flatnonzero(old == number)): name for number, name in enumerate(self._cluster_names())}
        names = [of_groups.get(tuple(np.flatnonzero(new == number)), "0") for number in range(int(new.max()) + 1)]
        names = [str(number) if _is_number(name) else name for number, name in enumerate(names)]
        dropped = [name for name in self._cluster_names() if not _is_number(name) and name not in names]
        if dropped:
            logger.warning("Clusters %s are merged or divided, and their names dropped: see rename().", dropped)
        return names

    def _tree(self) -> tuple[dict[str, Any], Hierarchy]:
        """The record and its tree; built first if the model was saved before there were trees."""
        self._check_clusters()
        if self.is_query_:
            raise RuntimeError(
                "Expected the model of a reference, found that of a query, whose clusters are the reference's and do "
                "not change; change the reference, and map the query again."
            )
        if self.cluster_tree_ is None or not self._embeds_as_reference():
            if self.adata is None:
                raise RuntimeError(
                    "Expected a model with a cluster tree, found one saved without; load it with the adata it was "
                    "trained on."
                )
            if not self._embeds_as_reference():
                reference = self.reference_ or {}
                self._remember(reference.get("seed"))
            self._grow_tree()
        if self.reference is None or not len(self.reference.latent):
            raise RuntimeError(
                "Expected a model with landmarks of its reference, found one saved without (landmarks=0); change the "
                "model that it was saved from, and save it again."
            )
        tree = self.cluster_tree_ or {}
        return tree, from_state(tree)

    @torch.no_grad()
    def _grow_tree(self) -> None:
        """Build the tree through the clusters on (a sample of) the cells of the model."""
        adata, manager = self.adata, self.adata_manager
        head = head_of(self.module)
        seed = 0 if settings.seed is None else int(settings.seed)
        rows = np.arange(adata.n_obs)
        if len(rows) > MAX_TREE_CELLS:
            rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_TREE_CELLS, replace=False))
        loader = self._make_data_loader(
            adata, indices=rows, batch_size=1024, data_and_attributes=view_keys(manager, "first")
        )
        z, expression = decode(self.module, loader)
        clusters = head(z).argmax(dim=1).cpu().numpy()
        space = Space(principal_components(expression, seed), z.float().cpu().numpy(), seed)
        hierarchy, groups = grow(space, clusters)
        genes: list[str] = []
        if self.module.loss_weights.reconstruction > 0.0:
            names = self._rna(adata).var_names
            genes = names[self.module.embedding_genes.cpu().numpy()].astype(str).tolist()
        self.cluster_tree_ = {
            **to_state(hierarchy),
            "splits": describe(hierarchy, groups, space, expression if genes else None, genes),
            "current": hierarchy.clusters.tolist(),
            "trained_centers": head.centers.cpu().tolist(),
            "trained_origin": head.origin.cpu().tolist(),
            "trained_temperature": float(head.temperature),
        }

    @torch.no_grad()
    def _trained_probabilities(self, z: torch.Tensor) -> NDArray[np.float32]:
        """Probabilities of embedded cells as training left them, whatever was cut since, ``(n, n_clusters)``."""
        tree = self.cluster_tree_ or {}
        centers = torch.tensor(tree["trained_centers"])
        options = dict(self.module._head_options)
        options["temperature"] = tree.get("trained_temperature", options["temperature"])
        head = ClusterHead(*centers.shape, **options)
        head.initialise(centers, head.marginals, torch.tensor(tree["trained_origin"]))
        return head(z).softmax(dim=1).numpy()

    def _regroup(self, current: NDArray[np.integer], names: list[str] | None) -> None:
        """Give the small groups these clusters, and the module a new head fitted to the cells of the reference."""
        tree, hierarchy = self._tree()
        # Clusters that training left without cells have no small group, and end here.
        occupied, current = np.unique(current, return_inverse=True)
        names = None if names is None else [names[number] for number in occupied]
        n_clusters = len(occupied)
        z = torch.as_tensor(self._latent_landmarks().rep)
        trained = self._trained_probabilities(z)
        groups = hierarchy.assign(z.numpy(), trained.argmax(axis=1))
        # The cells that are kept of a large reference are not in proportion.
        kept = np.bincount(groups, minlength=hierarchy.n_groups)
        weights = torch.as_tensor((hierarchy.sizes / np.maximum(kept, 1))[groups], dtype=z.dtype)
        labels = torch.as_tensor(current[groups])
        one_hot = torch.nn.functional.one_hot(labels, n_clusters).to(z.dtype) * weights[:, None]
        centers = (one_hot.T @ z) / one_hot.sum(dim=0).clamp_min(1e-9).unsqueeze(1)
        for cluster in range(n_clusters):
            owners = np.unique(hierarchy.clusters[current == cluster])
            if len(owners) == 1 and (hierarchy.clusters == owners[0]).sum() == (current == cluster).sum():
                centers[cluster] = torch.tensor(tree["trained_centers"][owners[0]])
        sizes = torch.as_tensor(np.bincount(current, weights=hierarchy.sizes, minlength=n_clusters)).float()
        head = self.module.build_head(n_clusters)
        device = head.centers.device
        origin = torch.tensor(tree["trained_origin"])
        head.initialise(centers.to(device), ((sizes + 1.0) / (sizes + 1.0).sum()).to(device), origin.to(device))
        refine(head, z.to(device), labels.to(device), weights.to(device))
        confidence = torch.as_tensor(regrouped(trained, groups, hierarchy, current).max(axis=1))
        head.calibrate(z.to(device), float(confidence @ weights / weights.sum()), weights.to(device))
        self.module.eval()
        self.cluster_tree_ = {**tree, "current": [int(cluster) for cluster in current]}
        self._rename(names)
        self._record_n_clusters()


def regrouped(
    trained: NDArray[np.float32], groups: NDArray[np.integer], hierarchy: Hierarchy, current: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Probabilities of the clusters that small groups now form, from the probabilities as trained.

    The probability of a cell's own cluster goes where its small group went. That of another cluster goes where its
    small groups went, in proportion to their sizes.

    Parameters
    ----------
    trained
        Probabilities of the clusters as trained, ``(n, n_trained)``.
    groups
        Small group of each cell, ``(n,)``.
    hierarchy
        The tree over the small groups.
    current
        Cluster of each small group now, ``(n_groups,)``.

    Returns
    -------
    Probabilities, ``(n, n_clusters)``, rows sum to 1.
    """
    masses = np.zeros((trained.shape[1], int(current.max()) + 1), dtype=np.float32)
    np.add.at(masses, (hierarchy.clusters, current), hierarchy.sizes)
    shares = masses / np.maximum(masses.sum(axis=1, keepdims=True), 1e-9)
    cells, own = np.arange(len(groups)), hierarchy.clusters[groups]
    probabilities = trained @ shares - trained[cells, own, None] * shares[own]
    probabilities[cells, current[groups]] += trained[cells, own]
    return probabilities


@torch.enable_grad()
def refine(head: ClusterHead, z: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> float:
    """Fit centres and origin of a head to clusters of embedded cells by logistic regression.

    A head that assigns nearly all cells to their cluster already is left as it is.

    Parameters
    ----------
    head
        Head with its centres placed, changed in place.
    z
        Cells, ``(n, n_latent)``.
    labels
        Cluster of each cell, ``(n,)``.
    weights
        Weight of each cell, ``(n,)``.

    Returns
    -------
    Share of the cells that the head assigns to their cluster.
    """

    def agreement() -> float:
        with torch.no_grad():
            hits = (head(z).argmax(dim=1) == labels).to(weights.dtype)
            return float((hits * weights).sum() / weights.sum())

    best, kept = agreement(), (head.centers.detach().clone(), head.origin.clone())
    if best >= _AGREEMENT:
        return best
    # The origin is fitted too: parts of a cluster may differ in their distance from it, which the cosine kernel does
    # not see.
    head.origin = head.origin.clone().requires_grad_()
    optimiser = torch.optim.Adam([head.centers, head.origin], lr=_REFINEMENT_RATE * float(z.std()))
    for step in range(_REFINEMENT_STEPS):
        optimiser.zero_grad()
        losses = torch.nn.functional.cross_entropy(head(z), labels, reduction="none")
        ((losses * weights).sum() / weights.sum()).backward()
        optimiser.step()
        if step % 10 == 9 and (found := agreement()) > best - _TOLERANCE:
            best = max(best, found)
            kept = head.centers.detach().clone(), head.origin.detach().clone()
    with torch.no_grad():
        head.centers.copy_(kept[0])
    head.centers.grad, head.origin = None, kept[1]
    return best


def _free_number(names: Sequence[str]) -> str:
    return next(str(number) for number in range(len(names) + 1) if str(number) not in names)


def _natural(name: str) -> tuple[bool, int, str]:
    """Numbers first, in their order."""
    is_number = _is_number(name)
    return not is_number, int(name) if is_number else 0, name


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()
