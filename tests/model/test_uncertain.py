"""Selection of the cells whose cluster is uncertain."""

import numpy as np
import pytest
import scvi

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu


def test_cells_below_the_limit_with_their_two_best_clusters(trained):
    soft = trained.predict(soft=True)
    limit = float(soft.max(axis=1).quantile(0.2))
    table = trained.get_uncertain_cells(max_confidence=limit)
    below = soft[soft.max(axis=1) < limit]
    assert 0 < len(table) < len(soft) and set(table.index) == set(below.index)
    assert table["confidence"].is_monotonic_increasing
    for cell, row in table.iterrows():
        two = soft.loc[cell].sort_values(ascending=False)[:2]
        assert [row["cluster"], row["runner_up"]] == list(two.index)
        np.testing.assert_allclose([row["confidence"], row["runner_up_probability"]], two, rtol=1e-6)
    assert table["cluster"].cat.categories.tolist() == table["runner_up"].cat.categories.tolist() == ["0", "1", "2"]
    assert len(trained.get_uncertain_cells(max_confidence=0.0)) == 0


def test_cells_unlike_the_reference_are_added_on_request(trained):
    query = synthetic(n_obs=60, n_vars=80, n_types=3, n_batches=2, seed=1)
    score = trained.get_out_of_reference_score(query)
    table = trained.get_uncertain_cells(query, max_confidence=0.0, min_out_of_reference=0.8)
    assert 0 < len(table) < 60 and set(table.index) == set(score.index[score > 0.8])
    np.testing.assert_allclose(table["out_of_reference"], score[table.index])
    some = trained.get_uncertain_cells(query, indices=[3, 5], max_confidence=1.0, min_out_of_reference=0.0)
    assert set(some.index) == set(query.obs_names[[3, 5]])


def test_one_cluster_has_no_runner_up(quick, small):
    scvi.settings.seed = 0
    cells = synthetic(n_obs=60, n_vars=40, n_types=1)
    SCSiameseClu.setup_anndata(cells)
    one = SCSiameseClu(cells, n_clusters=1, **small)
    one.train(max_epochs=2, **quick)
    table = one.get_uncertain_cells(min_out_of_reference=0.5)
    assert len(table) and table["runner_up"].isna().all() and (table["confidence"] == 1).all()


def test_wrong_calls(trained, setup_adata, small):
    with pytest.raises(ValueError, match="`max_confidence`: expected a number between 0 and 1, found 50"):
        trained.get_uncertain_cells(max_confidence=50)
    with pytest.raises(ValueError, match="`min_out_of_reference`"):
        trained.get_uncertain_cells(min_out_of_reference=-1)
    with pytest.raises(RuntimeError, match="call model.train"):
        SCSiameseClu(setup_adata, n_clusters=2, **small).get_uncertain_cells()
