"""The model: set-up, construction, description."""

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scvi import REGISTRY_KEYS, settings
from scvi.model.base import BaseModelClass

from scsiameseclu import _compat
from scsiameseclu._file_format import package_version
from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.data._fields import CellGraphField, cell_graph_fields
from scsiameseclu.data._loader import NeighborDataManager
from scsiameseclu.data._statistics import ExpressionStatistics, batch_offsets
from scsiameseclu.model._expression import ExpressionMixin
from scsiameseclu.model._granularity import GranularityMixin
from scsiameseclu.model._mudata import PROTEIN_STAT, MuDataMixin, check_mudata
from scsiameseclu.model._prediction import PredictionMixin
from scsiameseclu.model._query import QueryMixin
from scsiameseclu.model._saving import SavingMixin
from scsiameseclu.model._scvi import FromScviMixin
from scsiameseclu.model._setup import check_cells, check_setup_input, standard_fields, wants_diffusion
from scsiameseclu.model._split import plain_number, plain_numbers
from scsiameseclu.model._training import AUTO, TrainingMixin, check_enough_cells, checked_n_clusters
from scsiameseclu.module import SiameseModule
from scsiameseclu.pp import read_mapped, write_mapped
from scsiameseclu.pp._counts import name_order

logger = logging.getLogger(__name__)


