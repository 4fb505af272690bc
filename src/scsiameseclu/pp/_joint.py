"""Joint representation of RNA and surface proteins: the principal components of both, side by side."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scsiameseclu.pp._projection import MAX_SCORE, Projection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from scsiameseclu.pp._cell_sums import CellSums

_ARRAYS = ("mean", "sd", "components")


def centred_log(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take ``log1p`` of protein counts, and subtract the cell's mean over its measured proteins. NaN stays NaN.

    The centring removes the effect of the total protein counts of a cell, like the centred log ratio of CITE-seq.
    """
    logs = np.log1p(counts)
    measured = ~np.isnan(logs)
    n_measured = measured.sum(axis=1, keepdims=True)
    means = np.where(measured, logs, 0.0).sum(axis=1, keepdims=True) / np.maximum(n_measured, 1)
    return (logs - means).astype(np.float32)


@dataclass(frozen=True, eq=False)
class ProteinScaling:
    """Standardisation and principal components of protein values, fitted once.

    Parameters
    ----------
    names
        Names of the proteins, in the order of the columns.
    counts
        Whether the values are counts. :func:`centred_log` is applied to counts, but not to normalised values.
    mean, sd
        Mean and standard deviation of each protein, float32 ``(n_proteins,)``. ``sd`` is 0 for proteins that do not
        vary or were not measured in any cell.
    components
        Principal components, float32 ``(n_proteins, n_comps)``, with orthonormal columns.
    """

    names: tuple[str, ...]
    counts: bool
    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    components: NDArray[np.float32]

    @classmethod
    def fit(cls, values: NDArray[np.float32], names: Sequence[str], counts: bool, n_comps: int = 50) -> ProteinScaling:
        """Fit on protein values ``(n_obs, n_proteins)``. NaN marks proteins that were not measured in a cell."""
        logs = (centred_log(values) if counts else values).astype(np.float64)
        n_measured = np.maximum((~np.isnan(logs)).sum(axis=0), 1)
        mean = np.nansum(logs, axis=0) / n_measured
        variance = np.nansum((logs - mean) ** 2, axis=0) / n_measured
        sd = np.where(variance > 1e-12 * (1.0 + mean**2), np.sqrt(variance), 0.0)
        unrotated = cls(
            tuple(map(str, names)),
            counts,
            mean.astype(np.float32),
            sd.astype(np.float32),
            np.eye(len(mean), dtype=np.float32),
        )
        scores = unrotated.transform(values)
        centred = scores - scores.mean(axis=0)
        vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))[1][:, ::-1][:, :n_comps]
        largest = np.abs(vectors).argmax(axis=0)
        vectors = vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
        return cls(unrotated.names, counts, unrotated.mean, unrotated.sd, vectors.astype(np.float32))

    def transform(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute z-scores, float32 ``(n, n_proteins)``, clipped to [-10, 10]. NaN becomes 0, the mean."""
        logs = centred_log(values) if self.counts else values
        scores = np.divide(logs - self.mean, self.sd, out=np.zeros_like(logs), where=self.sd > 0)
        return np.clip(np.nan_to_num(scores, nan=0.0), -MAX_SCORE, MAX_SCORE).astype(np.float32)

    def to_state(self) -> dict[str, Any]:
        """Plain dictionary for a registry or ``uns``."""
        return {
            "names": np.array(self.names, dtype=object),
            "counts": self.counts,
            **{name: getattr(self, name) for name in _ARRAYS},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ProteinScaling:
        """Inverse of :meth:`to_state`."""
        arrays = {name: np.asarray(state[name], dtype=np.float32) for name in _ARRAYS}
        return cls(names=tuple(map(str, state["names"])), counts=bool(state["counts"]), **arrays)


@dataclass(frozen=True, eq=False)
class JointProjection:
    """Joint representation of RNA and proteins, in which both have given shares of the total variance.

    Parameters
    ----------
    rna
        Principal components of log-normalised counts. ``None`` if the representation of the RNA is given by the user.
    protein
        Standardisation and principal components of the proteins.
    rna_factor, protein_factor
        Factors by which the components of the RNA and of the proteins are multiplied.
    """

    rna: Projection | None
    protein: ProteinScaling
    rna_factor: float = 1.0
    protein_factor: float = 1.0

    @classmethod
    def fit_transform(
        cls,
        counts: Any,
        values: NDArray[np.float32],
        protein: ProteinScaling,
        *,
        protein_weight: float,
        size_factors: ArrayLike | None = None,
        batch: pd.Series | None = None,
        n_pcs: int = 50,
        random_state: int = 0,
        gene_order: NDArray[np.int64] | None = None,
        sums: CellSums | None = None,
    ) -> tuple[JointProjection, NDArray[np.float32]]:
        """Fit on counts ``(n_obs, n_genes)`` and protein values ``(n_obs, n_proteins)``, and transform the same cells.

        The components of the RNA are scaled to a total variance of ``1 - protein_weight``, and the components of the
        proteins to a total variance of ``protein_weight``. The other arguments are those of
        :meth:`~scsiameseclu.pp.Projection.fit`.
        """
        rna, components = Projection.fit_transform(
            counts,
            n_pcs,
            random_state=random_state,
            size_factors=size_factors,
            batch=batch,
            gene_order=gene_order,
            sums=sums,
        )
        rna_variance = float(components.var(axis=0).sum())
        protein_variance = float((protein.transform(values) @ protein.components).var(axis=0).sum())
        fitted = cls(
            rna,
            protein,
            float(np.sqrt((1.0 - protein_weight) / max(rna_variance, 1e-12))),
            float(np.sqrt(protein_weight / max(protein_variance, 1e-12))),
        )
        return fitted, fitted.combined(components, values)

    def combined(self, rna: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the joint representation from the components of the RNA ``(n, n_rna_comps)`` and protein values."""
        protein = self.protein.transform(values) @ self.protein.components * self.protein_factor
        return np.concatenate([rna * self.rna_factor, protein], axis=1).astype(np.float32)

    @property
    def digest(self) -> str:
        """SHA-1 of all arrays and settings."""
        state = hashlib.sha1(usedforsecurity=False)
        state.update(b"" if self.rna is None else self.rna.digest.encode())
        state.update(repr((self.protein.names, self.protein.counts, self.rna_factor, self.protein_factor)).encode())
        for name in _ARRAYS:
            state.update(np.ascontiguousarray(getattr(self.protein, name)).tobytes())
        return state.hexdigest()

    def to_state(self) -> dict[str, Any]:
        """Plain nested dictionary for a registry or ``uns``. Without ``rna``, the dictionary has no key ``"rna"``."""
        state = {
            "protein": self.protein.to_state(),
            "rna_factor": self.rna_factor,
            "protein_factor": self.protein_factor,
        }
        return state if self.rna is None else {"rna": self.rna.to_state(), **state}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> JointProjection:
        """Inverse of :meth:`to_state`."""
        return cls(
            Projection.from_state(state["rna"]) if "rna" in state else None,
            ProteinScaling.from_state(state["protein"]),
            float(state["rna_factor"]),
            float(state["protein_factor"]),
        )
