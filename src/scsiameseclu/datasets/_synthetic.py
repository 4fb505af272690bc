"""Simulated counts of known cell types."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from scsiameseclu.pp._threads import in_threads

__all__ = ["synthetic"]

# Number of cells that are simulated at a time. Changing the number changes every simulated data set of the same seed.
_CHUNK_CELLS = 4096


def synthetic(
    n_obs: int = 1000,
    n_vars: int = 500,
    n_types: int = 5,
    n_batches: int = 1,
    *,
    proportions: Sequence[float] | None = None,
    rare_fraction: float | None = None,
    n_markers: int | None = None,
    marker_fold: float = 4.0,
    library_size: float = 1000.0,
    library_spread: float = 0.3,
    inverse_dispersion: float = 4.0,
    batch_effect: float = 0.3,
    dropout: float = 0.0,
    seed: int = 0,
) -> AnnData:
    r"""Simulate counts of known cell types, similar to the Splat simulator.

    The mean of gene :math:`g` in cell :math:`i` of type :math:`t` and batch :math:`b` is

    .. math:: \mu_{ig} = \ell_i \, \frac{\beta_g \, \phi_{tg} \, \psi_{bg}}{\sum_h \beta_h \, \phi_{th} \, \psi_{bh}},

    with base expression :math:`\beta_g \sim \mathrm{Gamma}(0.6)`, fold changes of the markers :math:`\phi_{tg}`, batch
    factors :math:`\log \psi_{bg} \sim N(0, \sigma_b)` and library sizes
    :math:`\log \ell_i \sim N(\log L, \sigma_\ell)`. Counts follow a gamma-Poisson (negative binomial) distribution with
    variance :math:`\mu + \mu^2 / \theta`. Each count is then set to 0 with a fixed probability. Cells are simulated in
    chunks. So the memory that is needed besides the sparse result does not grow with ``n_obs``.

    Parameters
    ----------
    n_obs, n_vars
        Number of cells and genes.
    n_types
        Number of cell types. Each type has its own marker genes.
    n_batches
        Number of batches. All batches have the same size and, on average, the same composition of types.
    proportions
        Relative sizes of the types: ``n_types`` positive numbers. The numbers of cells have these proportions exactly,
        up to rounding. ``None``: all types have the same size.
    rare_fraction
        Share of the last type, in ``(0, 1)``. The other types share the rest equally. ``rare_fraction`` and
        ``proportions`` cannot be given together.
    n_markers
        Number of marker genes per type. ``None``: ``n_vars // (4 * n_types)``, but at least 1 and at most 25.
    marker_fold
        Median fold change of a marker gene in its type. With 1, all types are alike.
    library_size
        :math:`L`, median of the expected total counts per cell.
    library_spread
        :math:`\sigma_\ell`, standard deviation of the log library size.
    inverse_dispersion
        :math:`\theta`, inverse dispersion of the counts. With larger values, the counts are closer to a Poisson
        distribution.
    batch_effect
        :math:`\sigma_b`, standard deviation of the log batch factors. All factors of the first batch are 1.
    dropout
        Probability that a count is set to 0, in ``[0, 1)``.
    seed
        Seed of the random numbers. The same seed and arguments give the same data.

    Returns
    -------
    AnnData
        Simulated cells, ``n_obs`` x ``n_vars``.

        - ``X``: counts, CSR, float32.
        - ``obs["cell_type"]`` and ``obs["batch"]``: categorical, with names ``"type_0"``, ``"batch_0"`` and so on.
        - ``var["marker_of"]``: cell type that the gene is a marker of, or ``"none"``, categorical.

    Raises
    ------
    ValueError
        If a size, share or spread is out of range, or if there are fewer cells than types or fewer genes than markers.

    Notes
    -----
    Source of the model: Splat (Zappia et al., Genome Biology 18:174, 2017), without its outliers and paths.

    Examples
    --------
    >>> adata = synthetic(n_obs=200, n_vars=100, n_types=3, rare_fraction=0.05)
    >>> int((adata.obs["cell_type"] == "type_2").sum())
    10
    """
    shares = _shares(n_types, proportions, rare_fraction)
    n_markers = max(1, min(25, n_vars // (4 * n_types))) if n_markers is None else n_markers
    _check_sizes(n_obs, n_vars, n_types, n_batches, n_markers)
    _check_spreads(marker_fold, library_size, library_spread, inverse_dispersion, batch_effect, dropout)

    structure_seed, *chunk_seeds = np.random.SeedSequence(seed).spawn(1 + -(-n_obs // _CHUNK_CELLS))
    rng = np.random.default_rng(structure_seed)
    types = rng.permutation(np.repeat(np.arange(n_types), _rounded(shares, n_obs)))
    batches = rng.permutation(np.arange(n_obs) % n_batches)
    marker_of = np.full(n_vars, -1)
    marker_of[rng.permutation(n_vars)[: n_types * n_markers]] = np.repeat(np.arange(n_types), n_markers)
    profiles = _profiles(rng, marker_of, n_types, n_batches, marker_fold, batch_effect)

    def simulate(chunk: tuple[int, np.random.SeedSequence]) -> sparse.csr_matrix:
        number, chunk_seed = chunk
        rows = slice(number * _CHUNK_CELLS, min((number + 1) * _CHUNK_CELLS, n_obs))
        rng = np.random.default_rng(chunk_seed)
        libraries = rng.lognormal(np.log(library_size), library_spread, size=rows.stop - rows.start)
        means = libraries[:, None] * profiles[types[rows], batches[rows]]
        counts = rng.poisson(means * rng.gamma(inverse_dispersion, 1.0 / inverse_dispersion, size=means.shape))
        if dropout > 0:
            counts[rng.random(counts.shape) < dropout] = 0
        return sparse.csr_matrix(counts.astype(np.float32))

    chunks = list(in_threads(simulate, enumerate(chunk_seeds)))
    obs = pd.DataFrame(
        {"cell_type": _named(types, "type", n_types), "batch": _named(batches, "batch", n_batches)},
        index=pd.Index([f"cell_{i}" for i in range(n_obs)]),
    )
    var = pd.DataFrame(
        {"marker_of": _markers(marker_of, n_types)}, index=pd.Index([f"gene_{g}" for g in range(n_vars)])
    )
    return AnnData(sparse.vstack(chunks, format="csr"), obs=obs, var=var)


def _profiles(
    rng: np.random.Generator,
    marker_of: NDArray[np.int64],
    n_types: int,
    n_batches: int,
    marker_fold: float,
    batch_effect: float,
) -> NDArray[np.float64]:
    """Share of each gene in the counts of a cell, (n_types, n_batches, n_vars); sums to 1 over genes."""
    n_vars = len(marker_of)
    # Many values of Gamma(0.6) are close to 0. The added constant gives every gene some counts.
    base = rng.gamma(0.6, size=n_vars) + 0.02
    folds = np.ones((n_types, n_vars))
    genes = np.flatnonzero(marker_of >= 0)
    # With marker_fold = 1, all fold changes are exactly 1.
    folds[marker_of[genes], genes] = marker_fold ** rng.lognormal(0.0, 0.2, size=len(genes))
    # A marker gene with low base expression could not distinguish its type.
    base[genes] = np.maximum(base[genes], np.median(base))
    factors = np.exp(rng.normal(0.0, batch_effect, size=(n_batches, n_vars)))
    factors[0] = 1.0
    profiles = base * folds[:, None, :] * factors[None, :, :]
    return profiles / profiles.sum(2, keepdims=True)


def _shares(n_types: int, proportions: Sequence[float] | None, rare_fraction: float | None) -> NDArray[np.float64]:
    if n_types < 1:
        raise ValueError(f"Expected n_types >= 1, found {n_types}; simulate at least one type.")
    if proportions is not None and rare_fraction is not None:
        raise ValueError(
            "Expected proportions or rare_fraction, found both; give the rare type's share in proportions."
        )
    if rare_fraction is not None:
        if not 0 < rare_fraction < 1 or n_types < 2:
            raise ValueError(
                f"Expected rare_fraction in (0, 1) and n_types >= 2, found {rare_fraction} and {n_types}; "
                "leave it None for equal shares."
            )
        return np.append(np.full(n_types - 1, (1 - rare_fraction) / (n_types - 1)), rare_fraction)
    shares = np.ones(n_types) if proportions is None else np.asarray(proportions, dtype=np.float64)
    if shares.shape != (n_types,) or not (np.isfinite(shares) & (shares > 0)).all():
        raise ValueError(
            f"Expected {n_types} positive proportions, found {np.asarray(proportions).tolist()}; pass one per type."
        )
    return shares / shares.sum()


def _rounded(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Round sizes of the groups to whole numbers with the sum ``total``, by the method of largest remainders.

    Each group gets at least 1, if ``total`` is large enough.
    """
    sizes = np.floor(shares * total).astype(np.int64)
    remainders = shares * total - sizes
    order = np.argsort(-remainders, kind="stable")
    sizes[order[: total - sizes.sum()]] += 1
    while (sizes == 0).any() and total >= len(sizes):
        sizes[sizes.argmax()] -= 1
        sizes[sizes.argmin()] += 1
    return sizes


