"""The order of cells and genes, and the storage of the counts, do not change the result."""

import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData, concat
from scipy import sparse
from scipy.spatial.distance import pdist
from sklearn.metrics import adjusted_rand_score

from scsiameseclu._keys import SIAMESE_KEYS
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu

GETTERS = {
    "embedding": lambda model, cells: model.get_latent_representation(cells),
    "probabilities": lambda model, cells: model.predict(cells, soft=True).to_numpy(),
    "expression": lambda model, cells: model.get_normalized_expression(cells, return_numpy=True),
    "out of reference": lambda model, cells: model.get_out_of_reference_score(cells).to_numpy(),
}
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


def cells(n_obs=150, seed=0):
    return synthetic(n_obs=n_obs, n_vars=60, n_types=3, n_batches=2, marker_fold=12.0, seed=seed)


def trained(adata, setup=None, max_epochs=6, **train_kwargs):
    scvi.settings.seed = 0
    adata = adata.copy()
    SCSiameseClu.setup_anndata(adata, n_neighbors=6, **(setup or {"batch_key": "batch"}))
    model = SCSiameseClu(adata, n_clusters=3, n_latent=6, n_hidden=16, n_embedding_genes=40)
    model.train(max_epochs=max_epochs, batch_size=50, accelerator="cpu", enable_progress_bar=False, **train_kwargs)
    return model


@pytest.fixture(scope="module")
def model():
    return trained(cells())


@pytest.fixture(scope="module")
def query():
    return cells(40, seed=1)


@pytest.fixture(scope="module")
def expected(model, query):
    return {name: get(model, query.copy()) for name, get in GETTERS.items()}


def as_type(dtype):
    def change(adata):
        adata.X = adata.X.astype(dtype)
        return adata

    return change


def as_form(form):
    def change(adata):
        adata.X = form(adata.X)
        return adata

    return change


FORMS = {
    **{str(np.dtype(dtype)): as_type(dtype) for dtype in (np.float64, np.int32, np.int64, np.uint16)},
    "csc": as_form(sparse.csc_matrix),
    "csr array": as_form(sparse.csr_array),
    "dense": as_form(lambda counts: counts.toarray()),
    "dense in columns": as_form(lambda counts: np.asfortranarray(counts.toarray())),
}


# -- cells a model is applied to --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GETTERS)
def test_order_of_new_cells(model, query, expected, name):
    order = np.random.default_rng(0).permutation(query.n_obs)
    assert np.allclose(GETTERS[name](model, query[order].copy()), expected[name][order], **ROUNDING)


@pytest.mark.parametrize("form", FORMS)
def test_form_of_new_cells(model, query, expected, form):
    changed = FORMS[form](query.copy())
    for name, get in GETTERS.items():
        assert np.allclose(get(model, changed), expected[name], **ROUNDING), name


@pytest.mark.parametrize("sizes", [(1, 39), (7, 13, 20)])
def test_new_cells_in_chunks(model, query, expected, sizes):
    bounds = np.cumsum((0, *sizes))
    chunks = [query[start:end].copy() for start, end in zip(bounds, bounds[1:], strict=False)]
    for name, get in GETTERS.items():
        assert np.allclose(np.concatenate([get(model, chunk) for chunk in chunks]), expected[name], **ROUNDING), name


def test_size_of_batches_and_workers(model, query, expected):
    for size in (1, 7, 1000):
        latent = model.get_latent_representation(query.copy(), batch_size=size)
        assert np.allclose(latent, expected["embedding"], **ROUNDING)
    scvi.settings.dl_num_workers = 2
    try:
        assert np.array_equal(model.get_latent_representation(query.copy()), expected["embedding"])
    finally:
        scvi.settings.dl_num_workers = 0


def test_genes_of_new_cells(model, query, expected):
    """New cells may have genes in another order, genes without counts, and genes that the model does not know."""
    further = AnnData(
        sparse.csr_matrix(np.tile([0.0, 3.0], (query.n_obs, 1)).astype(query.X.dtype)),
        obs=query.obs,
        var=pd.DataFrame(index=["silent", "unknown"]),
    )
    wider = concat([query, further], axis=1, merge="same")
    wider = wider[:, np.random.default_rng(0).permutation(wider.n_vars)].copy()
    mapped = SCSiameseClu.load_query_data(wider, model, accelerator="cpu")
    assert np.allclose(mapped.get_latent_representation(), expected["embedding"], **ROUNDING)
    assert np.allclose(mapped.predict(soft=True), expected["probabilities"], **ROUNDING)


