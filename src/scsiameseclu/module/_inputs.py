"""Inputs of the network from the tensors of a mini-batch."""

from typing import Any

from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass
from torch import Tensor

from scsiameseclu._keys import SIAMESE_KEYS, TARGET_SUM
from scsiameseclu.nn import CovariateScaler, ExpressionScaler, ProteinBranch


class BatchInputs(BaseModuleClass):
    """Select the arguments of ``inference`` and ``generative`` from the tensors of a mini-batch.

    Attributes
    ----------
    expression_scaler, covariate_scaler, protein
        Parts of the network that determine which inputs are needed. The subclass that builds the network sets these
        attributes.
    """

    expression_scaler: ExpressionScaler
    covariate_scaler: CovariateScaler | None
    protein: ProteinBranch | None

    def _covariates(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Codes of the categorical covariates (batch first) and standardised continuous covariates of the cells."""
        categories = [tensors[REGISTRY_KEYS.BATCH_KEY]]
        if REGISTRY_KEYS.CAT_COVS_KEY in tensors:
            categories += list(tensors[REGISTRY_KEYS.CAT_COVS_KEY].split(1, dim=1))
        cont = tensors.get(REGISTRY_KEYS.CONT_COVS_KEY)
        return {"categories": categories, "cont": self.covariate_scaler(cont) if self.covariate_scaler else cont}

    def _library(self, tensors: dict[str, Tensor]) -> Tensor:
        """Size factors if the model was set up with size factors, otherwise total counts, ``(batch, 1)``."""
        size_factor = tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
        return tensors[REGISTRY_KEYS.X_KEY].sum(dim=1, keepdim=True) if size_factor is None else size_factor

    def _get_inference_input(self, tensors: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        neighbors = (SIAMESE_KEYS.NEIGHBOR_REP, SIAMESE_KEYS.NEIGHBOR_WEIGHT)
        diffused = (SIAMESE_KEYS.DIFFUSED_REP, SIAMESE_KEYS.DIFFUSED_WEIGHT)
        inputs = self._view_input(tensors, *neighbors)
        if self.training:
            second = tensors.get(SIAMESE_KEYS.PARTNER, tensors)
            is_diffused = SIAMESE_KEYS.DIFFUSED_REP in second
            inputs["second"] = self._view_input(second, *(diffused if is_diffused else neighbors))
        return inputs

    def _view_input(self, tensors: dict[str, Tensor], rep_key: str, weight_key: str) -> dict[str, Any]:
        """Inputs of the encoders for one view: the cells, and the neighbours under ``rep_key`` and ``weight_key``."""
        protein = {} if self.protein is None else {"protein": tensors[SIAMESE_KEYS.PROTEIN_REP]}
        return {
            **protein,
            "x": tensors[REGISTRY_KEYS.X_KEY],
            "library": self._library(tensors),
            "rep": tensors[SIAMESE_KEYS.GRAPH_REP],
            "neighbor_rep": tensors[rep_key],
            "weight": tensors[weight_key],
            **self._covariates(tensors),
        }

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        # Size factors may have any unit. This factor scales them to library sizes in counts.
        library = self._library(tensors) * (TARGET_SUM / self.expression_scaler.target_sum)
        counts = tensors[REGISTRY_KEYS.X_KEY] if kwargs.get("for_loss") else None
        return {"z": inference_outputs["z"], "library": library, "counts": counts, **self._covariates(tensors)}
