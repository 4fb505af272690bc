"""Make the pictures of the pages from the bundled blood cells: ``python docs/make_pictures.py``, a few minutes."""

from pathlib import Path

import numpy as np
import scanpy as sc
import scvi
from anndata import AnnData
from matplotlib.figure import Figure

import scsiameseclu as ssc
from scsiameseclu import SCSiameseClu

STATIC = Path(__file__).parent / "_static"
DPI = 75
MARKERS = {
    "T cell": ["CD3D", "CD3E", "IL7R"],
    "CD8 T or NK": ["CD8A", "NKG7", "GNLY"],
    "B cell": ["CD79A", "MS4A1"],
    "monocyte": ["CD14", "LYZ", "FCGR3A"],
    "dendritic cell": ["FCER1A", "CST3"],
    "platelet": ["PPBP", "PF4"],
}


def clustered(cells: AnnData) -> SCSiameseClu:
    """Cluster cells with the default settings and a fixed seed."""
    scvi.settings.seed = 0
    return ssc.tl.cluster(cells, train_kwargs={"accelerator": "cpu", "enable_progress_bar": False})


def of_quality() -> dict[str, Figure]:
    """Counts, genes and mitochondrial counts of every cell, as on the page on quality control."""
    adata = ssc.datasets.pbmc3k()
    adata.var["mt"] = adata.var_names.str.upper().str.startswith("MT-")
    sc.pp.calculate_qc_metrics(adata, qc_vars=["mt"], percent_top=None, log1p=False, inplace=True)
    measures = ["total_counts", "n_genes_by_counts", "pct_counts_mt"]
    return {"quality": sc.pl.violin(adata, measures, multi_panel=True, show=False).figure}


def of_some_labels() -> dict[str, Figure]:
    """Confidences of cell types that are predicted from the labels of one cell in twenty."""
    adata = ssc.datasets.pbmc3k()
    clustered(adata)
    has_label = np.random.default_rng(0).random(adata.n_obs) < 0.05
    adata.obs["partial_labels"] = adata.obs["cell_type"].where(has_label)
    probabilities = ssc.tl.classify(adata, "partial_labels")[~has_label]
    is_right = probabilities.idxmax(axis=1) == adata.obs["cell_type"][~has_label].astype(str)
    return {
        "reliability": ssc.pl.reliability(probabilities.max(axis=1), is_right, return_fig=True),
    }


def of_one_data_set() -> dict[str, Figure]:
    """Clusters of the bundled blood cells."""
    adata = ssc.datasets.pbmc3k()
    model = clustered(adata)
    colors = ["siamese_clu", "siamese_clu_confidence", "cell_type"]
    return {
        "embedding": ssc.pl.embedding(adata, colors, return_fig=True),
        "split_evidence": ssc.pl.split_evidence(model, return_fig=True),
        "n_clusters_search": ssc.pl.n_clusters_search(model, return_fig=True),
        "cluster_tree": ssc.pl.cluster_tree(model, genes=2, return_fig=True),
        "marker_dotplot": ssc.pl.marker_dotplot(adata, MARKERS, return_fig=True),
        "annotation_overlap": ssc.pl.annotation_overlap(adata, "cell_type", return_fig=True),
        "sankey": ssc.pl.sankey(adata, "cell_type", return_fig=True),
        "confidence": ssc.pl.confidence(adata, return_fig=True),
        "training_curves": ssc.pl.training_curves(model, return_fig=True),
    }


def of_a_query() -> dict[str, Figure]:
    """A random fifth of the cells mapped to the other cells, without B cells in the reference."""
    adata = ssc.datasets.pbmc3k()
    is_new = np.random.default_rng(0).random(adata.n_obs) < 0.2
    reference = adata[~is_new & (adata.obs["cell_type"] != "B").to_numpy()].copy()
    query = adata[is_new].copy()
    ssc.tl.map(query, clustered(reference))
    return {
        "query_on_reference": ssc.pl.query_on_reference(query, reference, return_fig=True),
        "out_of_reference": ssc.pl.out_of_reference(query, return_fig=True),
    }


def main() -> None:
    """Write every picture into the folder of static files."""
    for name, figure in {**of_quality(), **of_one_data_set(), **of_some_labels(), **of_a_query()}.items():
        figure.savefig(STATIC / f"{name}.png", dpi=DPI, bbox_inches="tight")


if __name__ == "__main__":
    main()
