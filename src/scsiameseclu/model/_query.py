"""Mapping new cells to a trained model, and telling which of them are unlike anything it has seen."""

import logging
from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scvi.model.base import ArchesMixin

from scsiameseclu import _compat
from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.model._surgery import adapt_only_new_categories, place_covariates
from scsiameseclu.module import SiameseModule
from scsiameseclu.pp._landmarks import Landmarks

logger = logging.getLogger(__name__)

OUT_OF_REFERENCE = "out_of_reference"


class QueryMixin(ArchesMixin):
    """Query mapping on scvi-tools' ArchesMixin."""

    module: SiameseModule

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData | MuData,
        reference_model: str | PathLike[str] | Self,
        *,
        inplace_subset_query_vars: bool = False,
        accelerator: str = "auto",
        device: int | str = "auto",
        unfrozen: bool = False,
        **freeze_options: bool,
    ) -> Self:
        """Map new cells to a trained model.

        The result predicts the reference's clusters at once. Every cell finds its neighbours among the landmarks of the
        reference (:class:`~scsiameseclu.pp.Landmarks`), never among the other cells of the query, so that the result for a
        cell does not depend on which others are in the data.

        A batch, or a category of another covariate, that is new to the model gets the mean of the known ones' weights.
        :meth:`train` then adapts these weights to the query and nothing else: cells of known batches and the clusters stay
        where they are.

        Parameters
        ----------
        adata
            New cells: the same kind of counts, keys and representations as the reference. Genes that are missing count as
            unobserved (0), others are ignored, and their order does not matter. Labels are not needed.
        reference_model
            Trained model, or the folder it was saved in.
        inplace_subset_query_vars
            Bring the genes of ``adata`` itself into the order of the model. By default, if that is necessary, it happens in
            a copy, which is then the ``adata`` of the result.
        accelerator, device
            As in scvi-tools.
        unfrozen
            Let training change all weights.
        **freeze_options
            ``freeze_dropout``, ``freeze_expression`` and the other options of
            :meth:`scvi.model.base.ArchesMixin.load_query_data`.

        Returns
        -------
        Model of the query, ready to predict.

        Raises
        ------
        ValueError
            If the query has none of the reference's genes, gene names are not unique, batch labels are missing, or counts
            are not valid.
        KeyError
            If a column or representation the model was set up with is missing.

        Notes
        -----
        Loading from a folder executes the pickle in it: only load files you trust.
        """
        if reference_model is None:
            raise ValueError("Expected a trained model or the folder of one, found None.")
        options = {"accelerator": accelerator, "device": device}
        source: Any = reference_model
        if not isinstance(reference_model, cls):
            source = _as_path(reference_model)
            reference_model = cls.load(source, adata=False, **options)
        if isinstance(adata, AnnData):
            source = reference_model
        adata = cls._aligned(adata, source, inplace_subset_query_vars)
        model = super().load_query_data(adata, source, unfrozen=unfrozen, **options, **freeze_options)
        new_columns = place_covariates(model.module, reference_model.module)
        if not unfrozen:
            adapt_only_new_categories(model.module, new_columns)
            if not any(columns.any() for columns in new_columns.values()):
                logger.info("The query has no new batch or covariate category: there is nothing to adapt by training.")
        model.module.eval()
        head = model.module.head
        model.is_trained_ = head is not None and head.is_initialised
        return model

    @classmethod
    def _aligned(cls, data: AnnData | MuData, reference: Any, inplace: bool) -> AnnData | MuData:
        """The data with the genes of the reference in their order: themselves if they have that already."""
        prepare = cls.prepare_query_mudata if isinstance(data, MuData) else cls.prepare_query_anndata
        if not isinstance(data, AnnData | MuData):
            raise TypeError(f"Expected an AnnData or a MuData, found {type(data).__name__}.")
        if isinstance(data, AnnData) and data.is_view:
            data = data.copy()
        wanted = prepare(data, reference, return_reference_var_names=True)
        present = (
            {key: part.var_names for key, part in data.mod.items()} if isinstance(data, MuData) else data.var_names
        )
        if isinstance(present, dict):
            same = all(present[key].equals(pd.Index(names)) for key, names in wanted.items() if key in present)
        else:
            same = present.equals(wanted)
        if same:
            return data
        if inplace:
            prepare(data, reference, inplace=True)
            return data
        logger.info("Bringing the genes of the query into the order of the model, in a copy.")
        return prepare(data.copy(), reference, inplace=False)

    @staticmethod
    def prepare_query_anndata(
        adata: AnnData,
        reference_model: Any,
        return_reference_var_names: bool = False,
        inplace: bool = True,
    ) -> AnnData | pd.Index | None:
        """Give an AnnData the genes of a model, in their order; missing ones become 0.

        :meth:`load_query_data` does this by itself.

        Parameters
        ----------
        adata
            New cells.
        reference_model
            Trained model, or the folder it was saved in.
        return_reference_var_names
            Only return the gene names of the model.
        inplace
            Change ``adata`` instead of returning another one.

        Returns
        -------
        Nothing, the AnnData (``inplace=False``), or gene names.

        Raises
        ------
        ValueError
            If gene names are not unique, or none of them is known to the model.
        """
        source = _as_path(reference_model) if isinstance(reference_model, str | PathLike) else reference_model
        prepare = ArchesMixin.prepare_query_anndata
        wanted = prepare(adata, source, return_reference_var_names=True)
        if return_reference_var_names:
            return wanted
        if not adata.var_names.is_unique:
            twice = adata.var_names[adata.var_names.duplicated()].unique()
            raise ValueError(
                f"Expected unique gene names, found {len(twice)} more than once ({', '.join(map(str, twice[:3]))}, ...). "
                "Call adata.var_names_make_unique() or remove the copies."
            )
        if not adata.var_names.isin(wanted).any():
            raise ValueError(
                f"Expected some of the model's {len(wanted)} genes ({', '.join(map(str, wanted[:3]))}, ...), found none of "
                f"them among the query's {adata.n_vars} ({', '.join(map(str, adata.var_names[:3]))}, ...). "
                "Check that both use the same kind of gene names."
            )
        return prepare(adata, source, inplace=inplace)

    # -- unlike the reference ------------------------------------------------------------------------------------

    def get_out_of_reference_score(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
    ) -> pd.Series:
        """Score how unlike the reference cells are.

        For every cell, the mean distance to its nearest landmarks of the reference, relative to the distances these have
        among themselves; the score is the share of the reference whose own value is smaller. A cell like those of the
        reference gets any value between 0 and 1 with equal probability, one unlike all of them a value near 1. Distances
        are measured in the space of the cell graph, no label is used, and the score of a cell does not depend on the others.

        Parameters
        ----------
        adata
            Cells to score; those of the model by default.
        indices
            Rows, or a boolean mask; all by default.

        Returns
        -------
        float32 :class:`pandas.Series` in [0, 1], indexed by ``obs_names``.

        Notes
        -----
        A type whose difference is not among the main components of the reference may go unnoticed, and a whole new batch
        may score high for technical reasons: compare with the cells of that batch that are surely known.
        """
        adata = self._validate_anndata(adata)  # type: ignore[attr-defined]
        rows = self._rows(adata, indices)  # type: ignore[attr-defined]
        return pd.Series(self._novelty(adata, rows), index=adata.obs_names[rows], name=OUT_OF_REFERENCE)

    def _novelty(self, adata: AnnData, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        manager = self.get_anndata_manager(adata, required=True)  # type: ignore[attr-defined]
        state = _compat.field_state(manager.registry, SIAMESE_KEYS.CELL_GRAPH)
        rep = np.asarray(manager.get_from_registry(SIAMESE_KEYS.GRAPH_REP), dtype=np.float32)[rows]
        landmarks = self._landmarks(state["landmarks"])
        batch = None
        if landmarks.batches:
            batch = _compat.batch_names(manager)[rows]
        return landmarks.novelty(rep, batch)

    def _landmarks(self, state: dict[str, Any]) -> Landmarks:
        """Landmarks with their calibration, which is computed once per set of landmarks."""
        landmarks = Landmarks.from_state(state)
        kept: Landmarks | None = getattr(self, "_kept_landmarks", None)
        if kept is None or kept.digest != landmarks.digest:
            self._kept_landmarks = kept = landmarks
        return kept


def _as_path(folder: Any) -> str:
    if not isinstance(folder, str | PathLike):
        raise TypeError(f"Expected a trained SCSiameseClu or the folder of one, found {type(folder).__name__}.")
    return fspath(folder)
