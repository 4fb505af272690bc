"""Number of times that set-up reads the counts."""

import pytest

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.pp import _cell_sums, _counts, _projection


@pytest.mark.parametrize(("batch_key", "most"), [(None, 4), ("batch", 5)])
def test_set_up_reads_the_counts_a_few_times(monkeypatch, batch_key, most):
    """One pass each for checks and sums, moments, the covariance, the metric of batches, and the projection."""
    passes = []

    def counted(counts, *args, **options):
        passes.append(counts.shape)
        return row_chunks(counts, *args, **options)

    row_chunks = _counts.row_chunks
    for module in (_cell_sums, _counts, _projection):
        monkeypatch.setattr(module, "row_chunks", counted)
    adata = synthetic(n_obs=100, n_vars=30, n_types=2, n_batches=2)
    SCSiameseClu.setup_anndata(adata, batch_key=batch_key)
    assert len(passes) == most and set(passes) == {adata.shape}
