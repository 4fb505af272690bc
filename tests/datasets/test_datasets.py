from pathlib import Path

import anndata
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse
from sklearn.cluster import KMeans

from scsiameseclu import datasets
from scsiameseclu.datasets import _synthetic
from scsiameseclu.metrics import clustering_metrics


def totals(adata, axis):
    return np.asarray(adata.X.sum(axis)).ravel()


def pca(adata, n_comps=20):
    work = adata.copy()
    work.X = work.X.toarray()
    sc.pp.normalize_total(work, target_sum=1e4)
    sc.pp.log1p(work)
    sc.pp.scale(work, max_value=10)
    sc.pp.pca(work, n_comps=n_comps, random_state=0)
    return work.obsm["X_pca"]


# --- pbmc3k -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pbmc3k():
    return datasets.pbmc3k()


def test_pbmc3k_is_integer_counts_below_the_totals_of_all_genes(pbmc3k):
    assert pbmc3k.n_obs == 2638 and 2900 < pbmc3k.n_vars < 3200
    assert isinstance(pbmc3k.X, sparse.csr_matrix) and pbmc3k.X.dtype == np.float32
    assert np.array_equal(pbmc3k.X.data, np.rint(pbmc3k.X.data)) and pbmc3k.X.data.min() >= 1
    assert pbmc3k.X.has_sorted_indices
    assert (totals(pbmc3k, 1) < pbmc3k.obs["n_counts"]).all()
    assert pbmc3k.obs_names.is_unique and pbmc3k.var_names.is_unique


def test_pbmc3k_has_types_markers_and_attribution(pbmc3k):
    assert list(pbmc3k.obs.columns) == ["cell_type", "n_counts"]
    assert set(pbmc3k.obs["cell_type"].cat.categories) >= {"NK", "CD8 T", "B", "DC", "Platelet"}
    mean = {gene: pbmc3k[:, gene].X.toarray().ravel() for gene in ("CD3D", "MS4A1", "GNLY", "PPBP", "FCER1A", "LYZ")}
    types = pbmc3k.obs["cell_type"].astype(str).to_numpy()
    highest = {
        gene: max(set(types), key=lambda name, v=values: v[types == name].mean()) for gene, values in mean.items()
    }
    expected = {"MS4A1": "B", "GNLY": "NK", "PPBP": "Platelet", "FCER1A": "DC"}
    assert {gene: highest[gene] for gene in expected} == expected
    assert pbmc3k.uns["licence"] == "CC BY 4.0"
    assert "10x Genomics" in pbmc3k.uns["attribution"]
    assert "10x Genomics" in datasets.pbmc3k.__doc__ and "CC BY 4.0" in datasets.pbmc3k.__doc__


def test_pbmc3k_file_is_small_and_comes_with_its_notice():
    folder = Path(datasets.__file__).parent
    assert (folder / "pbmc3k.h5ad").stat().st_size < 3e6
    notice = (folder / "NOTICE.md").read_text(encoding="utf-8")
    assert "10x Genomics" in notice and "creativecommons.org/licenses/by/4.0" in notice


def test_pbmc3k_is_new_on_each_call(pbmc3k):
    before = pbmc3k.X.sum()
    pbmc3k.copy().X.data[:] = 0
    datasets.pbmc3k().X.data[:] = 0
    assert datasets.pbmc3k().X.sum() == before


def test_pbmc3k_agrees_with_the_counts_of_all_genes(pbmc3k, data_dir):
    source = anndata.read_h5ad(data_dir / "pbmc3k_seurat_labels.h5ad")
    assert (source[pbmc3k.obs_names, pbmc3k.var_names].X != pbmc3k.X).nnz == 0
    np.testing.assert_array_equal(totals(source, 1), pbmc3k.obs["n_counts"])
    assert (source.obs["cell_type"].astype(str) == pbmc3k.obs["cell_type"].astype(str)).all()


# --- pbmc68k_reduced --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pbmc():
    return datasets.pbmc68k_reduced()


def test_pbmc_is_integer_counts(pbmc):
    assert pbmc.shape == (700, 765)
    assert isinstance(pbmc.X, sparse.csr_matrix)
    assert pbmc.X.dtype == np.float32
    assert np.array_equal(pbmc.X.data, np.rint(pbmc.X.data))
    assert pbmc.X.data.min() >= 1
    assert totals(pbmc, 1).min() > 0 and totals(pbmc, 0).min() > 0
    assert (totals(pbmc, 1) <= pbmc.obs["n_counts"]).all()


