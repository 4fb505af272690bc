"""Counts in any form stay the same, byte for byte, and give the same results as the sorted matrix."""

import hashlib
import json

import anndata
import numpy as np
import pytest
import scanpy as sc
import scvi
import torch
from mudata import MuData
from scipy import sparse

import scsiameseclu as ssc
from scsiameseclu._keys import ADATA_KEYS, SIAMESE_KEYS
from scsiameseclu.cli import main
from scsiameseclu.data._device import DeviceSparseRows
from scsiameseclu.data._rows import row_reader
from scsiameseclu.data._statistics import ExpressionStatistics
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.pp._check_counts import check_counts
from scsiameseclu.pp._counts import as_csr, canonical_copy, name_order, row_chunks, totals
from scsiameseclu.pp._graph_input import obsm_rep
from scsiameseclu.reference._sources import read_proteins

TRAIN = {"max_epochs": 2, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}
SIZE = {"n_clusters": 3, "n_latent": 4, "n_hidden": 16}


def cells(seed=0, n_obs=120):
    adata = synthetic(n_obs=n_obs, n_vars=50, n_types=3, n_batches=2, seed=seed)
    adata.X = sparse.csr_matrix(np.asarray(adata.X.toarray(), dtype=np.float32))
    adata.var_names = [f"gene{i}" for i in range(50)]  # sorted by name, these are in another order
    return adata


def shuffled(matrix, index_dtype=np.int32):
    """Put the entries of each row in random order."""
    matrix, rng = sparse.csr_matrix(matrix), np.random.default_rng(1)
    order = np.concatenate(
        [rng.permutation(np.arange(*pair)) for pair in zip(matrix.indptr, matrix.indptr[1:], strict=False)]
    )
    result = sparse.csr_matrix(matrix.shape, dtype=matrix.dtype)
    result.data, result.indices = matrix.data[order], matrix.indices[order].astype(index_dtype)
    result.indptr = matrix.indptr.astype(index_dtype)
    return result


def in_parts(matrix, dtype=None):
    """Store every entry as several parts of 1, in random order."""
    matrix = sparse.csr_matrix(matrix)
    times = matrix.data.astype(int)
    rows = np.repeat(np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), times)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=matrix.shape[0]))]).astype(np.int32)
    result = sparse.csr_matrix(matrix.shape, dtype=dtype or matrix.dtype)
    result.data, result.indptr = np.ones(len(rows), dtype=dtype or matrix.dtype), indptr
    result.indices = np.repeat(matrix.indices, times)
    return shuffled_within(result)


def shuffled_within(matrix):
    rng = np.random.default_rng(2)
    for start, end in zip(matrix.indptr, matrix.indptr[1:], strict=False):
        matrix.indices[start:end] = rng.permutation(matrix.indices[start:end])
    return matrix


def with_zeros(matrix):
    """Add explicit zeros between the entries, in random order."""
    dense = matrix.toarray() + 1
    full = shuffled(sparse.csr_matrix(dense))
    full.data -= 1
    return full


def two_index_types(matrix):
    result = shuffled(matrix)
    result.indptr = result.indptr.astype(np.int64)
    return result


def unsorted_csc(matrix):
    transposed = shuffled(matrix.T.tocsr())
    result = sparse.csc_matrix(matrix.shape, dtype=matrix.dtype)
    result.data, result.indices, result.indptr = transposed.data, transposed.indices, transposed.indptr
    return result


