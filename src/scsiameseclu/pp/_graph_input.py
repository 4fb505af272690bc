"""Inputs of a cell graph: settings, columns of ``obs``, and representations in ``obsm``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scsiameseclu.pp._counts import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray


@dataclass(frozen=True)
class GraphSettings:
    """Settings of a cell graph. The arguments of :func:`~scsiameseclu.pp.neighbor_graph` describe each setting."""

    n_neighbors: int = 15
    use_rep: str | None = None
    neighbors_key: str | None = None
    layer: str | None = None
    batch_key: str | None = None
    size_factor_key: str | None = None
    n_pcs: int = 50
    random_state: int = 0
    diffusion: bool = False

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> GraphSettings:
        """Read the settings from the state of a registry.

        States of early versions have no setting ``diffusion``. In these versions, every graph was diffused.
        """
        known = {"diffusion": True, **state}
        return cls(**{field.name: known[field.name] for field in fields(cls)})

    def of_neighbors(self) -> list[tuple[str, Any]]:
        """Names and values of the settings that the neighbours of a cell depend on: all settings but ``diffusion``."""
        return sorted((name, value) for name, value in asdict(self).items() if name != "diffusion")


def obsm_rep(adata: AnnData, use_rep: str) -> NDArray[np.float32]:
    """Read a representation from ``obsm`` as a dense float32 array, which may share memory with ``obsm``.

    Raises
    ------
    KeyError
        If ``use_rep`` is not in ``obsm``.
    ValueError
        If the representation contains values other than finite numbers.
    """
    if use_rep not in adata.obsm:
        raise KeyError(f"`use_rep`: expected a key of adata.obsm, found {use_rep!r}. Available: {list(adata.obsm)}.")
    rep = adata.obsm[use_rep]
    try:
        values = np.ascontiguousarray(canonical(rep).toarray() if sparse.issparse(rep) else rep, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"obsm[{use_rep!r}]: expected numbers, found other values ({error}).") from error
    check_rep(values, use_rep, adata.obs_names)
    return values


def check_rep(values: NDArray[np.float32], use_rep: str, obs_names: pd.Index) -> None:
    """Refuse a representation that is not finite.

    Raises
    ------
    ValueError
        If there are NaN or infinite values; the message names the first such cell.
    """
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise ValueError(
            f"obsm[{use_rep!r}]: expected a finite representation, found NaN or infinite values for cell "
            f"{obs_names[bad[0]]!r} ({bad.size} cells in all). Compute the representation again, or leave these cells "
            "out."
        )


def obs_column(adata: AnnData, key: str | None) -> pd.Series | None:
    """Column of ``obs``, or None if ``key`` is None.

    Raises
    ------
    KeyError
        If there is no such column.
    """
    if key is None:
        return None
    if key not in adata.obs:
        raise KeyError(f"Expected a column of adata.obs, found {key!r}. Available: {list(adata.obs)}.")
    return adata.obs[key]


def resolve_seed(random_state: int | None) -> int:
    """Return ``random_state``. If it is None, return ``scvi.settings.seed``, or 0 if this seed is also None."""
    if random_state is None:
        import scvi

        random_state = scvi.settings.seed
    return 0 if random_state is None else int(random_state)
