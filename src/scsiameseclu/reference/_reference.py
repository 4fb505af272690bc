"""The reference: a record of the cells that a model was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scsiameseclu.pp._landmarks import Landmarks
from scsiameseclu.reference._blocks import AnyProjection, projection_of
from scsiameseclu.reference._proteins import MeasuredProteins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Reference:
    """Record of the cells that a model was trained on.

    Applying the model to other cells never changes the reference. Further training on the cells of the reference makes
    a new reference with the same cluster names.

    Parameters
    ----------
    projection
        Map from counts (and proteins) to the space of the cell graph. ``None`` if the space came from ``obsm``.
    landmarks
        Cells of the reference in the space of the cell graph. The neighbours of new cells are landmarks.
    latent
        Embedding of the landmarks, float32 ``(n_landmarks, n_latent)``.
    cluster_names
        Names of the clusters, in the order of their numbers.
    cluster_masses
        Share of the cells in every cluster, float64 ``(n_clusters,)``.
    categories
        Known categories of every categorical covariate, by name of the covariate. The batch comes first.
    seed
        ``scvi.settings.seed`` during training. ``None`` if no seed was set.
    data_digest
        Digest that identifies the cells (:func:`~scsiameseclu.pp._stored_graph.source_digest`).
    weights_digest
        Digest of the weights by which ``latent`` was computed.
    measured_proteins
        Record of the proteins that were measured in each batch. ``None`` without proteins.
    """

    projection: AnyProjection
    landmarks: Landmarks
    latent: NDArray[np.float32]
    cluster_names: tuple[str, ...]
    cluster_masses: NDArray[np.float64]
    categories: Mapping[str, tuple[Any, ...]]
    seed: int | None
    data_digest: str
    weights_digest: str
    measured_proteins: MeasuredProteins | None = None

    @property
    def n_categories(self) -> list[int]:
        """Number of known categories of every categorical covariate. The batch comes first."""
        return [len(names) for names in self.categories.values()]

    def to_state(self) -> dict[str, Any]:
        """Plain dictionary of the results of training.

        Projection, landmarks and measured proteins are left out, because the registry of the set-up holds them.
        """
        return {
            "latent": self.latent,
            "cluster_names": list(self.cluster_names),
            "cluster_masses": self.cluster_masses,
            "categories": {name: list(known) for name, known in self.categories.items()},
            "seed": self.seed,
            "data_digest": self.data_digest,
            "weights_digest": self.weights_digest,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], setup: Mapping[str, Any]) -> Reference:
        """Inverse of :meth:`to_state`.

        Parameters
        ----------
        state
            Result of :meth:`to_state`.
        setup
            State that the cell graph left in the registry at set-up.
        """
        return cls(
            projection=projection_of(setup),
            landmarks=Landmarks.from_state(setup["landmarks"]),
            latent=np.asarray(state["latent"], dtype=np.float32),
            cluster_names=tuple(map(str, state["cluster_names"])),
            cluster_masses=np.asarray(state["cluster_masses"], dtype=np.float64),
            categories={str(name): tuple(known) for name, known in state["categories"].items()},
            seed=None if state["seed"] is None else int(state["seed"]),
            data_digest=str(state["data_digest"]),
            weights_digest=str(state["weights_digest"]),
            measured_proteins=MeasuredProteins.from_state(setup["measured"]) if "measured" in setup else None,
        )