FORMS = {
    "sorted": sparse.csr_matrix,
    "unsorted": shuffled,
    "unsorted int64 indices": lambda matrix: shuffled(matrix, np.int64),
    "unsorted, two index types": two_index_types,
    "unsorted int32 counts": lambda matrix: shuffled(matrix.astype(np.int32)),
    "unsorted float64 counts": lambda matrix: shuffled(matrix.astype(np.float64)),
    "unsorted csr_array": lambda matrix: sparse.csr_array(shuffled(matrix)),
    "parts": in_parts,
    "parts of one byte": lambda matrix: in_parts(matrix, np.int8),
    "explicit zeros": with_zeros,
    "csc": sparse.csc_matrix,
    "unsorted csc": unsorted_csc,
    "dense": lambda matrix: matrix.toarray(),
    "dense int64": lambda matrix: matrix.toarray().astype(np.int64),
}
UNEVEN = ["unsorted", "parts", "unsorted, two index types", "unsorted csc", "dense"]
every_form = pytest.mark.parametrize("form", FORMS)
some_forms = pytest.mark.parametrize("form", UNEVEN)
pytestmark = pytest.mark.filterwarnings("ignore:Training will be faster when sparse matrix:UserWarning")


def mark(matrix):
    """Bytes, types and shapes of a matrix, which must not change."""
    arrays = [matrix.data, matrix.indices, matrix.indptr] if sparse.issparse(matrix) else [np.asarray(matrix)]
    return type(matrix), [
        (str(array.dtype), array.shape, hashlib.sha1(array.tobytes()).hexdigest()) for array in arrays
    ]


class Unchanged:
    """Context manager that checks that a matrix does not change."""

    def __init__(self, *matrices):
        self.matrices, self.before = matrices, [mark(each) for each in matrices]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if error[0] is None:
            assert [mark(each) for each in self.matrices] == self.before


def in_form(form, adata=None, layer=None):
    adata = cells() if adata is None else adata
    matrix = FORMS[form](adata.X)
    if layer is None:
        adata.X = matrix
    else:
        adata.layers[layer] = matrix
        adata.X = np.zeros(adata.shape, dtype=np.float32)
    return adata, matrix


def fit(adata, **setup):
    scvi.settings.seed = 0
    SCSiameseClu.setup_anndata(adata, n_neighbors=6, **setup)
    model = SCSiameseClu(adata, n_embedding_genes=30, **SIZE)
    model.train(**TRAIN)
    return model


def close(first, second):
    np.testing.assert_allclose(first, second, rtol=2e-3, atol=2e-3)


@pytest.fixture(scope="module")
def reference():
    return fit(cells(), batch_key="batch")


# -- reading -----------------------------------------------------------------------------------------------------


@every_form
def test_blocks_are_canonical_read_only_and_the_same_counts(form):
    adata, matrix = in_form(form)
    truth = cells().X.toarray()
    with Unchanged(matrix):
        blocks = [block for _, block in row_chunks(matrix, 50)]
        for block in blocks:
            if sparse.issparse(block):
                fresh = sparse.csr_matrix((block.data.copy(), block.indices.copy(), block.indptr.copy()), block.shape)
                assert fresh.has_canonical_format and block.indices.dtype == block.indptr.dtype
                block.log1p(), block.multiply(block), block.sum_duplicates(), block.sort_indices()
            array = block.data if sparse.issparse(block) else block
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
        dense = np.concatenate([block.toarray() if sparse.issparse(block) else block for block in blocks])
        np.testing.assert_array_equal(dense, truth)
        np.testing.assert_array_equal(totals(matrix)[1], truth.sum(axis=0, dtype=np.float64))
        rows = row_reader(matrix, np.float32)(np.array([5, 0, 5]))
        np.testing.assert_array_equal(rows, truth[[5, 0, 5]])
        copy = canonical_copy(matrix)
        if sparse.issparse(matrix):
            held = DeviceSparseRows(matrix, np.float32, torch.device("cpu"))
            np.testing.assert_array_equal(held(torch.tensor([5, 0, 5])).numpy(), truth[[5, 0, 5]])
            copy = copy.data
        copy[...] = 0


