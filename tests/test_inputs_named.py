"""Errors of plots and tools name the expected input, cells or a model, and list the keys if a key is missing."""

import inspect

import mudata
import numpy as np
import pytest
from anndata import AnnData
from mudata_options import without_columns_of_modalities

from scsiameseclu import SCSiameseClu, pl, tl
from scsiameseclu.datasets import synthetic

LABELS = "cell_type"
REQUIRED = {
    pl.abundance: {"groupby": LABELS},
    pl.annotation_overlap: {"labels_key": LABELS},
    pl.sankey: {"right": LABELS},
    tl.annotate: {"markers": {"a": ["gene_1"]}},
    tl.classify: {"labels_key": LABELS},
    tl.cluster: {"key_added": "new"},
    tl.export: {"path": "never_written.h5ad"},
    tl.marker_overlap: {"labels_key": LABELS, "n_genes": 5},
    tl.subcluster: {"clusters": "0"},
}


def cells() -> AnnData:
    adata = synthetic(n_obs=40, n_vars=20, n_types=2)
    adata.obs["siamese_clu"] = adata.obs[LABELS].cat.rename_categories(str)
    adata.obs["siamese_clu_confidence"] = np.float32(0.9)
    adata.obs["siamese_clu_out_of_reference"] = np.float32(0.5)
    adata.obsm["X_siamese_clu"] = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    adata.obsm["X_two"] = adata.obsm["X_siamese_clu"][:, :2]
    adata.layers["counts"] = adata.X.copy()
    adata.uns["some_neighbors"] = {}
    return adata


@pytest.fixture(scope="module")
def model() -> SCSiameseClu:
    adata = synthetic(n_obs=40, n_vars=20, n_types=2)
    SCSiameseClu.setup_anndata(adata, n_neighbors=5)
    return SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)


def taking(*first: str) -> list:
    """Plots and tools by the name of their first argument."""
    every = [getattr(module, name) for module in (pl, tl) for name in module.__all__]
    functions = [each for each in every if inspect.isfunction(each)]
    return [
        pytest.param(each, id=f"{each.__module__.split('.')[1]}.{each.__name__}")
        for each in functions
        if next(iter(inspect.signature(each).parameters)) in first
    ]


def call(function, first, **changed):
    arguments = {**REQUIRED.get(function, {}), **changed}
    if function is pl.query_on_reference:
        arguments.setdefault("reference", cells())
    if function is tl.map:
        arguments.setdefault("model", None)
    return function(first, **arguments)


def test_all_functions_are_covered():
    known = [*taking("adata", "query"), *taking("model"), *taking("result", "confidence", "store")]
    assert len(known) == len([*pl.__all__, *tl.__all__]) - 1  # StabilityResult is a class


@pytest.mark.parametrize("function", taking("adata", "query"))
def test_what_takes_cells_says_so(function, model):
    with pytest.raises(TypeError, match=r"Expected an AnnData, found SCSiameseClu: pass .*model\.write_to_adata\(\)"):
        call(function, model)
    with without_columns_of_modalities():
        of_two = mudata.MuData({"rna": cells()})
    with pytest.raises(TypeError, match=r"Expected an AnnData, found MuData: .*MuData|mdata"):
        call(function, of_two)
    with pytest.raises(TypeError, match="Expected an AnnData, found DataFrame"):
        call(function, cells().obs)


def test_a_reference_is_cells_too(model):
    with pytest.raises(TypeError, match="Expected an AnnData, found SCSiameseClu"):
        pl.query_on_reference(cells(), model)


@pytest.mark.parametrize("function", taking("model"))
def test_what_takes_a_model_says_so(function):
    with pytest.raises(TypeError, match=r"Expected a trained SCSiameseClu, found AnnData: pass the model"):
        function(cells())


MISSING = [
    (pl.abundance, "groupby", "obs"),
    (pl.abundance, "key", "obs"),
    (pl.annotation_overlap, "labels_key", "obs"),
    (pl.annotation_overlap, "key", "obs"),
    (pl.confidence, "key", "obs"),
    (pl.embedding, "color", "obs"),
    (pl.embedding, "key", "obs"),
    (pl.embedding, "basis", "obsm"),
    (pl.latent_correlation, "use_rep", "obsm"),
    (pl.latent_correlation, "key", "obs"),
    (pl.marker_dotplot, "key", "obs"),
    (pl.marker_dotplot, "layer", "layers"),
    (pl.out_of_reference, "key", "obs"),
    (pl.query_on_reference, "color", "obs"),
    (pl.query_on_reference, "key", "obs"),
    (pl.query_on_reference, "reference_key", "obsm"),
    (pl.query_on_reference, "basis", "obsm"),
    (pl.sankey, "left", "obs"),
    (pl.sankey, "right", "obs"),
    (tl.annotate, "groupby", "obs"),
    (tl.annotate, "layer", "layers"),
    (tl.annotate, "gene_symbols", "var"),
    (tl.classify, "labels_key", "obs"),
    (tl.classify, "use_rep", "obsm"),
    (tl.classify, "reference_rep", "obsm"),
    (tl.cluster, "layer", "layers"),
    (tl.cluster, "batch_key", "obs"),
    (tl.cluster, "use_rep", "obsm"),
    (tl.cluster, "neighbors_key", "uns"),
    (tl.export, "key", "obs"),
    (tl.marker_overlap, "labels_key", "obs"),
    (tl.marker_overlap, "groupby", "obs"),
    (tl.marker_overlap, "layer", "layers"),
    (tl.markers, "key", "obs"),
    (tl.markers, "layer", "layers"),
    (tl.stability, "batch_key", "obs"),
    (tl.subcluster, "key", "obs"),
]
FURTHER = {
    (pl.latent_correlation, "key"): {"between": "cells"},
    (pl.marker_dotplot, "layer"): {"markers": ["gene_1"]},
    (tl.classify, "reference_rep"): {"reference": cells()},
    (tl.export, "key"): {"csv": "never_written.csv"},
}


@pytest.mark.parametrize(("function", "argument", "slot"), MISSING, ids=[f"{f.__name__}-{a}" for f, a, _ in MISSING])
def test_a_missing_key_is_named_with_the_available_ones(function, argument, slot):
    adata = cells()
    with pytest.raises(KeyError) as caught:
        call(function, adata, **{argument: "nothing", **FURTHER.get((function, argument), {})})
    message = str(caught.value)
    assert "nothing" in message
    # The layers of anndata 0.13 have X as `None`.
    assert all(name in message for name in getattr(adata, slot) if name is not None)


def keys_of(function) -> list[str]:
    """Arguments that name something in the data."""
    named = inspect.signature(function).parameters
    ends = ("groupby", "layer", "use_rep", "reference_rep", "basis", "gene_symbols", "color")
    return [name for name in named if (name in ends or name.endswith("key") or name == "key")]


@pytest.mark.parametrize("function", taking("adata", "query"))
def test_no_key_is_left_out_above(function):
    written = {"tl.stability": {"key"}}.get(f"tl.{function.__name__}", set())  # made if there is none
    tested = {argument for each, argument, _ in MISSING if each is function}
    assert set(keys_of(function)) - written <= tested
