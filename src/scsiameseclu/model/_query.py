"""Mapping of new cells to a trained model, and a score of how unlike the reference the new cells are."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scvi import REGISTRY_KEYS
from scvi.model.base import ArchesMixin

from scsiameseclu import _compat
from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu.model._alignment import align_genes, align_modalities
from scsiameseclu.model._gene_names import check_gene_names, check_gene_share
from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.model._saved_files import SavedModel
from scsiameseclu.model._setup import check_one_kind
from scsiameseclu.model._surgery import adapt_only_new_categories, place_covariates
from scsiameseclu.pp._counts import check_indices
from scsiameseclu.pp._knn import search_on

logger = logging.getLogger(__name__)

OUT_OF_REFERENCE = "out_of_reference"


class QueryMixin(ArchesMixin, ModelProtocol):
    """Query mapping, built on scvi-tools' ArchesMixin."""

    @classmethod
    @with_shared_descriptions
    def load_query_data(
        cls,
        adata: AnnData | MuData,
        reference_model: str | PathLike[str] | Self,
        *,
        inplace_subset_query_vars: bool = False,
        accelerator: str = "auto",
        device: int | str = "auto",
        unfrozen: bool = False,
        allow_pickle: bool = False,
        min_gene_share: float = 0.5,
        **freeze_options: bool,
    ) -> Self:
        """Map new cells to a trained model.

        The returned model can assign the new cells to the clusters of the reference without training. The neighbours of
        every new cell are cells of the reference (:class:`~scsiameseclu.pp.Landmarks`), never other cells of the query.
        The result for a cell therefore does not depend on the other cells of the query.

        A batch that is new to the model gets the mean weights of the known batches. The same holds for a new category
        of another covariate. By default :meth:`train` adapts only the weights of the new batches and categories to the
        query. The clusters, and the embedding of cells from known batches, do not change.

        Parameters
        ----------
        adata
            New cells, with the same kind of counts, the same keys and the same representations as the reference.
            Missing genes count as 0, additional genes are ignored, and the order of the genes does not matter. Labels
            are not needed.
        %(param_reference_model)s
        inplace_subset_query_vars
            If True, bring the genes of ``adata`` itself into the order of the model. If False, and the genes differ,
            the returned model works on a copy of ``adata``.
        %(param_device)s
        unfrozen
            Let training change all weights.
        allow_pickle
            Read a ``model.pt`` of scvi-tools from the folder, as for :meth:`load`.
        min_gene_share
            Smallest share of the genes of the model that the query must have, in ``[0, 1]``. With too few genes, the
            model assigns cells to meaningless clusters with high confidence.
        **freeze_options
            ``freeze_dropout``, ``freeze_expression`` and the other options of
            :meth:`scvi.model.base.ArchesMixin.load_query_data`.

        Returns
        -------
        Model of the query, ready to predict.

        Raises
        ------
        TypeError
            If ``adata`` is not of the class the model was set up with. Also if the batches of query and reference are
            not of one kind, such as numbers and text. The same holds for categories of another covariate.
        ValueError
            If the query has no cells, too few of the genes of the model, gene names that are not unique, missing batch
            labels, or counts that are not valid.
        KeyError
            If a column or representation the model was set up with is missing.
        """
        if reference_model is None:
            raise ValueError("Expected a trained model or the folder of a saved model, found None.")
        options = {"accelerator": accelerator, "device": device}
        if isinstance(reference_model, cls):
            reference: Self = reference_model
        else:
            path = _as_path(reference_model)
            reference = cls.load(path, adata=False, allow_pickle=allow_pickle, **options)
        _check_cells(adata, reference.registry_)
        adata = cls._aligned(adata, reference, inplace_subset_query_vars, min_gene_share)
        with search_on(accelerator):
            model = super().load_query_data(adata, reference, unfrozen=unfrozen, **options, **freeze_options)
        new_columns = place_covariates(model.module, reference.module)
        model.history_ = deepcopy(model.history_)  # training of the query must not add to the history of the reference
        model.freeze_ = None
        if not unfrozen:
            model.freeze_ = {"options": freeze_options, "new_columns": new_columns}
            adapt_only_new_categories(model.module, new_columns)
            if not any(new_columns.values()):
                logger.info("The query has no new batch or covariate category: there is nothing to adapt by training.")
        model.module.eval()
        model.is_query_ = True  # even if the cells are the cells of the reference
        head = model.module.head
        model.is_trained_ = head is not None and head.is_initialised
        return model

    @classmethod
    def _aligned(cls, data: AnnData | MuData, reference: Any, inplace: bool, min_gene_share: float) -> AnnData | MuData:
        """Return data with the genes of the reference in the order of the reference.

        The result is ``data`` itself if its genes fit already.
        """
        prepare = cls.prepare_query_mudata if isinstance(data, MuData) else cls.prepare_query_anndata
        if isinstance(data, AnnData) and data.is_view:
            data = data.copy()
        wanted: Any = prepare(data, reference, return_reference_var_names=True)
        present = (
            {key: part.var_names for key, part in data.mod.items()} if isinstance(data, MuData) else data.var_names
        )
        if isinstance(present, dict):
            same = all(key in wanted and names.equals(pd.Index(wanted[key])) for key, names in present.items())
        else:
            same = present.equals(wanted)
        if same:
            return data
        if isinstance(present, dict):
            for key, names in wanted.items():
                if key in present:
                    check_gene_names(present[key], pd.Index(names))
                    _check_matrices(data[key])
            rna = _compat.setup_call(reference.registry_)[1]["modalities"]["rna_layer"]
            if rna in present:
                check_gene_share(present[rna], pd.Index(wanted[rna]), min_gene_share)
        elif present.is_unique and present.isin(wanted).any():
            check_gene_share(present, wanted, min_gene_share)
        if isinstance(data, AnnData) and data.isbacked:
            raise NotImplementedError(
                "Expected the genes of the model in the model's order, found different genes in a backed AnnData; call "
                "adata.to_memory() first."
            )
        if inplace:
            prepare(data, reference, inplace=True)
            return data
        logger.info("Bringing the genes of the query into the order of the model, in a copy.")
        return prepare(data, reference, inplace=False)

    @staticmethod
    @with_shared_descriptions
    def prepare_query_anndata(
        adata: AnnData,
        reference_model: Any,
        return_reference_var_names: bool = False,
        inplace: bool = True,
    ) -> AnnData | pd.Index | None:
        """Give an AnnData the genes of a model, in the order of the model. Missing genes become 0.

        A separate call is not necessary: :meth:`load_query_data` includes this step.

        Parameters
        ----------
        adata
            New cells.
        %(param_reference_model)s
        return_reference_var_names
            Only return the gene names of the model, and leave ``adata`` as it is.
        inplace
            Change ``adata`` instead of returning a new AnnData.

        Returns
        -------
        The gene names of the model if ``return_reference_var_names`` is True. Otherwise the new AnnData for
        ``inplace=False``, and nothing for ``inplace=True``.

        Raises
        ------
        ValueError
            If gene names are not unique, the model knows none of the genes, or a sparse matrix is damaged.

        Warns
        -----
        UserWarning
            If genes of the model are missing, but ``adata`` has names that differ from theirs only by upper and lower
            case or by a version suffix.
        """
        wanted = pd.Index(_names_of(reference_model))
        if return_reference_var_names:
            return wanted
        check_gene_names(adata.var_names, wanted)
        _check_matrices(adata)
        aligned = align_genes(adata.copy(), wanted)
        if not inplace:
            return aligned
        adata._init_as_actual(aligned)
        return None

    @staticmethod
    @with_shared_descriptions
    def prepare_query_mudata(
        mdata: MuData,
        reference_model: Any,
        return_reference_var_names: bool = False,
        inplace: bool = True,
    ) -> MuData | dict[str, pd.Index] | None:
        """Give a MuData the modalities of a model, with the genes and proteins of the model in their order.

        Missing genes become 0. Missing proteins become NaN, which means "not measured". A separate call is not
        necessary: :meth:`load_query_data` includes this step.

        Parameters
        ----------
        mdata
            New cells. Modalities that the model does not know are left out.
        %(param_reference_model)s
        return_reference_var_names
            Only return the names of the model, by modality, and leave ``mdata`` as it is.
        inplace
            Change ``mdata`` instead of returning a new MuData.

        Returns
        -------
        The names of the model, by modality, if ``return_reference_var_names`` is True. Otherwise the new MuData for
        ``inplace=False``, and nothing for ``inplace=True``.

        Raises
        ------
        ValueError
            If a modality has no variable of the model.
        """
        wanted = {modality: pd.Index(names) for modality, names in _names_of(reference_model).items()}
        if return_reference_var_names:
            return wanted
        modalities = _compat.setup_call(_registry_of(reference_model))[1].get("modalities") or {}
        aligned = align_modalities(mdata, wanted, modalities.get("protein_layer"))
        if not inplace:
            return aligned
        mdata._init_as_actual(aligned)
        return None

    def _freeze_again(self) -> None:
        """Freeze the weights of a loaded query model as :meth:`load_query_data` froze them."""
        if self.freeze_ is not None:
            _compat.freeze_as_query(self.module, **self.freeze_["options"])
            adapt_only_new_categories(self.module, self.freeze_["new_columns"])

    # -- score of new cells --------------------------------------------------------------------------------------

    @with_shared_descriptions
    def get_out_of_reference_score(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> pd.Series:
        """Score how unlike the cells of the reference each cell is.

        The method computes the mean distance of a cell to its nearest reference cells in the embedding, relative to
        the distances among these reference cells. The score is the share of reference cells with a smaller relative
        distance of their own. The scores of cells like the reference are evenly spread between 0 and 1. The score of a
        cell unlike all reference cells is near 1. The score uses no labels. The score of a cell does not depend on the
        other cells in ``adata``.

        Parameters
        ----------
        %(param_adata)s
        %(param_indices)s
        %(param_batch_size_on_gpu)s

        Returns
        -------
        Scores in [0, 1], a float32 :class:`pandas.Series` indexed by ``obs_names``.

        Raises
        ------
        RuntimeError
            If the model was not trained, or the weights of its encoders were changed after training on the reference,
            as training with ``unfrozen=True`` does.

        Notes
        -----
        The score misses a new cell type whose embedding looks like the embedding of a known type. All cells of a new
        batch may score high for technical reasons. Compare the scores with the scores of surely known cells of the same
        batch.
        """
        adata, rows, latent = self._embed(adata, indices, batch_size)
        return pd.Series(self._novelty(latent), index=adata.obs_names[rows], name=OUT_OF_REFERENCE)

    def _novelty(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """Out-of-reference score of embedded cells ``(n, n_latent)``."""
        return self._latent_landmarks().novelty(latent)


def _as_path(folder: Any) -> str:
    if not isinstance(folder, str | PathLike):
        raise TypeError(f"Expected a trained SCSiameseClu or the folder of a saved one, found {type(folder).__name__}.")
    return fspath(folder)


def _names_of(reference: Any) -> Any:
    """Gene names of a model or of a model saved in a folder. For a model of a MuData, names by modality."""
    if isinstance(reference, str | PathLike):
        return SavedModel.read(Path(reference)).var_names
    return reference.get_var_names()


def _registry_of(reference: Any) -> dict[str, Any]:
    """Registry of a model or of a model saved in a folder."""
    if isinstance(reference, str | PathLike):
        return dict(SavedModel.read(Path(reference)).attributes["registry_"])
    return dict(reference.registry)


def _check_matrices(adata: AnnData) -> None:
    """Refuse damaged sparse matrices, before anndata reorders their columns."""
    for matrix in (adata.X, *adata.layers.values()):
        check_indices(matrix)


def _check_cells(query: Any, registry: dict[str, Any]) -> None:
    """Refuse a query of the wrong class, a query without cells, or categories of another kind than in the reference."""
    method, arguments = _compat.setup_call(registry)
    wanted = MuData if method == "setup_mudata" else AnnData
    if not isinstance(query, wanted):
        raise TypeError(
            f"Expected {'a MuData' if wanted is MuData else 'an AnnData'} like the data of the model, found "
            f"{type(query).__name__}."
            + (" Proteins that were not measured can be given as NaN." if isinstance(query, AnnData) else "")
        )
    if query.n_obs == 0:
        raise ValueError("Expected at least one cell to map, found data without cells.")
    batch = _compat.field_state(registry, REGISTRY_KEYS.BATCH_KEY)
    covariates = _compat.field_state(registry, REGISTRY_KEYS.CAT_COVS_KEY).get("mappings", {})
    places = arguments.get("modalities") or {}
    if arguments.get("batch_key") is not None:
        _check_column(query, places.get("batch_key"), batch["original_key"], batch["categorical_mapping"])
    for key, known in covariates.items():
        _check_column(query, places.get("categorical_covariate_keys"), key, known)


def _check_column(query: AnnData | MuData, modality: str | None, key: str, known: Sequence[Any]) -> None:
    cells = query if modality is None or modality not in query.mod else query[modality]
    if key in cells.obs:
        check_one_kind(cells.obs[key], known)
