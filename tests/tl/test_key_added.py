"""Names of results are checked before any computation; results replace only earlier results."""

import anndata as ad
import pytest
import scvi

from scsiameseclu import cli, tl
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu

FAST = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}
BAD = ["a/b", "", " ", "_index", ".", ".."]


def cells():
    return synthetic(n_obs=60, n_vars=30, n_types=2, seed=0)


@pytest.fixture(scope="module")
def model():
    scvi.settings.seed = 0
    adata = cells()
    SCSiameseClu.setup_anndata(adata, n_neighbors=5)
    model = SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)
    model.train(**FAST)
    return model


@pytest.fixture
def no_training(monkeypatch):
    def train(*args, **kwargs):
        raise AssertionError("trained before the name was checked")

    monkeypatch.setattr(SCSiameseClu, "train", train)


@pytest.mark.parametrize("key", BAD)
def test_names_that_files_cannot_hold(model, no_training, tmp_path, capsys, key):
    with pytest.raises(ValueError, match="a name that files can hold"):
        tl.cluster(cells(), n_clusters=2, key_added=key)
    with pytest.raises(ValueError, match="a name that files can hold"):
        model.write_to_adata(key_added=key)
    cells().write_h5ad(tmp_path / "cells.h5ad")
    capsys.readouterr()
    argv = ["fit", str(tmp_path / "cells.h5ad"), "--out", str(tmp_path / "out"), "--key-added", key]
    assert cli.main(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "a name that files can hold" in line
    assert not (tmp_path / "out").exists()


def test_other_types_of_names(model):
    with pytest.raises(TypeError, match="expected text, found 3"):
        model.write_to_adata(key_added=3)


@pytest.mark.parametrize("slot", ["column", "confidence", "table", "record"])
def test_nothing_of_the_user_is_replaced(model, no_training, tmp_path, capsys, slot):
    def taken():
        adata = cells()
        if slot == "column":
            adata.obs["mine"] = "a"
        elif slot == "confidence":
            adata.obs["mine_confidence"] = 1.0
        elif slot == "table":
            adata.obsm["mine_probs"] = adata.X.toarray()
        else:
            adata.uns["mine"] = {"params": {"resolution": 1.0}}  # as scanpy's leiden writes
        return adata

    with pytest.raises(ValueError, match="results named 'mine' would replace"):
        tl.cluster(taken(), n_clusters=2, key_added="mine")
    with pytest.raises(ValueError, match="results named 'mine' would replace"):
        model.write_to_adata(taken(), key_added="mine")
    taken().write_h5ad(tmp_path / "cells.h5ad")
    capsys.readouterr()
    argv = ["fit", str(tmp_path / "cells.h5ad"), "--out", str(tmp_path / "out"), "--key-added", "mine"]
    assert cli.main(argv) == 1
    assert "would replace" in capsys.readouterr().err


@pytest.mark.parametrize("n_top_genes", [None, 20])
def test_earlier_results_are_replaced(tmp_path, n_top_genes):
    adata = cells()
    options = {"n_clusters": 2, "key_added": "mine", "n_top_genes": n_top_genes, "n_neighbors": 5, "train_kwargs": FAST}
    tl.cluster(adata, **options)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    model = tl.cluster(again, **options)
    assert again.obs["mine"].notna().all()
    # The rule also holds for a query whose genes were reordered.
    query = ad.read_h5ad(tmp_path / "cells.h5ad")[:, 1:].copy()
    mapped = SCSiameseClu.load_query_data(query, model, accelerator="cpu")
    mapped.write_to_adata(key_added="mine")
