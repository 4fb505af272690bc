"""Make ``src/scsiameseclu/datasets/pbmc3k.h5ad``, the PBMC 3k set that the package bundles.

    python -m benchmarks.make_pbmc3k ../shared/data/pbmc3k_seurat_labels.h5ad

The input holds the counts of all genes and the labels. The labels are copied, and used for nothing else: genes are
chosen by their variance in the counts (scanpy's ``flavor="seurat_v3"``), and marker genes from the literature are
added.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse

OUT = Path(__file__).resolve().parents[1] / "src" / "scsiameseclu" / "datasets" / "pbmc3k.h5ad"
N_TOP_GENES = 3000
# Marker genes of blood cells from textbooks and tutorials. These genes are kept even if they vary too little.
MARKERS = """
    CD3D CD3E CD3G CD2 IL7R CCR7 LEF1 TCF7 SELL LTB S100A4 CD27 CD4 IL32 CD8A CD8B GZMK CCL5 CCL4 FOXP3 IL2RA CTLA4
    NKG7 GNLY KLRB1 KLRD1 KLRF1 NCAM1 FCGR3A GZMA GZMB GZMH PRF1 XCL1
    MS4A1 CD79A CD79B CD19 CD37 TCL1A MZB1
    CD14 LYZ S100A8 S100A9 S100A12 VCAN FCN1 CST3 MS4A7 CDKN1C LST1 AIF1 CTSS CD68
    FCER1A CLEC10A CD1C IL3RA LILRA4 HLA-DRA HLA-DPB1 HLA-DQA1
    PPBP PF4 GP9 ITGA2B TUBB1 HBA1 MKI67 PTPRC MALAT1 B2M ACTB GAPDH
""".split()
ATTRIBUTION = (
    "Made from '3k PBMCs from a Healthy Donor', Chromium demonstration data by 10x Genomics, licensed under CC BY 4.0 "
    "(https://creativecommons.org/licenses/by/4.0/). Changes: 2,638 cells and the genes listed in var are kept. Cell "
    "types are those of the clustering tutorial of Seurat, through clustifyrdata (MIT licence)."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="all genes, with obs['cell_type']")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    source = anndata.read_h5ad(arguments.source)
    bundled = reduced(source)
    bundled.write_h5ad(arguments.out, compression="gzip", compression_opts=9)
    print(
        f"{arguments.out}: {bundled.n_obs} cells x {bundled.n_vars} genes, {arguments.out.stat().st_size / 1e6:.2f} MB"
    )


def reduced(source: anndata.AnnData) -> anndata.AnnData:
    """Counts of the chosen genes as small integers, with labels and the totals over all genes."""
    counts = sparse.csr_matrix(source.X)
    genes = sc.pp.highly_variable_genes(
        anndata.AnnData(counts, var=source.var[[]]), n_top_genes=N_TOP_GENES, flavor="seurat_v3", inplace=False
    )["highly_variable"].to_numpy()
    genes |= source.var_names.isin(MARKERS)
    chosen = counts[:, genes]
    chosen.sort_indices()
    obs = pd.DataFrame(
        {
            "cell_type": source.obs["cell_type"].astype("category"),
            "n_counts": np.asarray(counts.sum(axis=1)).ravel().astype(np.float32),
        },
        index=source.obs_names,
    )
    uns = {"source": "https://www.10xgenomics.com/datasets/3-k-pbm-cs-from-a-healthy-donor-1-standard-1-1-0"}
    uns |= {"licence": "CC BY 4.0", "attribution": ATTRIBUTION}
    return anndata.AnnData(chosen.astype(np.uint16), obs=obs, var=source.var.loc[genes, []], uns=uns)


if __name__ == "__main__":
    main()