def test_parts_beyond_their_integer_type_count_as_their_sum():
    matrix = sparse.csr_matrix((1, 2), dtype=np.int8)
    matrix.data, matrix.indices = np.full(300, 1, dtype=np.int8), np.zeros(300, dtype=np.int32)
    matrix.indptr = np.array([0, 300], dtype=np.int32)
    assert next(row_chunks(matrix))[1].toarray().tolist() == [[300, 0]]
    of_bool = sparse.csr_matrix((1, 2), dtype=bool)
    of_bool.data, of_bool.indices, of_bool.indptr = np.ones(300, dtype=bool), matrix.indices, matrix.indptr
    assert next(row_chunks(of_bool))[1].toarray().tolist() == [[300, 0]]


def test_blocks_of_dask_arrays_are_computed():
    dask = pytest.importorskip("dask.array")
    truth = cells().X
    lazy = dask.from_array(truth.toarray(), chunks=(50, 50))
    of_sparse = lazy.map_blocks(sparse.csr_matrix)
    for counts in (lazy, of_sparse):
        blocks = [block.toarray() if sparse.issparse(block) else block for _, block in row_chunks(counts, 50)]
        np.testing.assert_array_equal(np.concatenate(blocks), truth.toarray())


def damaged(matrix, what):
    matrix = matrix.copy()
    if what == "column":
        matrix.indices[7] = matrix.shape[1] + 3
    elif what == "negative column":
        matrix.indices[7] = -2
    elif what == "unsorted column":
        matrix = shuffled(matrix)
        matrix.indices[0] = 10**6
    elif what == "pointer":
        matrix.indptr[3] = matrix.indptr[-1] + 5
    elif what == "last pointer":
        matrix.indptr[-1] += 4
    elif what == "csc row":
        matrix = matrix.tocsc()
        matrix.indices[7] = matrix.shape[0] + 3
    return matrix


@pytest.mark.parametrize("what", ["column", "negative column", "unsorted column", "pointer", "last pointer", "csc row"])
def test_a_damaged_matrix_is_refused_before_compiled_code_follows_it(what, reference):
    adata = cells()
    adata.X = damaged(adata.X, what)
    with pytest.raises(ValueError, match=r"^Expected .*the matrix is damaged"):
        check_counts(adata.X)
    with pytest.raises(ValueError, match="the matrix is damaged"):
        SCSiameseClu.setup_anndata(adata)
    with pytest.raises(ValueError, match="the matrix is damaged"):
        reference.predict(adata)
    with pytest.raises(ValueError, match="the matrix is damaged"):
        ssc.tl.cluster(adata, n_clusters=3, n_top_genes=20)


def test_a_damaged_mapped_matrix_is_refused(tmp_path):
    cells().write_h5ad(tmp_path / "cells.h5ad")
    ssc.pp.write_mapped(tmp_path / "cells.h5ad", tmp_path / "mapped")
    numbers = np.memmap(tmp_path / "mapped" / "indices.bin", dtype=np.int32, mode="r+")
    numbers[-1] = 10**6
    numbers.flush()
    with pytest.raises(ValueError, match="column numbers from 0 to 49 .* found 1000000"):
        SCSiameseClu.setup_anndata(ssc.pp.read_mapped(tmp_path / "mapped"))


def test_damage_is_named_in_the_block_where_it_is():
    matrix = as_csr(cells().X)
    matrix.indices[matrix.indptr[100]] = 77
    with pytest.raises(ValueError, match="found 77 .in the block that begins at row 90"):
        list(row_chunks(matrix, 30))


# -- the model ---------------------------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("layer", [None, "raw"])
def test_set_up_and_fit(form, layer, reference):
    adata, matrix = in_form(form, layer=layer)
    with Unchanged(matrix):
        model = fit(adata, batch_key="batch", layer=layer)
        model.predict(), model.get_normalized_expression(gene_list=["gene3"]), model.get_out_of_reference_score()
        model.write_to_adata()
    kept = adata.X if layer is None else adata.layers[layer]
    kept = canonical_copy(kept)  # scipy's toarray overflows if the parts have one byte
    np.testing.assert_array_equal(kept.toarray() if sparse.issparse(kept) else kept, cells().X.toarray())
    close(model.get_latent_representation(), reference.get_latent_representation())
    assert (model.predict() == reference.predict()).mean() > 0.98


