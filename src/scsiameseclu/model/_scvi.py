"""A model on the data and set-up of an scVI model, with the cell graph in scVI's latent space."""

import logging
from typing import Any, Literal, Self

import numpy as np
from scvi.model import SCANVI, SCVI, LinearSCVI

from scsiameseclu import _compat
from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu.model._protocol import ModelProtocol

logger = logging.getLogger(__name__)

_SETUP_ARGUMENTS = (
    "layer",
    "batch_key",
    "labels_key",
    "size_factor_key",
    "categorical_covariate_keys",
    "continuous_covariate_keys",
)


class FromScviMixin(ModelProtocol):
    """Construction from a trained scVI model."""

    @classmethod
    @with_shared_descriptions
    def from_scvi_model(
        cls,
        scvi_model: SCVI,
        n_clusters: int | Literal["auto"] = "auto",
        *,
        n_neighbors: int = 15,
        diffusion: bool = False,
        key_added: str = "X_scVI",
        init_decoder: bool = False,
        **model_kwargs: Any,
    ) -> Self:
        """Build a model on the data of a trained scVI model, with the cell graph in its latent space.

        The new model uses the counts, batches, covariates and size factors that the scVI model was set up with. The
        weights of scVI's encoder and decoder are not copied, because the embeddings of the two models differ.

        Parameters
        ----------
        scvi_model
            Trained :class:`scvi.model.SCVI`, :class:`scvi.model.SCANVI` or :class:`scvi.model.LinearSCVI` with its data
            attached. The scVI model is not changed. Both models share one AnnData.
        n_clusters
            Number of clusters, or ``"auto"``.
        %(param_n_neighbors)s
        diffusion
            Diffuse the graph, as in :meth:`~scsiameseclu.SCSiameseClu.setup_anndata`.
        key_added
            Key of ``obsm`` for the latent space of the scVI model, float32 ``(n_obs, n_latent of the scVI model)``.
        init_decoder
            Start the decoder with the dispersions of the scVI model, by gene or by gene and batch, and use the same
            setting of ``dispersion``. The dispersions do not depend on the embedding. Training changes them further.
        **model_kwargs
            Further arguments of :class:`~scsiameseclu.SCSiameseClu`.

        Returns
        -------
        The model, not trained yet.

        Raises
        ------
        TypeError
            If ``scvi_model`` is a model of another class.
        RuntimeError
            If ``scvi_model`` is not trained.
        ValueError
            If ``scvi_model`` has no data attached, has minified data, or was not set up on an AnnData. With
            ``init_decoder``, also if ``scvi_model`` has no dispersions by gene or by gene and batch, or if
            ``dispersion`` or ``gene_likelihood`` in ``model_kwargs`` do not fit the dispersions.

        Notes
        -----
        New cells need their own ``obsm[key_added]`` from the same scVI model::

            query.obsm["X_scVI"] = scvi_model.get_latent_representation(query)

        Examples
        --------
        >>> scvi.model.SCVI.setup_anndata(adata, layer="counts", batch_key="batch")
        >>> scvi_model = scvi.model.SCVI(adata)
        >>> scvi_model.train()
        >>> model = SCSiameseClu.from_scvi_model(scvi_model)
        >>> model.train()
        """
        setup = _setup_of(scvi_model)
        if init_decoder:
            model_kwargs["dispersion"] = _dispersion_of(scvi_model, **model_kwargs)
        adata = scvi_model.adata
        latent = np.asarray(scvi_model.get_latent_representation(), dtype=np.float32)
        if key_added in adata.obsm and not np.array_equal(adata.obsm[key_added], latent):
            logger.warning("obsm[%r] is replaced by the latent space of the given model.", key_added)
        adata.obsm[key_added] = latent
        graph = {"use_rep": key_added, "n_neighbors": n_neighbors, "diffusion": diffusion}
        cls.setup_anndata(adata, **setup, **graph)
        model = cls(adata, n_clusters=n_clusters, **model_kwargs)  # type: ignore[call-arg]
        if init_decoder:
            model.module.decoder.set_dispersion(scvi_model.module.px_r.detach())
        return model


def _dispersion_of(scvi_model: SCVI, dispersion: str | None = None, gene_likelihood: str = "nb", **_others: Any) -> str:
    """Return the kind of dispersion of an scVI model, and check that the arguments of the new model agree.

    Raises
    ------
    ValueError
        If the arguments do not agree, or this package has no such dispersion.
    """
    found = scvi_model.module.dispersion
    if scvi_model.module.gene_likelihood not in ("nb", "zinb") or found not in ("gene", "gene-batch"):
        raise ValueError(
            "Expected an scVI model with gene_likelihood 'nb' or 'zinb' and dispersion 'gene' or 'gene-batch' to start "
            f"the decoder from, found {scvi_model.module.gene_likelihood!r} and {found!r}. Leave out init_decoder."
        )
    if gene_likelihood == "poisson" or dispersion not in (None, found):
        raise ValueError(
            f"Expected dispersion={found!r}, as in the scVI model, and gene_likelihood 'nb' or 'zinb', found "
            f"{dispersion or found!r} and {gene_likelihood!r}. Change them, or leave out init_decoder."
        )
    return str(found)


def _setup_of(scvi_model: SCVI) -> dict[str, Any]:
    """Set-up arguments of an scVI model that this package has as well.

    Raises
    ------
    TypeError, RuntimeError, ValueError
        If ``scvi_model`` is of another class, not trained, without data, with minified data, or not set up on an
        AnnData.
    """
    if not isinstance(scvi_model, SCVI | SCANVI | LinearSCVI):
        raise TypeError(
            f"Expected a model of class SCVI, SCANVI or LinearSCVI, found {type(scvi_model).__name__}. For any other "
            "model, write its embedding to obsm and pass the key to setup_anndata(adata, use_rep=...)."
        )
    if not scvi_model.is_trained:
        raise RuntimeError("Expected a trained scVI model, found an untrained one; call scvi_model.train() first.")
    if scvi_model.adata is None:
        raise ValueError("Expected an scVI model with data, found a model without data; load it with adata=...")
    if getattr(scvi_model, "minified_data_type", None) is not None:
        raise ValueError(
            "Expected the counts of the scVI model, found minified data; load the model with the full data."
        )
    method, arguments = _compat.setup_call(scvi_model.registry)
    if method != "setup_anndata":
        raise ValueError(f"Expected an scVI model set up by setup_anndata, found {method}.")
    return {name: arguments.get(name) for name in _SETUP_ARGUMENTS}
