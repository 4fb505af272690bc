"""Settings, quality numbers and text description of a model."""

from typing import Any

import numpy as np

from scsiameseclu._file_format import package_version
from scsiameseclu.model._mudata import PROTEIN_STAT
from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.model._training import AUTO

_SETUP_PARAMS = (
    "use_rep",
    "neighbors_key",
    "diffusion",
    "layer",
    "rna_layer",
    "protein_layer",
    "protein_weight",
    "batch_key",
)


class DescriptionMixin(ModelProtocol):
    """Settings, quality numbers and text description of a model."""

    def _params(self) -> dict[str, Any]:
        """Settings that produced the clusters, as plain scalars."""
        options = self.init_params_["non_kwargs"]
        setup = self.registry_["setup_args"]
        params = {
            "version": package_version(),
            "n_clusters": self.n_clusters,
            "n_clusters_requested": str(self.n_clusters_requested_),
            "n_neighbors": setup["n_neighbors"],
            **{key: setup.get(key) for key in _SETUP_PARAMS},
            "seed": None if self.reference_ is None else self.reference_["seed"],
            "embedding": self._embedding_digest(),
            **{key: options[key] for key in ("n_latent", "n_hidden", "n_layers", "gene_likelihood", "dispersion")},
        }
        # Some supported versions of anndata cannot write None to h5ad.
        return {key: value for key, value in params.items() if value is not None}

    def _embedding_digest(self) -> str | None:
        """Digest of the weights that embed cells, or None if the digest is not known.

        A reference and the queries mapped to it have the same digest.
        """
        if self.reference_ is None or not self._embeds_as_reference():
            return None
        return self.reference_["weights_digest"] or None

    def _quality(self) -> dict[str, Any]:
        """Quality numbers of the last training, as plain scalars and arrays."""
        quality: dict[str, Any] = {}
        errors = (self.history_ or {}).get("sinkhorn_marginal_error")
        if errors is not None and len(errors):
            quality["sinkhorn_marginal_error"] = float(errors.iloc[-1, 0])
        if self.n_clusters_search_ is not None:
            search = self.n_clusters_search_
            quality["n_clusters_search"] = {
                "criterion": search["criterion"],
                "resolutions": np.asarray(search["resolutions"]),
                "n_communities": np.asarray(search["n_communities"]),
                "separability": search.get("separability", 0.0),
            }
        return quality

    def __repr__(self) -> str:
        """Return a text with the training state, the data, the clusters and the network of the model."""
        stats, options = self.summary_stats, self.init_params_["non_kwargs"]
        data = "no data attached" if self.adata is None else f"{self.adata.n_obs} cells"
        proteins = f", {stats[PROTEIN_STAT]} proteins" if PROTEIN_STAT in stats else ""
        n_clusters = self.n_clusters
        found = " (found)" if self.n_clusters_requested_ == AUTO and n_clusters != AUTO else ""
        return (
            f"{type(self).__name__}: {'trained' if self.is_trained_ else 'not trained'}\n"
            f"  data: {data} x {stats.n_vars} genes{proteins}, {stats.n_batch} batch(es), "
            f"{self.registry_['setup_args']['n_neighbors']} neighbours\n"
            f"  clusters: {n_clusters}{found}\n"
            f"  network: n_latent={options['n_latent']}, n_hidden={options['n_hidden']}, "
            f"n_layers={options['n_layers']}, gene_likelihood={options['gene_likelihood']!r}"
        )