@every_form
def test_new_cells(form, reference, tmp_path):
    expected = reference.predict(cells(1), soft=True)
    adata, matrix = in_form(form, cells(1))
    with Unchanged(matrix):
        close(reference.predict(adata, soft=True), expected)
    adata, matrix = in_form(form, cells(1))
    with Unchanged(matrix):
        query = SCSiameseClu.load_query_data(adata, reference)
        close(query.predict(soft=True), expected)
    extra = cells(1)
    wider = anndata.AnnData(sparse.hstack([extra.X, extra.X[:, :2]]).tocsr()[:, ::-1], obs=extra.obs)
    wider.var_names = ["other1", "other2", *extra.var_names[::-1]]
    wider, matrix = in_form(form, wider)
    with Unchanged(matrix):
        close(SCSiameseClu.load_query_data(wider, reference).predict(soft=True), expected)


@some_forms
def test_saved_and_loaded(form, reference, tmp_path):
    reference.save(tmp_path / "model")
    adata, matrix = in_form(form)
    with Unchanged(matrix):
        loaded = SCSiameseClu.load(tmp_path / "model", adata=adata)
        close(loaded.get_latent_representation(), reference.get_latent_representation())


@some_forms
@pytest.mark.parametrize("n_top_genes", [None, 30])
def test_one_call(form, n_top_genes):
    def run(adata):
        scvi.settings.seed = 0
        options = {"n_top_genes": n_top_genes, "n_neighbors": 6, "train_kwargs": TRAIN}
        ssc.tl.cluster(adata, 3, batch_key="batch", model_kwargs={"n_latent": 4, "n_hidden": 16}, **options)
        return adata.obsm["X_siamese_clu"]

    adata, matrix = in_form(form)
    with Unchanged(matrix):
        close(run(adata), run(cells()))


@some_forms
def test_preprocessing_graph_and_annotation(form):
    expected, markers = cells(), {"one": ["gene1", "gene2"], "two": ["gene5", "gene6"]}
    graph = ssc.pp.neighbor_graph(expected, 6)
    scores = ssc.tl.annotate(expected, markers, "cell_type")
    adata, matrix = in_form(form)
    with Unchanged(matrix):
        np.testing.assert_array_equal(ssc.pp.neighbor_graph(adata, 6).indices, graph.indices)
        close(ssc.tl.annotate(adata, markers, "cell_type")["score"], scores["score"])
        done = ssc.pp.preprocess(adata, n_top_genes=30, copy=True)
    assert done.obsm["X_pca"].shape[0] == 120


@some_forms
def test_graph_of_scanpy_and_sparse_representation(form):
    adata = cells()
    sc.pp.pca(adata, n_comps=5)
    sc.pp.neighbors(adata, 8, use_rep="X_pca")
    adata.obsm["sparse"] = FORMS[form](sparse.csr_matrix(np.abs(adata.obsm["X_pca"]).round()))
    if form not in ("dense", "unsorted csc"):
        # A graph of scanpy is the same graph if the entries of a row are in another order.
        weights = adata.obsp["connectivities"]
        adata.obsp["connectivities"] = two_index_types(weights) if "types" in form else shuffled(weights)
    with Unchanged(adata.obsp["connectivities"], adata.obsm["sparse"]):
        mine = ssc.pp.neighbor_graph(adata.copy(), 5, neighbors_key="neighbors")
        SCSiameseClu.setup_anndata(adata, use_rep="sparse", neighbors_key="neighbors", n_neighbors=5)
    found = SCSiameseClu(adata, n_clusters=2).adata_manager.get_from_registry(SIAMESE_KEYS.NEIGHBOR_INDEX)
    np.testing.assert_array_equal(found, mine.indices)


