"""Types that should be separate clusters, on real data with the defaults; labels are used only for this check."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from sklearn.metrics import adjusted_rand_score

import scsiameseclu as ssc

pytestmark = pytest.mark.slow
SILENT = {"accelerator": "cpu", "enable_progress_bar": False}


def check_apart(clusters, types):
    """Each of these blood types has a separate cluster that consists mostly of this type."""
    shares = pd.crosstab(clusters, types, normalize="index")
    main = pd.crosstab(types, clusters).idxmax(axis=1)
    apart = ["NK", "CD8 T", "B", "CD14+ Mono", "FCGR3A+ Mono", "DC", "Platelet"]
    assert main[apart].nunique() == len(apart)
    assert all(shares.loc[main[name], name] > 0.7 for name in apart)


@pytest.fixture
def fitted(data_dir):
    """Clusters and types of the labelled cells of a data set."""

    def fit(name, n_clusters):
        adata = ad.read_h5ad(data_dir / f"{name}.h5ad")
        types = adata.obs.pop("cell_type").astype("object")
        scvi.settings.seed = 0
        ssc.tl.cluster(adata, n_clusters, train_kwargs=SILENT)
        known = types.notna().to_numpy()
        return adata.obs["siamese_clu"].astype(str).to_numpy()[known], types.to_numpy()[known].astype(str)

    return fit


def test_types_of_the_demo_are_apart():
    adata = ssc.datasets.pbmc3k()
    types = adata.obs.pop("cell_type").astype(str).to_numpy()
    scvi.settings.seed = 0
    ssc.tl.cluster(adata, n_clusters=9, train_kwargs=SILENT)
    clusters = adata.obs["siamese_clu"].astype(str).to_numpy()
    check_apart(clusters, types)


def test_narrow_types_of_the_human_pancreas_are_apart(fitted):
    clusters, types = fitted("baron_human_pancreas_3607", 14)
    assert adjusted_rand_score(types, clusters) > 0.9
    main = pd.crosstab(types, clusters).idxmax(axis=1)
    apart = ["beta", "delta", "gamma", "ductal"]
    assert main[apart].nunique() == len(apart)


def test_types_of_blood_are_apart_without_a_given_number(fitted):
    clusters, types = fitted("pbmc3k_seurat_labels", "auto")
    check_apart(clusters, types)
    assert 6 <= len(np.unique(clusters)) <= 12
