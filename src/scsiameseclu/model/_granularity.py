"""The tree over the clusters, and changes of the clusters after training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scvi import settings

from scsiameseclu._keys import UNASSIGNED
from scsiameseclu.data._loader import view_keys
from scsiameseclu.model._cluster_names import free_number, names_after, numbers_first
from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.nn import ClusterHead
from scsiameseclu.partition import Space
from scsiameseclu.partition._hierarchy import Hierarchy, from_state, grow, to_state
from scsiameseclu.partition._splits import describe
from scsiameseclu.train._first_partition import head_of
from scsiameseclu.train._inference import decode, principal_components

MAX_TREE_CELLS = 10_000
_AGREEMENT = 0.99
"""Share of cells that a head with centres at the cluster means must assign as intended, or the centres are refined."""
_REFINEMENT_STEPS = 200
_REFINEMENT_RATE = 0.05
_TOLERANCE = 0.002
"""Largest loss of agreement that is accepted in exchange for the higher likelihood of a later step."""


class GranularityMixin(ModelProtocol):
    """Merge, split and name the clusters of a trained model, without training."""

    cluster_tree_: dict[str, Any] | None

    # -- public methods ------------------------------------------------------------------------------------------

    def cut(self, n_clusters: int | None = None, significance: float | None = None) -> None:
        """Change the number of clusters, in seconds and without training.

        The method cuts the tree in ``cluster_tree_``, and the cut defines the new clusters. A cut with fewer clusters
        than training found merges clusters. A cut with more clusters splits them. The embedding does not change. The
        clustering head is fitted to the new clusters, so :meth:`predict`, :meth:`get_cluster_summary` and saved files
        use the new clusters. The new clusters are numbered by size. If the cut does not change a cluster that
        :meth:`rename` named, the cluster keeps its name. A warning lists the names that are dropped.

        Parameters
        ----------
        n_clusters
            Number of clusters, from 1 to the number of small groups at the bottom of the tree.
        significance
            Largest p value of a split that is kept. Starting from the bottom of the tree, the method joins the two
            sides of a split if the p value of the split is larger and neither side is split itself.

        Raises
        ------
        RuntimeError
            If the model was not trained, is the model of a query, or has neither a tree nor data to build a tree.
        TypeError
            If both arguments are given, if neither is given, or if ``n_clusters`` is not an integer.
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
        self._regroup(rank[clusters], names_after(self._cluster_names(), np.asarray(tree["current"]), rank[clusters]))

    def split(self, cluster: str) -> None:
        """Split one cluster in two, at the topmost split of the tree inside the cluster.

        The larger part keeps the name of the cluster. The smaller part becomes the last cluster, named by the lowest
        free number. Clusters without cells are dropped.

        Parameters
        ----------
        cluster
            Name of the cluster.

        Raises
        ------
        KeyError
            If there is no such cluster.
        RuntimeError
            If the model was not trained, is the model of a query, or has neither a tree nor data to build a tree.
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
        self._regroup(current, [*names, free_number(names)])

    def merge(self, clusters: Sequence[str]) -> None:
        """Merge two or more clusters into one.

        The merged cluster gets the smallest number among the names of its parts. If no name is a number, the merged
        cluster gets the first name in alphabetical order. Clusters without cells are dropped.

        Parameters
        ----------
        clusters
            Names of the clusters.

        Raises
        ------
        KeyError
            If there is no such cluster.
        RuntimeError
            If the model was not trained, is the model of a query, or has neither a tree nor data to build a tree.
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
        kept_name = min((names[number] for number in numbers), key=numbers_first)
        current = np.asarray(tree["current"])
        current[np.isin(current, numbers)] = numbers[0]
        left = [number for number in range(len(names)) if number not in numbers[1:]]
        new_names = [kept_name if number == numbers[0] else names[number] for number in left]
        self._regroup(np.searchsorted(left, current), new_names)

    def rename(self, mapping: Mapping[str, str]) -> None:
        """Name clusters.

        :meth:`predict`, :meth:`get_cluster_summary` and :meth:`write_to_adata` use the names. The names are saved with
        the model, and models of queries have the same names. If :meth:`cut` does not change a cluster, the cluster
        keeps its name. A name that is a whole number is a cluster number, which :meth:`cut` may change.

        Parameters
        ----------
        mapping
            New names by present name, for some or all clusters.

        Raises
        ------
        KeyError
            If there is no such cluster.
        RuntimeError
            If the model was not trained.
        ValueError
            If two clusters would have the same name, or a new name is empty or ``"unassigned"``.
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
        if UNASSIGNED in names:
            raise ValueError(
                f"Expected names other than {UNASSIGNED!r}, the name of cells without a cluster, found it."
            )
        self._rename(names)

    # -- internals -----------------------------------------------------------------------------------------------

    def _numbers(self, clusters: Sequence[str]) -> list[int]:
        """Numbers of the clusters with these names."""
        names = self._cluster_names()
        unknown = [str(cluster) for cluster in clusters if str(cluster) not in names]
        if unknown:
            raise KeyError(f"Expected names among the clusters {names}, found {unknown}.")
        return [names.index(str(cluster)) for cluster in clusters]

    def _tree(self) -> tuple[dict[str, Any], Hierarchy]:
        """Return ``cluster_tree_`` and the hierarchy in it.

        If the model has no tree, or the tree does not fit the present weights, the method builds the tree first.
        """
        self._check_clusters()
        if self.is_query_:
            raise RuntimeError(
                "Expected the model of a reference, found the model of a query. The clusters of a query are the "
                "clusters of its reference; change the reference, and map the query again."
            )
        if self.cluster_tree_ is None or not self._embeds_as_reference():
            if self.adata is None:
                raise RuntimeError(
                    "Expected a model with a cluster tree, found a model saved without one; load the model with the "
                    "adata it was trained on."
                )
            if not self._embeds_as_reference():
                reference = self.reference_ or {}
                self._remember(reference.get("seed"))
            self._grow_tree()
        if self.reference is None or not len(self.reference.latent):
            raise RuntimeError(
                "Expected a model with landmarks of its reference, found a model saved without landmarks "
                "(landmarks=0); change the clusters of the original model, and save it again."
            )
        tree = self.cluster_tree_ or {}
        return tree, from_state(tree)

    @torch.no_grad()
    def _grow_tree(self) -> None:
        """Build the tree over the clusters from the cells of the model, or from a random sample of at most 10,000."""
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
        """Probabilities of embedded cells for the clusters that training found, ``(n, n_clusters)``.

        Later cuts, splits and merges do not change these probabilities.
        """
        tree = self.cluster_tree_ or {}
        centers = torch.tensor(tree["trained_centers"])
        options = dict(self.module._head_options)
        options["temperature"] = tree.get("trained_temperature", options["temperature"])
        head = ClusterHead(*centers.shape, **options)
        head.initialise(centers, head.marginals, torch.tensor(tree["trained_origin"]))
        return head(z).softmax(dim=1).numpy()

    def _regroup(self, current: NDArray[np.integer], names: list[str] | None) -> None:
        """Assign the small groups to clusters, and fit a new head to the landmarks of the reference.

        Parameters
        ----------
        current
            Number of the new cluster of each small group, ``(n_groups,)``.
        names
            Names of the new clusters. None names the clusters by number.
        """
        tree, hierarchy = self._tree()
        # A cluster without cells has no small group. The next line drops its number.
        occupied, current = np.unique(current, return_inverse=True)
        names = None if names is None else [names[number] for number in occupied]
        n_clusters = len(occupied)
        z = torch.as_tensor(self._latent_landmarks().rep)
        trained = self._trained_probabilities(z)
        groups = hierarchy.assign(z.numpy(), trained.argmax(axis=1))
        # A large reference keeps only some cells as landmarks, and not the same share of every group. The weights
        # correct for the shares.
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
    """Turn probabilities of the trained clusters into probabilities of the present clusters.

    The probability of the trained cluster that holds the cell's small group moves to the present cluster of that group.
    The probability of any other trained cluster is divided among the present clusters of its small groups, in
    proportion to the sizes of the groups.

    Parameters
    ----------
    trained
        Probabilities of the trained clusters, ``(n, n_trained)``.
    groups
        Number of the small group of each cell, ``(n,)``.
    hierarchy
        The tree over the small groups.
    current
        Number of the present cluster of each small group, ``(n_groups,)``.

    Returns
    -------
    Probabilities of the present clusters, ``(n, n_clusters)``. Each row sums to 1.
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

    A head that already assigns nearly all cells to their clusters is not changed.

    Parameters
    ----------
    head
        Head with initial centres, changed in place.
    z
        Embedded cells, ``(n, n_latent)``.
    labels
        Number of the cluster of each cell, ``(n,)``.
    weights
        Weight of each cell, ``(n,)``.

    Returns
    -------
    Weighted share of the cells that the head assigns to their cluster.
    """

    def agreement() -> float:
        with torch.no_grad():
            hits = (head(z).argmax(dim=1) == labels).to(weights.dtype)
            return float((hits * weights).sum() / weights.sum())

    best, kept = agreement(), (head.centers.detach().clone(), head.origin.clone())
    if best >= _AGREEMENT:
        return best
    # The origin is fitted too. The cosine kernel does not see the distance from the origin, and two parts of a cluster
    # may differ in this distance only.
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
