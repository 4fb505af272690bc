import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse


@pytest.fixture
def counts_adata() -> AnnData:
    """120 cells of 3 types, 60 genes, 2 batches: sparse integer counts."""
    rng = np.random.default_rng(0)
    types = np.repeat([0, 1, 2], 40)
    profiles = rng.gamma(1.0, 1.0, size=(3, 60))
    library = rng.lognormal(0, 0.3, size=(120, 1))
    adata = AnnData(sparse.csr_matrix(rng.poisson(3 * profiles[types] * library).astype(np.float32)))
    adata.obs_names = [f"cell{i}" for i in range(120)]
    adata.var_names = [f"gene{i}" for i in range(60)]
    adata.obs["type"] = types.astype(str)
    adata.obs["batch"] = np.where(np.arange(120) % 2, "b", "a")
    return adata
