"""How often set-up and construction pass over the counts."""

import numpy as np
import pytest
from anndata import AnnData
from mudata import MuData

from scsiameseclu.data import _statistics
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.pp import _cell_sums, _counts, _gene_moments, _projection, neighbor_graph


@pytest.fixture
def passes(monkeypatch):
    """Shapes of the counts that were passed over."""
    found = []

    def counted(counts, *args, **options):
        found.append(counts.shape)
        return row_chunks(counts, *args, **options)

    row_chunks = _counts.row_chunks
    for module in (_cell_sums, _counts, _gene_moments, _projection, _statistics):
        monkeypatch.setattr(module, "row_chunks", counted)
    return found


@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_set_up_passes_over_the_counts_three_times(passes, batch_key):
    """Once to check, sum up and find moments, once for the covariance, and once for the projection."""
    adata = synthetic(n_obs=100, n_vars=30, n_types=2, n_batches=2)
    SCSiameseClu.setup_anndata(adata, batch_key=batch_key)
    assert passes == [adata.shape] * 3
    passes.clear()
    SCSiameseClu(adata)
    # The offsets of the batches take a second pass.
    assert passes == [adata.shape] * (1 if batch_key is None else 2)


def test_size_factors_take_one_pass_more(passes):
    """The unit of the size factors is known after the first pass."""
    adata = synthetic(n_obs=100, n_vars=30, n_types=2)
    adata.obs["size"] = np.asarray(adata.X.sum(axis=1)).ravel() / 7
    SCSiameseClu.setup_anndata(adata, size_factor_key="size")
    assert passes == [adata.shape] * 4
    passes.clear()
    SCSiameseClu(adata)
    assert passes == [adata.shape] * 2


def test_a_representation_or_a_graph_that_is_there_takes_one_pass(passes):
    adata = synthetic(n_obs=100, n_vars=30, n_types=2)
    adata.obsm["X_own"] = np.random.default_rng(0).normal(size=(100, 4))
    SCSiameseClu.setup_anndata(adata, use_rep="X_own")
    assert passes == [adata.shape]
    neighbor_graph(adata, random_state=0)
    passes.clear()
    SCSiameseClu.setup_anndata(adata)
    assert passes == [adata.shape]


def test_cells_of_a_query_take_one_pass(passes):
    adata, query = synthetic(n_obs=100, n_vars=30, n_types=2), synthetic(n_obs=40, n_vars=30, n_types=2, seed=1)
    SCSiameseClu.setup_anndata(adata)
    model = SCSiameseClu(adata, n_clusters=2)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    passes.clear()
    model.predict(query)
    assert passes == [query.shape]


def test_a_mudata_takes_three_passes(passes):
    rna = synthetic(n_obs=100, n_vars=30, n_types=2, n_batches=2)
    counts = np.random.default_rng(0).poisson(5.0, (100, 4)).astype(np.float32)
    mdata = MuData({"rna": rna, "protein": AnnData(counts, obs=rna.obs[[]])})
    mdata.obs["batch"] = rna.obs["batch"].to_numpy()
    SCSiameseClu.setup_mudata(mdata, batch_key="batch")
    assert passes == [rna.shape] * 3