def test_copies_of_a_new_cell(model, query, expected):
    twice = query[np.repeat(np.arange(query.n_obs), 2)].copy()
    twice.obs_names_make_unique()
    for name, get in GETTERS.items():
        assert np.allclose(get(model, twice), np.repeat(expected[name], 2, axis=0), **ROUNDING), name


# -- cells a model is trained on --------------------------------------------------------------------------------------


def same(first, second):
    return (
        np.array_equal(first.get_latent_representation(), second.get_latent_representation())
        and (first.predict().to_numpy() == second.predict().to_numpy()).all()
    )


def test_same_seed_same_bits(model):
    assert same(trained(cells()), model)


@pytest.mark.parametrize("form", ["float64", "int32", "csc"])
def test_form_of_the_data(model, form):
    """Dense counts differ by rounding only, because they are added up in another order; see test_counts_as_given."""
    assert same(trained(FORMS[form](cells())), model)


def test_order_of_the_genes(model):
    adata = cells()
    assert same(trained(adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()), model)


def test_workers_of_the_training(model):
    assert same(trained(cells(), datasplitter_kwargs={"num_workers": 2, "persistent_workers": False}), model)


def test_a_gene_without_counts_changes_nothing_before_training(model):
    """Training differs as with another seed, because starting weights are drawn for every gene."""
    adata = cells()
    silent = AnnData(
        sparse.csr_matrix((adata.n_obs, 1), dtype=adata.X.dtype), obs=adata.obs, var=pd.DataFrame(index=["silent"])
    )
    wider = concat([adata, silent], axis=1, merge="same")
    SCSiameseClu.setup_anndata(wider, batch_key="batch", n_neighbors=6)
    untrained = SCSiameseClu(wider, n_clusters=3, n_embedding_genes=40)
    found, expected = (each.adata_manager.blocks.tables for each in (untrained, model))
    # Axes of about equal length may change places. Distances do not change.
    apart = [pdist(tables[SIAMESE_KEYS.GRAPH_REP]) for tables in (found, expected)]
    assert np.allclose(*apart, atol=1e-3)
    assert (found[SIAMESE_KEYS.NEIGHBOR_INDEX] == expected[SIAMESE_KEYS.NEIGHBOR_INDEX]).mean() > 0.99
    assert np.allclose(found[SIAMESE_KEYS.NEIGHBOR_WEIGHT], expected[SIAMESE_KEYS.NEIGHBOR_WEIGHT], atol=1e-2)
    chosen = untrained.module.embedding_genes.numpy()
    assert list(wider.var_names[chosen]) == list(model.adata.var_names[model.module.embedding_genes.numpy()])


def test_order_of_the_cells(model):
    """The graph follows the order of the cells. Training has other mini-batches, so only the clusters are the same."""
    adata = cells()
    order = np.random.default_rng(0).permutation(adata.n_obs)
    back = np.argsort(order)
    other = trained(adata[order].copy(), max_epochs=20)
    tables, of_other = (each.adata_manager.blocks.tables for each in (model, other))
    for key in (SIAMESE_KEYS.NEIGHBOR_INDEX, SIAMESE_KEYS.NEIGHBOR_WEIGHT):
        expected, found = tables[key], of_other[key][back]
        found = order[found] if key.endswith("index") else found
        assert np.allclose(np.sort(found, axis=1), np.sort(expected, axis=1), atol=1e-3), key
    first, second = trained(adata, max_epochs=20).predict(), other.predict().to_numpy()[back]
    assert adjusted_rand_score(first, second) > 0.95


def test_copies_of_a_cell_stay_together():
    adata = cells(70)
    twice = concat([adata, adata], index_unique="-")
    labels = trained(twice).predict().to_numpy()
    assert (labels[:70] == labels[70:]).all()


THREADS = """
import sys
import numpy as np, scvi, torch
from scsiameseclu.datasets import synthetic
from scsiameseclu.tl import cluster

torch.set_num_threads(int(sys.argv[1]))
scvi.settings.seed = 0
adata = synthetic(n_obs=400, n_vars=200, n_types=4, seed=0)
cluster(adata, n_neighbors=8, train_kwargs={"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 12})
np.save(sys.argv[2], adata.obs["siamese_clu"].astype(str).to_numpy().astype(int))
"""


@pytest.mark.slow
def test_number_of_threads(tmp_path, run_script):
    for n_threads in ("1", "2"):
        done = run_script(THREADS, n_threads, f"{n_threads}.npy", timeout=280)
        assert done.returncode == 0, done.stdout
    assert adjusted_rand_score(np.load(tmp_path / "1.npy"), np.load(tmp_path / "2.npy")) >= 0.999
