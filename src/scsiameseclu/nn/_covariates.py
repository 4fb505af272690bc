"""Standardisation of continuous covariates."""

from typing import Any

import torch
from torch import Tensor, nn


class CovariateScaler(nn.Module):
    """Standardise continuous covariates with the mean and standard deviation of the training cells.

    Without standardisation, covariates with large values (a total count, an age in days) would outweigh all other
    inputs of the first layer. Before :meth:`fit` is called, the scaler returns the values unchanged. Models of early
    versions of this package did not standardise, and their scalers also return the values unchanged.

    Parameters
    ----------
    n_covariates
        Number of covariates.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, n_covariates: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_covariates))
        self.register_buffer("sd", torch.ones(n_covariates))

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Compute mean and standard deviation from ``values``, ``(n_obs, n_covariates)``.

        A constant covariate is scaled to 0.
        """
        values = values.to(torch.float64)
        mean, sd = values.mean(dim=0), values.std(dim=0, unbiased=False)
        # By rounding, a constant has a standard deviation of about 1e-16 times its value instead of 0.
        sd = torch.where(sd > 1e-9 * mean.abs().clamp_min(1e-300), sd, torch.ones_like(sd))
        self.mean.copy_(mean)
        self.sd.copy_(sd)

    def forward(self, values: Tensor) -> Tensor:
        """Standardised covariates, ``(batch, n_covariates)``."""
        return (values - self.mean.to(values.device)) / self.sd.to(values.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        state_dict.setdefault(f"{prefix}mean", torch.zeros_like(self.mean))
        state_dict.setdefault(f"{prefix}sd", torch.ones_like(self.sd))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