def _named(codes: NDArray[np.int64], prefix: str, n_names: int) -> pd.Categorical:
    return pd.Categorical.from_codes(codes, categories=[f"{prefix}_{i}" for i in range(n_names)])


def _markers(marker_of: NDArray[np.int64], n_types: int) -> pd.Categorical:
    names = [*(f"type_{i}" for i in range(n_types)), "none"]
    return pd.Categorical.from_codes(np.where(marker_of < 0, n_types, marker_of), categories=names)


def _check_sizes(n_obs: int, n_vars: int, n_types: int, n_batches: int, n_markers: int) -> None:
    if n_obs < n_types or n_vars < 1:
        raise ValueError(
            f"Expected n_obs >= n_types and n_vars >= 1, found n_obs={n_obs}, n_types={n_types}, n_vars={n_vars}; "
            "simulate at least one cell per type."
        )
    if not 1 <= n_batches <= n_obs:
        raise ValueError(f"Expected n_batches in [1, {n_obs}], found {n_batches}; every batch needs a cell.")
    if not 0 <= n_types * n_markers <= n_vars:
        raise ValueError(
            f"Expected at most {n_vars} markers, found {n_types} types x {n_markers} markers; "
            "lower n_markers or raise n_vars."
        )


def _check_spreads(
    marker_fold: float,
    library_size: float,
    library_spread: float,
    inverse_dispersion: float,
    batch_effect: float,
    dropout: float,
) -> None:
    positive = {"marker_fold": marker_fold, "library_size": library_size, "inverse_dispersion": inverse_dispersion}
    for name, value in positive.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"Expected {name} > 0, found {value}; pass a positive number.")
    for name, value in {"library_spread": library_spread, "batch_effect": batch_effect}.items():
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"Expected {name} >= 0, found {value}; pass a standard deviation.")
    if not 0 <= dropout < 1:
        raise ValueError(f"Expected dropout in [0, 1), found {dropout}; pass a probability below 1.")
