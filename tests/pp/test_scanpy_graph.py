"""Graphs of scanpy."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from scsiameseclu.pp import graph_from_scanpy


def test_strongest_edges_of_scanpy(counts_adata):
    sc.pp.pca(counts_adata, n_comps=5)
    sc.pp.neighbors(counts_adata, n_neighbors=8, key_added="mine")
    graph = graph_from_scanpy(counts_adata, "mine", 5)
    reference = counts_adata.obsp["mine_connectivities"].toarray()
    np.testing.assert_allclose(graph.weights, -np.sort(-reference, axis=1)[:, :5], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(reference, graph.indices, axis=1), graph.weights, rtol=1e-5)


def test_wide_enough_tables_reproduce_the_graph(counts_adata):
    sc.pp.pca(counts_adata, n_comps=5)
    sc.pp.neighbors(counts_adata, n_neighbors=8)
    reference = counts_adata.obsp["connectivities"].toarray()
    graph = graph_from_scanpy(counts_adata, "neighbors", 119)
    np.testing.assert_allclose(graph.connectivities().toarray(), reference, rtol=1e-5)


def test_self_loops_ties_scale_and_isolated_cells():
    adata = ad.AnnData(np.ones((4, 1)))
    adata.obsp["connectivities"] = sparse.csr_matrix([[9.0, 2, 2, 4], [2, 0, 0, 0], [2, 0, 0, 0], [4, 0, 0, 0]])
    adata.uns["g"] = {}
    graph = graph_from_scanpy(adata, "g", 2)
    np.testing.assert_array_equal(graph.indices, [[3, 1], [0, 1], [0, 2], [0, 3]])
    np.testing.assert_allclose(graph.weights, [[1, 0.5], [0.5, 0], [0.5, 0], [1, 0]])
    adata.obsp["connectivities"] = sparse.csr_matrix((4, 4))
    assert not graph_from_scanpy(adata, "g", 2).is_edge.any()


def test_invalid_graphs():
    adata = ad.AnnData(np.ones((2, 1)))
    adata.uns["g"] = {"connectivities_key": "c"}
    with pytest.raises(KeyError, match=r"obsp\['c'\]"):
        graph_from_scanpy(adata, "g", 1)
    adata.obsp["c"] = sparse.csr_matrix([[0.0, -1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="at least 0"):
        graph_from_scanpy(adata, "g", 1)
