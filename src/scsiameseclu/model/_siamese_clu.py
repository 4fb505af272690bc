"""The model: set-up, construction, description."""

import logging
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scvi import REGISTRY_KEYS
from scvi.model.base import BaseModelClass

from scsiameseclu import _compat
from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu._file_format import check_storable
from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.data._fields import CellGraphField
from scsiameseclu.data._loader import NeighborDataManager
from scsiameseclu.data._statistics import ExpressionStatistics, batch_offsets
from scsiameseclu.model._collection import CollectionMixin
from scsiameseclu.model._description import DescriptionMixin
from scsiameseclu.model._expression import ExpressionMixin
from scsiameseclu.model._granularity import GranularityMixin
from scsiameseclu.model._mudata import MuDataMixin, check_mudata
from scsiameseclu.model._own_genes import OwnGenesMixin
from scsiameseclu.model._prediction import PredictionMixin
from scsiameseclu.model._query import QueryMixin
from scsiameseclu.model._reference import ReferenceMixin
from scsiameseclu.model._report import ReportMixin
from scsiameseclu.model._saving import SavingMixin
from scsiameseclu.model._scvi import FromScviMixin
from scsiameseclu.model._setup import (
    COVARIATE_KEYS,
    check_cells,
    check_kind,
    check_setup_input,
    standard_fields,
    wants_diffusion,
)
from scsiameseclu.model._split import plain_number, plain_numbers
from scsiameseclu.model._training import TrainingMixin, check_enough_cells, checked_n_clusters
from scsiameseclu.model._uncertain import UncertainCellsMixin
from scsiameseclu.module import SiameseModule
from scsiameseclu.pp._counts import name_order
from scsiameseclu.pp._knn import search_on
from scsiameseclu.reference._sources import AnnDataSource

logger = logging.getLogger(__name__)


class SCSiameseClu(
    PredictionMixin,
    GranularityMixin,
    ExpressionMixin,
    MuDataMixin,
    TrainingMixin,
    ReferenceMixin,
    QueryMixin,
    SavingMixin,
    FromScviMixin,
    CollectionMixin,
    DescriptionMixin,
    UncertainCellsMixin,
    ReportMixin,
    OwnGenesMixin,
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

    ``reference`` (:class:`~scsiameseclu.reference.Reference`) is what the model knows about the cells it was trained
    on: landmarks, names and masses of the clusters, known categories, seed. Other cells never change it, and further
    training keeps the names.

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
        self._copies = {}
        # numpy integers would make the saved file depend on the numpy version.
        n_clusters = checked_n_clusters(n_clusters)
        n_latent, n_hidden, n_layers = (plain_number(value) for value in (n_latent, n_hidden, n_layers))
        module_kwargs = plain_numbers(module_kwargs)
        sets_up = adata is not None and not self.adata_manager.is_transferred
        if sets_up:
            check_enough_cells(n_clusters, self.adata.n_obs)
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
        self.reference_: dict[str, Any] | None = None
        self.cluster_tree_: dict[str, Any] | None = None
        self.freeze_: dict[str, Any] | None = None
        self.is_query_ = False
        self.init_params_ = self._get_init_params(locals())
        if sets_up:  # otherwise all of it comes with the weights
            check_storable(self.registry_, "registry_")
            self._fit_input()

    # -- set-up --------------------------------------------------------------------------------------------------

    @classmethod
    @with_shared_descriptions
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
        accelerator: str = "auto",
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
        %(param_n_neighbors)s
        diffusion
            Diffuse the graph by personalised PageRank (:func:`scsiameseclu.pp.ppr_diffusion`) for the second view of
            a cell, as the paper does. By default the second view has the neighbours of the graph itself: on ten data
            sets that made no difference, and diffusion takes much of the time of a set-up. A model that is loaded or
            mapped to a query keeps the setting it was made with.
        accelerator
            ``"cpu"`` keeps the search for neighbours off a GPU, which is used for more than 30,000 cells otherwise.
        %(param_setup_kwargs)s

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
        The graph is kept with the set-up, not in ``adata``; :meth:`write_to_adata` writes it. A graph that is there
        already is reused if it was written for the same data and settings.
        """
        diffusion = wants_diffusion(diffusion, kwargs.get("source_registry"))
        setup_method_args = cls._get_setup_method_args(**locals())
        columns = (batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys)
        # Cells that meet a model later need no labels, and one of them is enough.
        is_query = kwargs.get("source_registry") is not None
        required = (batch_key, None if is_query else labels_key, *columns[2:])
        check_setup_input(adata, layer, *required, min_cells=1 if is_query else 2)
        fields = [
            CellGraphField(
                AnnDataSource(),
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
        with search_on(accelerator):
            manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

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
        """Validate as scvi-tools does; data that are new to the model are checked as set-up checks them."""
        if adata is None and self.adata is None:
            raise ValueError("Expected data, found a model loaded without; pass adata.")
        if adata is not None:
            check_kind(adata)
            adata = self._with_own_genes(adata)
        if adata is not None and self.adata_manager is not None and not _compat.is_registered(self, adata):
            self._check_new_cells(adata)
        return super()._validate_anndata(adata, copy_if_view)  # type: ignore[safe-super]

    def _renew_if_changed(self, adata: AnnData | MuData, rows: NDArray[np.int64] | None) -> None:
        """Read data again that have changed in place, as far as these rows (all by default) tell.

        Before training, the cells as they are now become the reference. A trained model keeps its reference: to it the
        changed cells are new ones.
        """
        manager = self.get_anndata_manager(adata, required=True)
        if manager.is_current(rows):
            return
        logger.info("The data changed since set-up; finding the neighbours again.")
        self._check_new_cells(adata)
        manager.renew(as_reference=self.reference_ is None and not manager.is_transferred)
        if adata is self.adata:
            self.registry_ = manager.registry
            self._know_data()

    def _check_new_cells(self, adata: AnnData) -> None:
        """Check what set-up checks, on cells the model is about to be applied to; labels are not needed."""
        method, arguments = _compat.setup_call(self.registry_)
        if method == "setup_mudata":
            check_mudata(adata, arguments, known=True)
        else:
            columns: dict[str, Any] = {name: arguments.get(name) for name in _CHECKED_COLUMNS}
            check_cells(adata, arguments.get("layer"), **columns)


_CHECKED_COLUMNS = ("batch_key", "size_factor_key", *COVARIATE_KEYS)