@some_forms
def test_mudata(form):
    def run(rna):
        rng = np.random.default_rng(0)
        protein = anndata.AnnData(rng.poisson(5.0, (rna.n_obs, 6)).astype(np.float32))
        protein.obs_names = rna.obs_names
        protein.var_names = [f"protein{i}" for i in range(6)]
        protein.X = protein.X if form == "dense" else FORMS[form](sparse.csr_matrix(protein.X))
        mdata = MuData({"rna": rna, "protein": protein})
        scvi.settings.seed = 0
        with Unchanged(rna.X, protein.X):
            modalities = {"rna_layer": "rna", "protein_layer": "protein"}
            SCSiameseClu.setup_mudata(mdata, modalities=modalities, n_neighbors=6)
            model = SCSiameseClu(mdata, **SIZE)
            model.train(**TRAIN)
            return model.get_latent_representation()

    close(run(in_form(form)[0]), run(cells()))


@pytest.mark.parametrize("form", ["unsorted", "parts", "explicit zeros"])
def test_from_disk(form, tmp_path, reference):
    adata, matrix = in_form(form)
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    before = hashlib.sha1(path.read_bytes()).hexdigest()
    close(fit(anndata.read_h5ad(path, backed="r"), batch_key="batch").get_latent_representation(),
          reference.get_latent_representation())  # fmt: skip
    mapped = ssc.pp.write_mapped(path, tmp_path / "mapped")
    np.testing.assert_array_equal(mapped.X.toarray(), cells().X.toarray())
    assert sparse.csr_matrix((mapped.X.data, mapped.X.indices, mapped.X.indptr), mapped.shape).has_canonical_format
    close(fit(mapped, batch_key="batch").get_latent_representation(), reference.get_latent_representation())
    assert hashlib.sha1(path.read_bytes()).hexdigest() == before


@pytest.mark.parametrize("form", ["unsorted", "parts"])
def test_command_line(form, tmp_path):
    results = {}
    for name in ("sorted", form):
        adata, matrix = in_form(name)
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        fast = ["--max-epochs", "2", "--accelerator", "cpu", "--n-neighbors", "6", "--n-clusters", "3"]
        out = tmp_path / f"{name}_out"
        assert main(["fit", str(tmp_path / f"{name}.h5ad"), "--out", str(out), "--n-top-genes", "30", *fast]) == 0
        with Unchanged(matrix):
            written = anndata.read_h5ad(out / "clustered.h5ad").X
            np.testing.assert_array_equal(written.toarray(), cells().X.toarray())
        results[name] = np.load(out / "embedding.npy")
        assert json.loads((out / "metrics.json").read_text())["n_cells"] == 120
    close(results["sorted"], results[form])


# -- the order of the genes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["selected", "concatenated", "sorted again"])
def test_order_of_genes_changes_nothing(how, reference):
    adata, order = cells(), np.random.default_rng(3).permutation(50)
    if how == "concatenated":
        # anndata moves the genes of the second file to the order of the first file in place, which leaves them
        # unsorted.
        permuted = anndata.concat([adata[:60, order].copy(), adata[60:, order[::-1]].copy()])
    else:
        permuted = adata[:, order].copy()
    if how == "sorted again":
        permuted.X.sort_indices()
    with Unchanged(permuted.X):
        model = fit(permuted, batch_key="batch")
    np.testing.assert_allclose(
        model.get_latent_representation(), reference.get_latent_representation(), rtol=1e-5, atol=1e-5
    )
    names = list(adata.var_names[:10])
    one, other = (each.get_normalized_expression(gene_list=names) for each in (model, reference))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)
    assert (model.predict() == reference.predict()).all()


