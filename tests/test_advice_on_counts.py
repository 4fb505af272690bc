"""Every warning about values that are not counts says where counts are found, and what to type."""

import mudata
import numpy as np
import pytest
import scvi
from mudata_options import without_columns_of_modalities

from scsiameseclu import SCSiameseClu, pp, tl
from scsiameseclu.datasets import synthetic

QUICK = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
MARKERS = {"a": ["gene0", "gene1"], "b": ["gene2", "gene3"]}


def cells(place=None, n_obs=60):
    """Logarithms in ``X``; counts in a layer, in ``raw``, or nowhere."""
    adata = synthetic(n_obs=n_obs, n_vars=40, n_types=2)
    adata.obs["siamese_clu"] = adata.obs["cell_type"]
    adata.var_names = [f"gene{number}" for number in range(40)]
    if place == "layer":
        adata.layers["raw_counts"] = adata.X.copy()
    if place == "raw":
        adata.raw = adata.copy()
    adata.X = np.log1p(adata.X)
    return adata


@pytest.fixture(scope="module")
def model():
    scvi.settings.seed = 0
    adata = cells("layer")
    adata.X = adata.layers.pop("raw_counts")
    SCSiameseClu.setup_anndata(adata, n_neighbors=5)
    model = SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)
    model.train(**QUICK)
    return model


SETS_UP = {
    "tl.cluster": lambda adata: tl.cluster(adata, 2, key_added="new", train_kwargs=QUICK),
    "tl.cluster, some genes": lambda adata: tl.cluster(adata, 2, key_added="new", n_top_genes=20, train_kwargs=QUICK),
    "setup_anndata": SCSiameseClu.setup_anndata,
    "neighbor_graph": pp.neighbor_graph,
    "markers": tl.markers,
    "annotate": lambda adata: tl.annotate(adata, MARKERS),
}
MEETS = {
    "tl.map": lambda adata, model: tl.map(adata, model, "new"),
    "tl.map, another order": lambda adata, model: tl.map(adata[:, ::-1].copy(), model, "new"),
    "tl.map, a gene missing": lambda adata, model: tl.map(adata[:, 1:].copy(), model, "new"),
    "predict": lambda adata, model: model.predict(adata),
    "load_query_data": lambda adata, model: SCSiameseClu.load_query_data(adata, model),
}
IN_RAW = "Whole numbers are in raw (adata.raw.to_adata() has these numbers in X)."
NOWHERE = "Neither the layers nor raw hold whole numbers"


def warning_of(call):
    """The only warning about counts."""
    with pytest.warns(UserWarning, match="Expected raw integer counts") as caught:
        call()
    (message,) = {str(each.message) for each in caught if "raw integer counts" in str(each.message)}
    assert not any("raw` attribute" in str(each.message) for each in caught)  # the search for counts gives no warnings
    return message


@pytest.mark.parametrize("entrance", SETS_UP)
def test_a_set_up_takes_a_layer(entrance):
    call = SETS_UP[entrance]
    layer = "Whole numbers are in layers['raw_counts'] (layer='raw_counts')."
    for place, advice in (("layer", layer), ("raw", IN_RAW), (None, NOWHERE)):
        assert advice in warning_of(lambda place=place: call(cells(place)))


@pytest.mark.parametrize("entrance", MEETS)
def test_a_model_reads_what_it_was_set_up_with(model, entrance):
    call = MEETS[entrance]
    layer = "Whole numbers are in layers['raw_counts'] (adata.X = adata.layers['raw_counts'])."
    for place, advice in (("layer", layer), ("raw", IN_RAW), (None, NOWHERE)):
        assert advice in warning_of(lambda place=place: call(cells(place), model))


def test_a_model_of_a_layer_and_one_of_a_mudata():
    adata = cells("layer")
    SCSiameseClu.setup_anndata(adata, layer="raw_counts", n_neighbors=5)
    model = SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)
    model.train(**QUICK)
    query = cells("layer")
    query.X, query.layers["raw_counts"] = query.layers["raw_counts"], query.X
    assert "are in X (adata.layers['raw_counts'] = adata.X)." in warning_of(lambda: model.predict(query))
    assert "are in X (no layer)." in warning_of(lambda: SCSiameseClu.setup_anndata(query, layer="raw_counts"))

    with without_columns_of_modalities():
        proteins = synthetic(n_obs=60, n_vars=5, n_types=2)
        proteins.var_names = [f"protein{number}" for number in range(5)]
        mdata = mudata.MuData({"rna": cells("layer"), "protein": proteins})
    modalities = {"rna_layer": "rna", "protein_layer": "protein"}
    message = warning_of(lambda: SCSiameseClu.setup_mudata(mdata, modalities=modalities))
    assert "layers['raw_counts'] (rna_layer='raw_counts')." in message