class SCSiameseClu(
    PredictionMixin,
    GranularityMixin,
    ExpressionMixin,
    MuDataMixin,
    TrainingMixin,
    QueryMixin,
    SavingMixin,
    FromScviMixin,
    BaseModelClass,
):
    """Siamese clustering of single-cell counts with an optimal-transport head.

    After scSiameseClu (Xu et al., IJCAI 2025): two augmented views, a cell and one of its neighbours, an expression and
    a graph encoder with shared weights, cross-correlation between views and branches, adaptive fusion, a count decoder,
    and a clustering head trained against optimal-transport targets. Labels are never used.

    Parameters
    ----------
    adata
        Data set up with :meth:`setup_anndata`, or a MuData set up with :meth:`setup_mudata`.
    registry
        Registry of a saved model; used by :meth:`load`.
    n_clusters
        Number of clusters, at least 1, or ``"auto"``: chosen without labels when clustering starts, 1 included (see
        ``n_clusters_search_``).
    n_latent, n_hidden, n_layers
        Width of the embedding, width and number of the hidden layers.
    gene_likelihood
        ``"nb"``, ``"zinb"`` (the paper's) or ``"poisson"``.
    dispersion
        ``"gene"`` or ``"gene-batch"``.
    loss_weights
        Loss weights that differ from the defaults of :class:`~scsiameseclu.module.LossWeights`, where some terms of the
        paper are off; 0 switches a term off.
    **module_kwargs
        Further arguments of :class:`~scsiameseclu.module.SiameseModule`.

    Raises
    ------
    TypeError, ValueError
        If ``n_clusters`` is neither ``"auto"`` nor an integer of at least 1 and below the number of cells.

    Examples
    --------
    >>> adata = scsiameseclu.datasets.pbmc3k()
    >>> SCSiameseClu.setup_anndata(adata)
    >>> model = SCSiameseClu(adata, n_clusters=8)
    >>> model.train()
    >>> model.write_to_adata()

    Notes
    -----
    After training, ``cluster_tree_`` describes every split of a binary tree over the clusters and below them. It is a
    dictionary of builtins: ``pandas.DataFrame(model.cluster_tree_["splits"])`` has one row per split, the topmost
    first, with the two sides (``left``, ``right``: nodes, numbered as by :func:`scipy.cluster.hierarchy.linkage`),
    their cells (``n_left``, ``n_right``), ``n_clusters`` of a cut just below, the relative ``separability``, the
    ``p_value`` against one population, and the ``genes`` that carry it (name: standardised difference, positive if
    higher on the left). ``current`` holds the cluster of each small group, the leaves.

    Results are reproducible when ``scvi.settings.seed`` is set before construction and training.
    """

    _module_cls = SiameseModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        n_clusters: int | Literal["auto"] = "auto",
        n_latent: int = 32,
        n_hidden: int = 256,
        n_layers: int = 1,
        gene_likelihood: Literal["zinb", "nb", "poisson"] = "nb",
        dispersion: Literal["gene", "gene-batch"] = "gene",
        loss_weights: Mapping[str, float] | None = None,
        **module_kwargs: Any,
    ) -> None:
        super().__init__(adata, registry)
        # numpy integers would make the saved file depend on the numpy version.
        n_clusters = checked_n_clusters(n_clusters)
        n_latent, n_hidden, n_layers = (plain_number(value) for value in (n_latent, n_hidden, n_layers))
        module_kwargs = plain_numbers(module_kwargs)
        if adata is not None and not _compat.is_transferred(self.adata_manager):
            check_enough_cells(n_clusters, adata.n_obs)
        stats = self.summary_stats
        cat_covs = _compat.field_state(self.registry_, REGISTRY_KEYS.CAT_COVS_KEY)
        self.module = self._module_cls(
            n_genes=stats.n_vars,
            n_rep=stats[f"n_{SIAMESE_KEYS.GRAPH_REP}"],
            n_clusters=None if isinstance(n_clusters, str) else n_clusters,
            n_batch=stats.n_batch,
            n_cats_per_cov=list(cat_covs.get("n_cats_per_key", ())),
            n_continuous_cov=stats.get("n_extra_continuous_covs", 0),
            n_latent=n_latent,
            n_hidden=n_hidden,
            n_layers=n_layers,
            gene_likelihood=gene_likelihood,
            dispersion=dispersion,
            loss_weights=None if loss_weights is None else dict(loss_weights),
            **self._protein_arguments(),
            **module_kwargs,
        )
        self.n_clusters_requested_ = n_clusters
        self.n_clusters_search_: dict[str, Any] | None = None
        self.reference_latent_: NDArray[np.float32] | None = None
        self.cluster_tree_: dict[str, Any] | None = None
        self.cluster_names_: list[str] | None = None
        self.is_query_ = False
        self.init_params_ = self._get_init_params(locals())
        if adata is not None:
            self._fit_input()

    # -- set-up --------------------------------------------------------------------------------------------------

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        use_rep: str | None = None,
        neighbors_key: str | None = None,
        n_neighbors: int = 15,
        diffusion: bool = False,
        **kwargs: Any,
    ) -> None:
        """Set up an AnnData: check the counts, build the cell graph, register everything the model reads.

        Parameters
        ----------
        adata
            Cells by genes, raw counts, never changed, in memory or backed (``anndata.read_h5ad(path, backed="r")``):
            CSR or dense counts then stay on disk, and only the cells of a mini-batch are read.
        layer
            Layer with the counts; ``X`` by default.
        batch_key
            Column of ``obs`` with the batch. Encoders and decoder are told the batch, and neighbours of a cell are
            drawn from every batch.
        labels_key
            Column of ``obs`` with labels. Registered for bookkeeping only, never used in training, and not needed in
            the cells the model is applied to later.
        size_factor_key
            Column of ``obs`` with size factors, used instead of the library size.
        categorical_covariate_keys, continuous_covariate_keys
            Columns of ``obs`` with further covariates. Continuous ones come on any scale: they are standardised with
            the mean and standard deviation of these cells, which are part of the model.
        use_rep
            Key of ``obsm`` to build the cell graph on, such as ``"X_scVI"``; PCA of log-normalised counts by default.
        neighbors_key
            Key of ``uns`` with a graph made by :func:`scanpy.pp.neighbors`, to be used instead of building one.
        n_neighbors
            Neighbours per cell.
        diffusion
            Diffuse the graph by personalised PageRank (:func:`scsiameseclu.pp.ppr_diffusion`) for the second view of
            a cell, as the paper does. By default the second view has the neighbours of the graph itself: on ten data
            sets that made no difference, and diffusion takes much of the time of a set-up. A model that is loaded or
            mapped to a query keeps the setting it was made with.
        **kwargs
            Arguments scvi-tools passes on when a model is loaded or mapped to a query.

        Raises
        ------
        KeyError
            If a key is missing.
        NotImplementedError
            If ``adata`` is backed by a CSC matrix.
        ValueError
            If the counts are negative, NaN or infinite, batch labels are missing, or there are fewer than two cells
            or genes.

        Notes
        -----
        The graph is written to ``obsm``, ``obsp`` and ``uns`` and reused while its fingerprint fits the data.
        """
        diffusion = wants_diffusion(diffusion, kwargs.get("source_registry"))
        setup_method_args = cls._get_setup_method_args(**locals())
        columns = (batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys)
        # Cells that meet a model later need no labels, and one of them is enough.
        is_query = kwargs.get("source_registry") is not None
        required = (batch_key, None if is_query else labels_key, *columns[2:])
        check_setup_input(adata, layer, *required, min_cells=1 if is_query else 2)
        fields = [
            *cell_graph_fields(
                layer=layer,
                batch_key=batch_key,
                size_factor_key=size_factor_key,
                use_rep=use_rep,
                neighbors_key=neighbors_key,
                n_neighbors=n_neighbors,
                diffusion=diffusion,
            ),
            *standard_fields(layer, *columns),
        ]
        _compat.forget_borrowed_identity(cls, adata)
        manager = NeighborDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def setup_annbatch(
        cls,
        collection_path: str | PathLike[str],
        directory: str | PathLike[str] | None = None,
        genes: Sequence[str] | None = None,
        rebuild: bool = True,
        **setup_kwargs: Any,
    ) -> AnnData:
        """Set up the cells of an annbatch collection, or of any zarr store or ``.h5ad`` file, without reading them into memory.

        Training looks up neighbours all over the data, where annbatch's loader reads in sequence. So the counts are
        copied, in sequence, to files whose rows are looked up by memory mapping (:func:`scsiameseclu.pp.write_mapped`).
        Unlike the method of this name in scvi-tools, it returns data to construct the model on, no datamodule.

        Parameters
        ----------
        collection_path
            The collection: a zarr group that holds one AnnData, or several with the same genes.
        directory
            Folder for the copy; by default ``collection_path`` with ``.mapped`` added.
        genes
            Names of the genes to keep, about 2,000 highly variable ones; all by default.
        rebuild
            Copy again what an earlier call copied to ``directory``. With False it is opened as it is, and ``genes`` is
            not used.
        **setup_kwargs
            Arguments of :meth:`setup_anndata`.

        Returns
        -------
        The AnnData, set up: ``SCSiameseClu(adata)`` comes next.

        Raises
        ------
        FileExistsError, FileNotFoundError, KeyError, NotImplementedError, ValueError
            As :func:`scsiameseclu.pp.write_mapped`, :func:`scsiameseclu.pp.read_mapped` and :meth:`setup_anndata`.
        """
        layer = setup_kwargs.pop("layer", None)  # becomes X of the copy
        folder = f"{str(collection_path).rstrip('/')}.mapped" if directory is None else directory
        if rebuild:
            adata = write_mapped(collection_path, folder, layer=layer, genes=genes, overwrite=True)
        else:
            adata = read_mapped(folder)
        cls.setup_anndata(adata, **setup_kwargs)
        return adata

    def _fit_input(self) -> None:
        """Give the module the input statistics of the model's data."""
        manager = self.adata_manager
        size_factors = None
        if REGISTRY_KEYS.SIZE_FACTOR_KEY in manager.data_registry:
            size_factors = np.asarray(manager.get_from_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY))
        counts = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        statistics = ExpressionStatistics.from_counts(counts, size_factors)
        gene_order = name_order(self._rna(self.adata).var_names)
        genes = statistics.most_variable(self.module.embedding_genes.numel(), gene_order)
        offsets, n_batch = None, self.module.expression_scaler.offset.shape[1]
        if n_batch > 1:
            offsets = batch_offsets(
                counts,
                genes,
                np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel(),
                n_batch,
                manager.get_from_registry(SIAMESE_KEYS.NEIGHBOR_INDEX),
                manager.get_from_registry(SIAMESE_KEYS.NEIGHBOR_WEIGHT),
                statistics.target_sum,
                size_factors,
            )
        self.module.fit_input(
            genes,
            gene_order[~np.isin(gene_order, genes)],
            statistics.mean,
            statistics.sd,
            statistics.proportions,
            statistics.target_sum,
            manager.get_from_registry(SIAMESE_KEYS.GRAPH_REP),
            offsets,
        )
        if self.module.covariate_scaler is not None:
            covariates = np.asarray(manager.get_from_registry(REGISTRY_KEYS.CONT_COVS_KEY), dtype=np.float64)
            self.module.covariate_scaler.fit(torch.as_tensor(covariates))
        self._fit_proteins()

    def _validate_anndata(self, adata: AnnData | None = None, copy_if_view: bool = True) -> AnnData:
        """Validate as scvi-tools does, and rebuild the cell graph if the data changed in place since set-up."""
        if adata is None and self.adata is None:
            raise ValueError("Expected data, found a model loaded without; pass adata.")
        if adata is not None and self.adata_manager is not None and not _compat.is_registered(self, adata):
            self._check_new_cells(adata)
        adata = super()._validate_anndata(adata, copy_if_view)
        manager = self.get_anndata_manager(adata, required=True)
        graph = next((field for field in manager.fields if isinstance(field, CellGraphField)), None)
        state = _compat.field_state(manager.registry, SIAMESE_KEYS.CELL_GRAPH)
        own_graph = not _compat.is_transferred(manager)
        if graph is not None and not graph.is_current(adata, state, own_graph):
            logger.info("The data changed since set-up; finding the neighbours again.")
            self._check_new_cells(adata)
            _compat.reregister(manager)
        return adata

    def _check_new_cells(self, adata: AnnData) -> None:
        """Check what set-up checks, on cells the model is about to be applied to; labels are not needed."""
        method, arguments = _compat.setup_call(self.registry_)
        if method == "setup_mudata":
            check_mudata(adata, arguments, known=True)
        else:
            columns: dict[str, Any] = {name: arguments.get(name) for name in _CHECKED_COLUMNS}
            check_cells(adata, arguments.get("layer"), **columns)

    # -- description ---------------------------------------------------------------------------------------------

    def _params(self) -> dict[str, Any]:
        """Settings behind a result, as plain scalars."""
        options = self.init_params_["non_kwargs"]
        setup = self.registry_["setup_args"]
        params = {
            "version": package_version(),
            "n_clusters": self.n_clusters,
            "n_clusters_requested": str(self.n_clusters_requested_),
            "n_neighbors": setup["n_neighbors"],
            **{key: setup.get(key) for key in _SETUP_PARAMS},
            "seed": settings.seed,
            **{key: options[key] for key in ("n_latent", "n_hidden", "n_layers", "gene_likelihood", "dispersion")},
        }
        # None cannot be written to h5ad by every supported anndata.
        return {key: value for key, value in params.items() if value is not None}

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
        """Return size, data and state of the model."""
        stats, options = self.summary_stats, self.init_params_["non_kwargs"]
        data = "no data attached" if self.adata is None else f"{self.adata.n_obs} cells"
        proteins = f", {stats[PROTEIN_STAT]} proteins" if PROTEIN_STAT in stats else ""
        found = " (found)" if self.n_clusters_requested_ == AUTO and self.n_clusters != AUTO else ""
        return (
            f"{type(self).__name__}: {'trained' if self.is_trained_ else 'not trained'}\n"
            f"  data: {data} x {stats.n_vars} genes{proteins}, {stats.n_batch} batch(es), "
            f"{self.registry_['setup_args']['n_neighbors']} neighbours\n"
            f"  clusters: {self.n_clusters}{found}\n"
            f"  network: n_latent={options['n_latent']}, n_hidden={options['n_hidden']}, "
            f"n_layers={options['n_layers']}, gene_likelihood={options['gene_likelihood']!r}"
        )


_CHECKED_COLUMNS = ("batch_key", "size_factor_key", "categorical_covariate_keys", "continuous_covariate_keys")
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