def test_names_of_a_query_that_nearly_match(reference):
    def renamed(change, n=50):
        query = cells(1)
        query.var_names = [change(name) if i < n else name for i, name in enumerate(query.var_names)]
        return query

    for change, what in ((str.upper, "upper and lower case"), ("{}.7".format, "the version suffix")):
        with pytest.raises(ValueError, match=f"found none of them among .* 50 more would match without {what} "):
            SCSiameseClu.load_query_data(renamed(change), reference)
        with pytest.warns(UserWarning, match=f"found 30 of its 50. 20 more would match without {what} "):
            SCSiameseClu.load_query_data(renamed(change, 20), reference)
    with pytest.raises(ValueError, match="more would match without case and version suffix"):
        SCSiameseClu.load_query_data(renamed(lambda name: name.upper() + ".7"), reference)
    query = cells(1)
    query.var_names = ["gene0", *query.var_names[:-1]]
    with pytest.raises(ValueError, match="Expected unique gene names, found 1 more than once .gene0"):
        SCSiameseClu.load_query_data(query, reference)


def test_names_that_match_give_no_warning(reference, recwarn):
    SCSiameseClu.load_query_data(cells(1)[:, ::-1].copy(), reference)
    assert not [each for each in recwarn if "would match" in str(each.message)]


def test_unsorted_blocks_are_not_copied_without_need():
    matrix = cells().X
    block = next(row_chunks(matrix))[1]
    assert np.shares_memory(block.data, matrix.data) and np.shares_memory(block.indices, matrix.indices)
    assert not np.shares_memory(canonical_copy(matrix).data, matrix.data)


# -- narrow integers, damage and files: where other packages read or sum first ------------------------------------


def three_hundred(dtype):
    """One entry stored as 300 parts of a narrow integer type, and a column of explicit zeros."""
    matrix = sparse.csr_matrix((4, 3), dtype=dtype)
    matrix.data = np.tile(np.append(np.ones(300), 0).astype(dtype), 4)
    matrix.indices = np.tile(np.append(np.ones(300), 0).astype(np.int32), 4)
    matrix.indptr = (np.arange(5) * 301).astype(np.int32)
    return matrix


@pytest.mark.parametrize("dtype", [np.int8, bool])
def test_parts_of_a_narrow_type_on_disk_and_in_tables(dtype, tmp_path):
    truth = np.tile([0.0, 300.0, 0.0], (4, 1))
    adata = anndata.AnnData(three_hundred(dtype))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    stored = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    np.testing.assert_array_equal(row_reader(stored.X, np.float32)(np.array([3, 0, 3])), truth[:3])
    mapped = ssc.pp.write_mapped(tmp_path / "cells.h5ad", tmp_path / "mapped")
    np.testing.assert_array_equal(mapped.X.toarray(), truth)
    np.testing.assert_array_equal(read_proteins(adata, None)[0], truth)
    adata.obsm["sparse"] = three_hundred(dtype)
    np.testing.assert_array_equal(obsm_rep(adata, "sparse"), truth)


def test_edges_of_scanpy_in_parts_are_their_sum():
    adata = cells()
    sc.pp.pca(adata, n_comps=5)
    sc.pp.neighbors(adata, 8, use_rep="X_pca")
    whole = ssc.pp.neighbor_graph(adata, 5, neighbors_key="neighbors")
    weights = adata.obsp["connectivities"].copy()
    halves = sparse.csr_matrix(weights.shape, dtype=weights.dtype)
    halves.data, halves.indices = np.repeat(weights.data / 2, 2), np.repeat(weights.indices, 2)
    halves.indptr = weights.indptr * 2
    adata.obsp["connectivities"] = halves
    with Unchanged(halves):
        in_halves = ssc.pp.neighbor_graph(adata, 5, neighbors_key="neighbors")
    np.testing.assert_array_equal(in_halves.indices, whole.indices)
    np.testing.assert_array_equal(in_halves.weights, whole.weights)
    damaged_graph = weights.tocsc()
    damaged_graph.indices[3] = 10**8
    adata.obsp["connectivities"] = damaged_graph
    with pytest.raises(ValueError, match="row numbers from 0 to 119 .* found 100000000"):
        ssc.pp.neighbor_graph(adata, 5, neighbors_key="neighbors")