def test_pbmc_counts_reproduce_the_bundled_values(pbmc):
    raw = sc.datasets.pbmc68k_reduced().raw.X
    scale = 1e4 / pbmc.obs["n_counts"].to_numpy()[:, None]
    back = np.log1p(pbmc.X.toarray() * scale)
    assert np.abs(back - raw.toarray()).max() < 0.01
    assert np.array_equal(back > 0, raw.toarray() > 0)


def test_pbmc_has_labels_and_nothing_else_of_the_original(pbmc):
    assert list(pbmc.obs.columns) == ["cell_type", "bulk_labels", "n_counts"]
    assert pbmc.obs["cell_type"].equals(pbmc.obs["bulk_labels"].rename("cell_type"))
    assert pbmc.obs["cell_type"].dtype == "category"
    assert pbmc.obs["cell_type"].nunique() == 10
    assert "CD8A" in pbmc.var_names and pbmc.obs_names.is_unique
    assert pbmc.raw is None
    for slot in (pbmc.uns, pbmc.obsm, pbmc.obsp, pbmc.varm):
        assert len(slot) == 0
    assert set(pbmc.layers) <= {None}  # recent AnnData list X among the layers, as None


def test_pbmc_is_new_on_each_call(pbmc):
    first = datasets.pbmc68k_reduced()
    first.X.data[:] = 0
    first.obs["cell_type"] = "gone"
    assert datasets.pbmc68k_reduced().X.sum() == pbmc.X.sum()
    assert "gone" not in set(datasets.pbmc68k_reduced().obs["cell_type"])


# --- synthetic --------------------------------------------------------------------------------------------------------


def test_synthetic_defaults():
    adata = datasets.synthetic()
    assert adata.shape == (1000, 500)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    assert np.array_equal(adata.X.data, np.rint(adata.X.data)) and adata.X.data.min() >= 1
    assert adata.obs["cell_type"].value_counts().to_dict() == {f"type_{i}": 200 for i in range(5)}
    assert list(adata.obs["batch"].cat.categories) == ["batch_0"]
    assert adata.obs_names.is_unique and adata.var_names.is_unique
    assert np.median(totals(adata, 1)) == pytest.approx(1000, rel=0.05)


def test_seed_decides_everything():
    settings = {"n_obs": 300, "n_vars": 80, "n_batches": 2, "dropout": 0.1}
    first, again = datasets.synthetic(seed=3, **settings), datasets.synthetic(seed=3, **settings)
    other = datasets.synthetic(seed=4, **settings)
    assert (first.X != again.X).nnz == 0
    assert first.obs.equals(again.obs) and first.var.equals(again.var)
    assert (first.X != other.X).nnz > 0


def test_types_can_be_found_and_only_through_the_markers():
    adata = datasets.synthetic(n_obs=500, n_vars=200, n_types=4)
    found = KMeans(4, n_init=5, random_state=0).fit_predict(pca(adata))
    assert clustering_metrics(adata.obs["cell_type"], found)["ari"] > 0.9
    alike = datasets.synthetic(n_obs=500, n_vars=200, n_types=4, marker_fold=1.0)
    found = KMeans(4, n_init=5, random_state=0).fit_predict(pca(alike))
    assert abs(clustering_metrics(alike.obs["cell_type"], found)["ari"]) < 0.05


def test_markers_are_high_in_their_type():
    adata = datasets.synthetic(n_obs=800, n_vars=200, n_types=4, n_markers=5)
    assert adata.var["marker_of"].value_counts().to_dict() == {"none": 180} | {f"type_{i}": 5 for i in range(4)}
    for name in ("type_0", "type_3"):
        markers = (adata.var["marker_of"] == name).to_numpy()
        inside = adata[adata.obs["cell_type"] == name].X[:, markers].mean()
        outside = adata[adata.obs["cell_type"] != name].X[:, markers].mean()
        assert inside > 2 * outside


def test_sizes_of_types():
    rare = datasets.synthetic(n_obs=500, n_vars=60, n_types=3, rare_fraction=0.02)
    assert rare.obs["cell_type"].value_counts().to_dict() == {"type_0": 245, "type_1": 245, "type_2": 10}
    given = datasets.synthetic(n_obs=100, n_vars=60, n_types=3, proportions=[6, 3, 1])
    assert given.obs["cell_type"].value_counts().to_dict() == {"type_0": 60, "type_1": 30, "type_2": 10}
    tiny = datasets.synthetic(n_obs=50, n_vars=60, n_types=3, proportions=[1000, 1000, 1])
    assert tiny.obs["cell_type"].value_counts()["type_2"] == 1


