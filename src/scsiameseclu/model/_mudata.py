"""Models of RNA and surface proteins measured in the same cells (a MuData)."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scvi import REGISTRY_KEYS
from scvi.data.fields import (
    MuDataCategoricalJointObsField,
    MuDataCategoricalObsField,
    MuDataLayerField,
    MuDataNumericalJointObsField,
    MuDataNumericalObsField,
    MuDataWrapper,
)

from scsiameseclu import _compat
from scsiameseclu._docs import with_shared_descriptions
from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.data._fields import CellGraphField
from scsiameseclu.data._labels import LabelsField
from scsiameseclu.data._loader import NeighborDataManager
from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.model._setup import check_cells, check_columns, check_finite, wants_diffusion
from scsiameseclu.pp._joint import ProteinScaling
from scsiameseclu.pp._knn import search_on
from scsiameseclu.pp._threads import within_thread_limit
from scsiameseclu.reference._sources import MuDataSource, read_proteins

PROTEIN_STAT = f"n_{SIAMESE_KEYS.PROTEIN}"
"""Key of the number of proteins in ``summary_stats``."""

_DEFAULT_MODALITIES = {"rna_layer": "rna", "protein_layer": "protein"}
_COLUMNS = (
    "batch_key",
    "labels_key",
    "size_factor_key",
    "categorical_covariate_keys",
    "continuous_covariate_keys",
)
_MuDataLabelsField = MuDataWrapper(LabelsField)


class MuDataMixin(ModelProtocol):
    """Set-up on a MuData, and decoded proteins."""

    @classmethod
    @with_shared_descriptions
    def setup_mudata(
        cls,
        mdata: MuData,
        rna_layer: str | None = None,
        protein_layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        use_rep: str | None = None,
        n_neighbors: int = 15,
        protein_weight: float = 0.5,
        modalities: dict[str, str] | None = None,
        diffusion: bool = False,
        accelerator: str = "auto",
        **kwargs: Any,
    ) -> None:
        """Set up a MuData of RNA and surface proteins of the same cells (CITE-seq).

        Parameters
        ----------
        mdata
            Data in memory with raw RNA counts and proteins of the same cells, in the same order. Whole numbers of
            proteins are taken as counts, with a negative binomial distribution. Other numbers, such as CLR or DSB
            values, are taken as normalised values, with a normal distribution. NaN means "not measured". A protein that
            is 0 in all cells of a batch of at least 20 cells also counts as not measured in this batch.
        rna_layer, protein_layer
            Layer with the RNA counts, and layer with the proteins. By default ``X`` of the modality.
        batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys
            Columns of ``obs``, as in :meth:`setup_anndata`. The columns are taken from the MuData itself, unless
            ``modalities`` names a modality. The size factors are used for the RNA only.
        use_rep
            Key of the MuData's own ``obsm`` to build the cell graph on, such as the latent space of TOTALVI. By
            default the graph is built on a joint space: principal components of the RNA side by side with principal
            components of the standardised proteins.
        %(param_n_neighbors)s
        protein_weight
            Share of the proteins in the total variance of the joint space, between 0 and 1. The first partition into
            clusters uses the same share.
        modalities
            Modality of each argument, as in :meth:`scvi.model.TOTALVI.setup_mudata`. The default is
            ``{"rna_layer": "rna", "protein_layer": "protein"}``. Entries for other arguments may be added.
        diffusion, accelerator
            As in :meth:`setup_anndata`.
        %(param_setup_kwargs)s

        Raises
        ------
        TypeError
            If ``mdata`` is not a MuData.
        NotImplementedError
            If ``mdata`` is backed.
        KeyError
            If a key or a modality is missing.
        ValueError
            If the cells of the modalities differ or are in another order, counts or proteins are not valid, or there
            are fewer than two proteins. Also under the conditions of :meth:`setup_anndata`.

        Warns
        -----
        UserWarning
            If the proteins are not counts.

        Notes
        -----
        The set-up keeps the cell graph. :meth:`write_to_adata` writes the graph to ``obsm``, ``obsp`` and ``uns`` of
        the MuData itself.
        """
        modalities = {**_DEFAULT_MODALITIES, **(modalities or {})}
        diffusion = wants_diffusion(diffusion, kwargs.get("source_registry"))
        setup_method_args = cls._get_setup_method_args(**locals())
        arguments = _compat.setup_call(setup_method_args)[1]
        of = {name: modalities.get(name) for name in arguments}
        known = kwargs.get("source_registry") is not None
        if isinstance(mdata, MuData) and mdata.is_view:
            raise ValueError("Expected a MuData of its own, found a view; call mdata = mdata.copy() first.")
        check_mudata(mdata, arguments, known=known)
        fields = [
            CellGraphField(
                MuDataSource(
                    rna=modalities["rna_layer"],
                    protein=modalities["protein_layer"],
                    protein_layer=protein_layer,
                    batch=of["batch_key"],
                    size_factor=of["size_factor_key"],
                    protein_weight=protein_weight,
                ),
                layer=rna_layer,
                batch_key=batch_key,
                size_factor_key=size_factor_key,
                use_rep=use_rep,
                n_neighbors=n_neighbors,
                diffusion=diffusion,
            ),
            MuDataLayerField(
                REGISTRY_KEYS.X_KEY, rna_layer, is_count_data=False, mod_key=of["rna_layer"], mod_required=True
            ),
            MuDataCategoricalObsField(REGISTRY_KEYS.BATCH_KEY, batch_key, mod_key=of["batch_key"]),
            _MuDataLabelsField(REGISTRY_KEYS.LABELS_KEY, labels_key, mod_key=of["labels_key"]),
            MuDataNumericalObsField(
                REGISTRY_KEYS.SIZE_FACTOR_KEY, size_factor_key, required=False, mod_key=of["size_factor_key"]
            ),
            MuDataCategoricalJointObsField(
                REGISTRY_KEYS.CAT_COVS_KEY, categorical_covariate_keys, mod_key=of["categorical_covariate_keys"]
            ),
            MuDataNumericalJointObsField(
                REGISTRY_KEYS.CONT_COVS_KEY, continuous_covariate_keys, mod_key=of["continuous_covariate_keys"]
            ),
        ]
        _compat.forget_borrowed_identity(cls, mdata)
        manager = NeighborDataManager(fields=fields, setup_method_args=setup_method_args)
        with search_on(accelerator):
            manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)

    def _protein_scaling(self) -> ProteinScaling | None:
        """Statistics by which the proteins were standardised. ``None`` for a model of RNA alone."""
        state = _compat.field_state(self.registry_, SIAMESE_KEYS.CELL_GRAPH).get("joint")
        return None if state is None else ProteinScaling.from_state(state["protein"])

    def _protein_arguments(self) -> dict[str, Any]:
        """Arguments of the module that concern proteins. Empty for a model of RNA alone."""
        scaling = self._protein_scaling()
        if scaling is None:
            return {}
        state = _compat.field_state(self.registry_, SIAMESE_KEYS.CELL_GRAPH)
        return {
            "n_proteins": len(scaling.names),
            "protein_likelihood": "nb" if scaling.counts else "normal",
            "protein_share": state["protein_weight"],
        }

    def _fit_proteins(self) -> None:
        """Give the module the statistics of the proteins, if the model has proteins."""
        scaling = self._protein_scaling()
        if scaling is None or self.module.protein is None:
            return
        values = self.adata_manager.get_from_registry(SIAMESE_KEYS.PROTEIN)
        tables = (torch.as_tensor(np.asarray(table, dtype=np.float32)) for table in (values, scaling.mean, scaling.sd))
        self.module.protein.fit(*tables)

    def _rna(self, data: AnnData | MuData) -> AnnData:
        """The RNA modality of a MuData, or the AnnData itself."""
        if isinstance(data, AnnData):
            return data
        return data[_compat.setup_call(self.registry_)[1]["modalities"]["rna_layer"]]

    @within_thread_limit()
    @torch.inference_mode()
    @with_shared_descriptions
    def get_protein_expression(
        self,
        adata: MuData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Sequence[Any] | Any | None = None,
        protein_list: Sequence[str] | None = None,
        batch_size: int | None = None,
        return_numpy: bool = False,
    ) -> NDArray[np.float32] | pd.DataFrame:
        """Decode the proteins of cells.

        Parameters
        ----------
        %(param_adata)s
        %(param_indices)s
        %(param_transform_batch)s
        protein_list
            Names of the proteins to return. By default all proteins are returned.
        %(param_batch_size)s
        %(param_return_numpy)s

        Returns
        -------
        Decoded proteins, float32 ``(n, n_proteins)``, indexed by ``obs_names`` and protein names. If the proteins are
        counts, the values are expected counts at the median protein total of the training cells. Otherwise the values
        have the unit of the input.

        Raises
        ------
        KeyError
            If a protein of ``protein_list`` is unknown.
        ValueError
            If the model has no proteins, was trained without the loss of the proteins, or a batch is unknown.
        """
        scaling, protein = self._protein_scaling(), self.module.protein
        if scaling is None or protein is None:
            raise ValueError("Expected a model set up by setup_mudata, found one of RNA alone.")
        if self.module.loss_weights.protein == 0.0:
            raise ValueError("Expected a model trained with a loss of the proteins, found its weight 0.")
        wanted = list(scaling.names) if protein_list is None else list(protein_list)
        missing = [name for name in wanted if name not in scaling.names]
        if missing:
            raise KeyError(f"`protein_list`: expected names among {list(scaling.names)}, found {missing[:5]}.")
        columns = [scaling.names.index(name) for name in wanted]
        codes = self._transform_codes(transform_batch)
        adata, rows = self._cells(adata, indices)
        self.module.eval()
        blocks = [np.zeros((0, len(columns)), dtype=np.float32)]
        loader = self._make_data_loader(adata, indices=rows, batch_size=batch_size)
        for tensors in loader:
            inputs = self.module._get_inference_input(tensors)
            z = self.module.inference(**inputs)["z"]
            own, *others = (category.to(z.device) for category in inputs["categories"])
            cont = None if inputs["cont"] is None else inputs["cont"].to(z.device)
            decoded = [
                protein.expected(z, protein.total, [own if code is None else torch.full_like(own, code), *others], cont)
                for code in codes
            ]
            blocks.append(torch.stack(decoded).mean(dim=0)[:, columns].cpu().numpy())
        expression = np.concatenate(blocks)
        check_finite(expression, adata.obs_names[rows], "decoded proteins")
        return expression if return_numpy else pd.DataFrame(expression, index=adata.obs_names[rows], columns=wanted)


def check_mudata(mdata: Any, arguments: Mapping[str, Any], *, known: bool) -> None:
    """Refuse a MuData that a model cannot be set up on or applied to. Views are accepted.

    Parameters
    ----------
    mdata
        The data.
    arguments
        Arguments of :meth:`MuDataMixin.setup_mudata`.
    known
        Whether an existing model is applied to the cells. The cells then need no labels, and a single cell is enough.

    Raises
    ------
    TypeError, NotImplementedError, KeyError, ValueError
        Under the conditions of :meth:`MuDataMixin.setup_mudata`.
    """
    modalities = arguments["modalities"]
    _check_modalities(mdata, modalities, set(arguments))
    for name in _COLUMNS:
        if not (known and name == "labels_key"):
            place = modalities.get(name)
            container = mdata if place is None else mdata[place]
            check_columns(container, **{**dict.fromkeys(_COLUMNS), name: arguments.get(name)})
    check_cells(mdata[modalities["rna_layer"]], arguments.get("rna_layer"), min_cells=1 if known else 2)
    protein = mdata[modalities["protein_layer"]]
    _check_proteins(protein, arguments.get("protein_layer"), arguments["protein_weight"], warn=not known)


def _check_modalities(mdata: Any, modalities: Mapping[str, str], arguments: set[str]) -> None:
    """Refuse data other than a MuData in memory whose named modalities have the same cells in the same order."""
    if not isinstance(mdata, MuData):
        raise TypeError(f"Expected a MuData, found {type(mdata).__name__}.")
    if mdata.isbacked:
        raise NotImplementedError("Expected a MuData in memory, found a backed one; read it without backed=.")
    unknown = sorted(set(modalities) - arguments)
    if unknown:
        raise ValueError(f"`modalities`: expected names of arguments of setup_mudata, found {unknown}.")
    for argument, modality in modalities.items():
        if modality not in mdata.mod:
            raise KeyError(
                f"`modalities`: expected a modality of mdata for {argument!r}, found {modality!r}. Available: "
                f"{list(mdata.mod)}."
            )
        found = mdata[modality].obs_names
        if not found.equals(mdata.obs_names):
            differ = len(found) != mdata.n_obs or set(found) != set(mdata.obs_names)
            what = "other cells" if differ else "another order"
            raise ValueError(
                f"Expected the cells of the MuData, in their order, in modality {modality!r}, found {what}. Take the "
                "cells that all modalities have, and give each modality the same order."
            )


def _check_proteins(protein: AnnData, layer: str | None, protein_weight: float, *, warn: bool) -> None:
    if not 0.0 < protein_weight < 1.0:
        raise ValueError(f"Expected protein_weight between 0 and 1, found {protein_weight}.")
    if protein.n_vars < 2:
        raise ValueError(f"Expected at least 2 proteins, found {protein.n_vars}; set up the RNA alone instead.")
    if warn and read_proteins(protein, layer)[1] is False:
        warnings.warn(
            "Expected raw protein counts, found values that are not whole numbers of at least 0. The values are taken "
            "as normalised, with a normal likelihood. If there are raw counts, name their layer in protein_layer.",
            UserWarning,
            stacklevel=3,
        )