@pytest.mark.parametrize("what", ["column", "pointer", "csc row", "layer"])
def test_a_damaged_query_is_refused_before_its_genes_are_put_in_order(what, reference):
    query = cells(1)[:, ::-1].copy()
    if what == "layer":
        query.layers["other"] = damaged(query.X, "column")
    else:
        query.X = damaged(query.X, what)
    with pytest.raises(ValueError, match="the matrix is damaged"):
        SCSiameseClu.load_query_data(query, reference)
    with pytest.raises(ValueError, match="the matrix is damaged"):
        SCSiameseClu.prepare_query_anndata(query, reference)


def test_rows_and_columns_are_read_from_checked_pointers():
    with pytest.raises(ValueError, match="the matrix is damaged"):
        row_reader(damaged(cells().X, "pointer"), np.float32)
    by_column = cells().X.tocsc()
    by_column.indptr[3] = by_column.indptr[-1] + 5
    with pytest.raises(ValueError, match="ascending pointers .* CSC matrix"):
        check_counts(by_column)


@pytest.mark.parametrize("form", ["sorted", "unsorted", "csc"])
def test_numbers_beyond_the_last_pointer_are_no_entries(form):
    matrix = FORMS[form](cells().X).copy()
    matrix.data, matrix.indices = np.append(matrix.data, 9.0), np.append(matrix.indices, 10**6).astype(np.int32)
    np.testing.assert_array_equal(canonical_copy(matrix).toarray(), cells().X.toarray())
    np.testing.assert_array_equal(next(row_chunks(matrix))[1].toarray(), cells().X.toarray())


@pytest.mark.parametrize("dense", [True, False])
def test_preprocessing_leaves_a_file_alone(dense, tmp_path):
    adata = cells()
    adata.X = adata.X.toarray() if dense else adata.X
    adata.write_h5ad(tmp_path / "cells.h5ad")
    stored = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r+")
    with pytest.raises(NotImplementedError, match=r"in memory, found a backed AnnData; call adata.to_memory\(\) first"):
        ssc.pp.preprocess(stored, 20)
    stored.file.close()
    kept = anndata.read_h5ad(tmp_path / "cells.h5ad").X
    np.testing.assert_array_equal(kept if dense else kept.toarray(), cells().X.toarray())


@pytest.mark.parametrize("joint", [False, True])
def test_representation_is_computed_in_the_order_of_names(joint):
    def representation(order):
        rna = cells()[:, order].copy()
        if not joint:
            ssc.pp.neighbor_graph(rna, 6)
            genes = rna.uns[ADATA_KEYS.NEIGHBORS]["projection"]["gene_indices"]
            assert list(rna.var_names[genes]) == sorted(rna.var_names[genes])
            return rna.obsm[ADATA_KEYS.GRAPH_REP]
        protein = anndata.AnnData(np.random.default_rng(0).poisson(5.0, (rna.n_obs, 6)).astype(np.float32))
        protein.obs_names = rna.obs_names
        mdata = MuData({"rna": rna, "protein": protein})
        SCSiameseClu.setup_mudata(mdata, modalities={"rna_layer": "rna", "protein_layer": "protein"}, n_neighbors=6)
        return SCSiameseClu(mdata, n_clusters=2).adata_manager.get_from_registry(SIAMESE_KEYS.GRAPH_REP)

    permuted = np.random.default_rng(3).permutation(50)
    np.testing.assert_array_equal(representation(permuted), representation(np.arange(50)))


@pytest.mark.parametrize("n_genes", [20, 50, 80])
def test_genes_of_the_embedding_are_in_the_order_given(n_genes):
    adata = cells()
    order = name_order(adata.var_names)
    genes = ExpressionStatistics.from_counts(adata.X).most_variable(n_genes, order)
    assert len(genes) == min(n_genes, 50)
    assert list(genes) == [gene for gene in order if gene in genes]