def test_batches_differ_as_asked_and_are_mixed():
    def gap(batch_effect):
        adata = datasets.synthetic(n_obs=600, n_vars=100, n_types=2, n_batches=2, batch_effect=batch_effect)
        assert adata.obs["batch"].value_counts().to_dict() == {"batch_0": 300, "batch_1": 300}
        assert adata.obs.groupby("batch", observed=True)["cell_type"].nunique().tolist() == [2, 2]
        means = [np.log(adata[adata.obs["batch"] == b].X.mean(0) + 0.1) for b in ("batch_0", "batch_1")]
        return np.std(np.asarray(means[0] - means[1]))

    assert gap(0.0) < 0.1
    assert gap(1.0) > 0.5


def test_first_batch_is_the_same_whatever_the_batch_effect():
    settings = {"n_obs": 200, "n_vars": 50, "n_types": 2, "n_batches": 2}
    weak, strong = (datasets.synthetic(batch_effect=effect, **settings) for effect in (0.0, 1.0))
    first = (weak.obs["batch"] == "batch_0").to_numpy()
    means = [np.log(adata.X[first].toarray().mean(0) + 0.1) for adata in (weak, strong)]
    assert np.std(means[0] - means[1]) < 0.2


def test_counts_are_overdispersed_as_asked():
    settings = {"n_obs": 2000, "n_vars": 40, "n_types": 1, "marker_fold": 1.0, "library_spread": 0.0, "n_markers": 1}
    for inverse_dispersion in (2.0, 1e6):
        counts = datasets.synthetic(inverse_dispersion=inverse_dispersion, **settings).X.toarray().astype(float)
        mean, variance = counts.mean(0), counts.var(0)
        excess = ((variance - mean) / mean**2)[mean > 5]
        assert np.median(excess) == pytest.approx(1 / inverse_dispersion, abs=0.05)


def test_dropout_loses_that_share_of_the_counts():
    settings = {"n_obs": 500, "n_vars": 100, "n_types": 2}
    kept = datasets.synthetic(dropout=0.4, **settings).X.sum() / datasets.synthetic(**settings).X.sum()
    assert kept == pytest.approx(0.6, abs=0.05)


def test_more_cells_than_a_chunk():
    n_obs = _synthetic._CHUNK_CELLS + 10
    adata = datasets.synthetic(n_obs=n_obs, n_vars=30, n_types=2)
    assert adata.n_obs == n_obs
    assert totals(adata, 1).min() > 0
    # the chunks are independent draws, not repetitions
    assert (adata.X[:10] != adata.X[-10:]).nnz > 0


def test_written_and_read_back(tmp_path):
    for adata in (datasets.synthetic(n_obs=40, n_vars=20, n_types=2), datasets.pbmc68k_reduced()):
        adata.write_h5ad(tmp_path / "data.h5ad")
        back = anndata.read_h5ad(tmp_path / "data.h5ad")
        assert (back.X != adata.X).nnz == 0
        assert back.obs["cell_type"].astype(str).tolist() == adata.obs["cell_type"].astype(str).tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_types": 0}, "n_types >= 1, found 0"),
        ({"n_obs": 3, "n_types": 5}, "n_obs >= n_types"),
        ({"n_vars": 0}, "n_vars >= 1"),
        ({"n_batches": 0}, "n_batches in"),
        ({"n_vars": 10, "n_types": 5, "n_markers": 3}, "at most 10 markers, found 5 types x 3"),
        ({"n_markers": -1}, "markers"),
        ({"proportions": [1, 1], "n_types": 3}, "3 positive proportions"),
        ({"proportions": [1, 0], "n_types": 2}, "2 positive proportions"),
        ({"rare_fraction": 1.5}, "rare_fraction in"),
        ({"rare_fraction": 0.1, "n_types": 1}, "n_types >= 2"),
        ({"rare_fraction": 0.1, "proportions": [1] * 5}, "found both"),
        ({"marker_fold": 0.0}, "marker_fold > 0"),
        ({"library_size": float("nan")}, "library_size > 0"),
        ({"batch_effect": -1.0}, "batch_effect >= 0"),
        ({"dropout": 1.0}, "dropout in"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        datasets.synthetic(**settings)
