"""The reference of a model: a record of the cells the model was trained on."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scvi import REGISTRY_KEYS, settings

from scsiameseclu import _compat
from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.model._surgery import encoder_digest
from scsiameseclu.pp._landmarks import LANDMARK_LIMIT, Landmarks, even_sample
from scsiameseclu.reference import Reference
from scsiameseclu.train._first_partition import head_of


class ReferenceMixin(ModelProtocol):
    """Record of the cells a model was trained on."""

    registry_: dict[str, Any]
    reference_: dict[str, Any] | None
    cluster_tree_: dict[str, Any] | None
    is_query_: bool

    @property
    def reference(self) -> Reference | None:
        """Record of the cells the model was trained on: landmarks, clusters, categories and seed.

        ``None`` before training.
        """
        if self.reference_ is None:
            return None
        return Reference.from_state(self.reference_, _compat.field_state(self.registry_, SIAMESE_KEYS.CELL_GRAPH))

    def _remember(self, seed: int | None) -> None:
        """Make the cells of the model its reference, with their present embedding and clusters.

        The names of the clusters are kept.

        Parameters
        ----------
        seed
            Seed of the training.
        """
        names = self._cluster_names()
        categories = self._categories()
        setup = _compat.field_state(self.registry_, SIAMESE_KEYS.CELL_GRAPH)
        self.reference_ = {
            "latent": self._embed_landmarks(),
            "cluster_names": names,
            "cluster_masses": head_of(self.module).marginals.double().cpu().numpy().copy(),
            "categories": categories,
            "seed": None if seed is None else int(seed),
            "data_digest": setup["source"],
            "weights_digest": encoder_digest(self.module, [len(known) for known in categories.values()]),
        }

    def _embed_landmarks(self) -> NDArray[np.float32]:
        """Embed the landmarks without an effect on a training that goes on afterwards.

        The method restores the training mode of the module and torch's random generator.
        """
        landmarks = _compat.field_state(self.registry_, SIAMESE_KEYS.CELL_GRAPH)["landmarks"]
        if "rows" in landmarks:
            rows = np.asarray(landmarks["rows"], dtype=np.int64)
        else:  # a model of an early version did not store the rows
            rep = self.adata_manager.get_from_registry(SIAMESE_KEYS.GRAPH_REP)
            rows = np.arange(len(rep)) if len(rep) <= LANDMARK_LIMIT else even_sample(rep, LANDMARK_LIMIT)
        was_training = self.module.training
        with torch.random.fork_rng(devices=[]):  # a data loader draws a random number
            latent: NDArray[np.float32] = self._embed(None, rows, None)[2]
        self.module.train(was_training)
        return latent

    def _categories(self) -> dict[str, list[Any]]:
        """Categories of every categorical covariate in the set-up of the model. The batch comes first."""
        batch = _compat.field_state(self.registry_, REGISTRY_KEYS.BATCH_KEY)["categorical_mapping"]
        further = _compat.field_state(self.registry_, REGISTRY_KEYS.CAT_COVS_KEY).get("mappings", {})
        return {name: np.asarray(known).tolist() for name, known in {"batch": batch, **further}.items()}

    def _embeds_as_reference(self) -> bool:
        """Whether the landmarks of the reference were embedded with the present weights."""
        if self.reference_ is None:
            return False
        known = [len(categories) for categories in self.reference_["categories"].values()]
        return encoder_digest(self.module, known) == self.reference_["weights_digest"]

    def _refresh_reference(self) -> None:
        """Make the reference again if the weights have changed since, for example in the middle of a training."""
        is_placed = self.module.head is not None and self.module.head.is_initialised
        has_cells = self.adata is not None and not self.is_query_
        if is_placed and has_cells and not self._embeds_as_reference():
            self._remember(settings.seed)
            self.cluster_tree_ = None

    def _know_data(self) -> None:
        """Record whether the data of the model are a query.

        The data are a query if their cells are not the cells of the reference. A model of a query stays one.
        """
        if self.adata is not None:
            are_reference = self.adata_manager.blocks.are_reference
            self.is_query_ = self.is_query_ or not are_reference

    @contextmanager
    def _with_landmarks(self, limit: int | None) -> Iterator[None]:
        """Reduce the landmarks to at most ``limit`` while the ``with`` block runs. ``None`` means no limit.

        Raises
        ------
        ValueError
            If the limit is negative, or above 0 but not above the number of neighbours of a cell.
        """
        registry, reference = self.registry_, self.reference_
        k = int(_compat.field_state(registry, SIAMESE_KEYS.CELL_GRAPH)["n_neighbors"])
        if limit is not None and (limit < 0 or 0 < limit <= k):
            raise ValueError(
                f"`landmarks`: expected 0 or a number above {k}, the number of neighbours of a cell, found {limit}. "
                "With fewer landmarks, new cells lack neighbours, and foreign cells are not recognised."
            )
        landmarks = Landmarks.from_state(_compat.field_state(registry, SIAMESE_KEYS.CELL_GRAPH)["landmarks"])
        if limit is None or limit >= len(landmarks):
            yield
            return
        thinned, kept = landmarks.thinned(int(limit))
        self.registry_ = deepcopy(registry)
        _compat.field_state(self.registry_, SIAMESE_KEYS.CELL_GRAPH)["landmarks"] = thinned.to_state()
        if reference is not None:
            latent = reference["latent"]
            # Models of early versions embedded other cells than the landmarks.
            rows = kept if len(latent) == len(landmarks) else np.arange(min(limit, len(latent)))
            self.reference_ = {**reference, "latent": latent[rows]}
        try:
            yield
        finally:
            self.registry_, self.reference_ = registry, reference

    def _latent_landmarks(self) -> Landmarks:
        """Landmarks of the reference in the embedding.

        Raises
        ------
        RuntimeError
            If the model has no reference, or the weights of its encoders changed after training on the reference.
        """
        if self.reference_ is None or not len(self.reference_["latent"]) or not self._embeds_as_reference():
            raise RuntimeError(
                "Expected a model with the embedding of its reference, found a model without it: the model was saved "
                "with landmarks=0, trained with unfrozen=True, or not trained. tl.map(..., max_out_of_reference=None) "
                "maps cells without a score. For a score, take the reference itself, saved with its landmarks."
            )
        # The landmarks are kept, because they hold a calibration that takes time.
        kept: Landmarks | None = getattr(self, "_kept_landmarks", None)
        if kept is None or kept.rep is not self.reference_["latent"]:
            n_neighbors = int(self.registry_["setup_args"]["n_neighbors"])
            kept = self._kept_landmarks = Landmarks.of_points(self.reference_["latent"], n_neighbors)
        return kept

    def _cluster_names(self) -> list[str]:
        """Names of the clusters in the order of their numbers.

        The names are numbers if the reference has another number of clusters than the head.
        """
        n_clusters = head_of(self.module).n_clusters
        names = [] if self.reference_ is None else list(self.reference_["cluster_names"])
        return names if len(names) == n_clusters else [str(number) for number in range(n_clusters)]

    def _rename(self, names: list[str] | None) -> None:
        """Record names and masses of the clusters of the head. Without names, the clusters are named by number."""
        head = head_of(self.module)
        if self.reference_ is None:
            raise RuntimeError("Expected a trained model, found one without a reference; this is a bug.")
        masses = head.marginals.double().cpu().numpy().copy()
        named = [str(number) for number in range(head.n_clusters)] if names is None else names
        self.reference_ = {**self.reference_, "cluster_names": named, "cluster_masses": masses}

    def _take_over_former(self) -> None:
        """Make the reference of a model that an early version saved, which had other attributes in its place."""
        former = {name: vars(self).pop(name, None) for name in ("reference_latent_", "cluster_names_")}
        head = self.module.head
        if self.reference_ is not None or head is None or not head.is_initialised:
            return
        setup = _compat.field_state(self.registry_, SIAMESE_KEYS.CELL_GRAPH)
        categories = self._categories()
        if setup["landmarks"]["batches"]:  # the set-up of a query also lists its new batches
            known = set(setup["landmarks"]["batches"])
            categories["batch"] = [name for name in categories["batch"] if str(name) in known]
        latent = former["reference_latent_"]
        self.reference_ = {
            "latent": np.zeros((0, self.module.n_latent), dtype=np.float32) if latent is None else latent,
            "cluster_names": former["cluster_names_"] or [str(number) for number in range(head.n_clusters)],
            "cluster_masses": head.marginals.double().cpu().numpy().copy(),
            "categories": categories,
            "seed": None,
            "data_digest": setup["source"],
            # Without an embedding, the empty digest equals the digest of no weights.
            "weights_digest": ""
            if latent is None
            else encoder_digest(self.module, [len(known) for known in categories.values()]),
        }
