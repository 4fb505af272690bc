"""The model: its set-up and its construction."""

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

    The method follows scSiameseClu (Xu et al., IJCAI 2025). The two augmented views of a cell are the cell itself and
    one of its neighbours. An expression encoder and a graph encoder embed both views with the same weights. Losses on
    cross-correlations make the embeddings agree between views and between encoders. The embeddings of the two encoders
    are fused. A decoder reconstructs the counts, and a clustering head is trained against optimal-transport targets.
    Training never uses labels.

    Parameters
    ----------
    adata
        AnnData set up with :meth:`setup_anndata`, or MuData set up with :meth:`setup_mudata`.
    registry
        Registry of a saved model. Users do not need this argument; :meth:`load` uses it.
    n_clusters
        Number of clusters, at least 1, or ``"auto"``. With ``"auto"``, the number is chosen without labels when the
        clustering phase starts. The chosen number may be 1. ``n_clusters_search_`` records the choice.
    n_latent
        Number of dimensions of the embedding.
    n_hidden
        Number of units in each hidden layer.
    n_layers
        Number of hidden layers.
    gene_likelihood
        Distribution of the counts: ``"nb"`` (negative binomial), ``"zinb"`` (zero-inflated negative binomial, as in the
        paper) or ``"poisson"``.
    dispersion
        ``"gene"`` for one dispersion per gene, ``"gene-batch"`` for one dispersion per gene and batch.
    loss_weights
        Weights of loss terms, by name, that replace the defaults of :class:`~scsiameseclu.module.LossWeights`. 0
        switches a term off. Some terms of the paper are off by default.
    **module_kwargs
        Further arguments of :class:`~scsiameseclu.module.SiameseModule`.

    Raises
    ------
    TypeError
        If ``n_clusters`` is neither ``"auto"`` nor an integer.
    ValueError
        If ``n_clusters`` is below 1, or is not below the number of cells.

    Examples
    --------
    >>> adata = scsiameseclu.datasets.pbmc3k()
    >>> SCSiameseClu.setup_anndata(adata)
    >>> model = SCSiameseClu(adata, n_clusters=8)
    >>> model.train()
    >>> model.write_to_adata()

    Notes
    -----
    After training, ``cluster_tree_`` describes a binary tree. Its leaves are small groups of cells, and each cluster
    consists of one or more small groups. ``cluster_tree_`` is a dictionary of built-in Python types.
    ``pandas.DataFrame(model.cluster_tree_["splits"])`` has one row per split, the topmost split first, with the columns

    * ``left``, ``right``: the two nodes of the split, numbered as by :func:`scipy.cluster.hierarchy.linkage`;
    * ``n_left``, ``n_right``: number of cells in the two nodes;
    * ``n_clusters``: number of clusters of a cut just below the split;
    * ``separability``: relative separability of the two nodes;
    * ``p_value``: p value of the split against the hypothesis of one population;
    * ``genes``: genes that differ most, each with a standardised difference, positive if expression is higher on the
      left.

    ``cluster_tree_["current"]`` holds the number of the present cluster of each small group.

    ``reference`` (:class:`~scsiameseclu.reference.Reference`) records the cells the model was trained on: landmarks,
    names and masses of the clusters, known categories and seed. Other cells never change the reference. Further
    training keeps the names of the clusters.

    Set ``scvi.settings.seed`` before construction and training to get reproducible results.
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
        # Saved numpy integers would make the file depend on the version of numpy.
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
        if sets_up:  # otherwise the statistics of the input are loaded with the weights
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
        """Set up an AnnData: check the counts, build the cell graph, and register the data the model reads.

        Parameters
        ----------
        adata
            Cells by genes with raw counts, in memory or backed (``anndata.read_h5ad(path, backed="r")``). Backed counts
            in CSR or dense format stay on disk, and only the cells of a mini-batch are read. The counts are never
            changed.
        layer
            Layer with the counts. By default ``X``.
        batch_key
            Column of ``obs`` with the batch. The batch is an input of encoders and decoder. The neighbours of a cell
            come from every batch.
        labels_key
            Column of ``obs`` with labels, recorded as in scvi-tools. Training never uses the labels. Cells that the
            model is applied to later need no labels.
        size_factor_key
            Column of ``obs`` with size factors, used instead of the library size.
        categorical_covariate_keys, continuous_covariate_keys
            Columns of ``obs`` with further covariates. Continuous covariates may have any scale. The model standardises
            them with the mean and standard deviation of these cells.
        use_rep
            Key of ``obsm`` to build the cell graph on, such as ``"X_scVI"``. By default the graph is built on a PCA of
            log-normalised counts.
        neighbors_key
            Key of ``uns`` with a graph made by :func:`scanpy.pp.neighbors`. This graph is then used, and no graph is
            built.
        %(param_n_neighbors)s
        diffusion
            Diffuse the graph by personalised PageRank (:func:`scsiameseclu.pp.ppr_diffusion`) for the second view of
            a cell, as the paper does. By default the second view uses the graph without diffusion. On ten data sets
            both settings gave equally good clusters, and diffusion takes much of the time of a set-up. A model that is
            loaded or mapped to a query keeps its own setting.
        accelerator
            ``"cpu"`` keeps the neighbour search on the CPU. By default the search uses a GPU, if there is one, for more
            than 30,000 cells.
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
        The set-up keeps the cell graph, and does not write the graph to ``adata``. :meth:`write_to_adata` writes the
        graph. If ``adata`` already holds a graph that was written for the same data and settings, the set-up reuses
        this graph.
        """
        diffusion = wants_diffusion(diffusion, kwargs.get("source_registry"))
        setup_method_args = cls._get_setup_method_args(**locals())
        columns = (batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys)
        # Cells that an existing model is applied to need no labels, and may be a single cell.
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
        """Compute the statistics of the model's data that the module needs to scale its input."""
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
        """Validate data as scvi-tools does. Data that are new to the model also pass the checks of the set-up."""
        if adata is None and self.adata is None:
            raise ValueError("Expected data, found a model loaded without data; pass adata.")
        if adata is not None:
            check_kind(adata)
            adata = self._with_own_genes(adata)
        if adata is not None and self.adata_manager is not None and not _compat.is_registered(self, adata):
            self._check_new_cells(adata)
        return super()._validate_anndata(adata, copy_if_view)  # type: ignore[safe-super]

    def _renew_if_changed(self, adata: AnnData | MuData, rows: NDArray[np.int64] | None) -> None:
        """Read data again if they were changed in place. Only ``rows``, by default all rows, are checked for changes.

        Before training, the changed cells become the reference. A trained model keeps its reference, and treats the
        changed cells as new cells.
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
        """Apply the checks of the set-up to new cells. New cells need no labels."""
        method, arguments = _compat.setup_call(self.registry_)
        if method == "setup_mudata":
            check_mudata(adata, arguments, known=True)
        else:
            columns: dict[str, Any] = {name: arguments.get(name) for name in _CHECKED_COLUMNS}
            check_cells(adata, arguments.get("layer"), **columns)


_CHECKED_COLUMNS = ("batch_key", "size_factor_key", *COVARIATE_KEYS)
