"""Results of a command of the command line: the files that it writes, and the text that it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scsiameseclu._keys import UNASSIGNED, confidence_key, latent_key, out_of_reference_key, probs_key

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData


def write_results(adata: AnnData, arguments: argparse.Namespace, new: Path) -> dict[str, Any]:
    """Write labels, embedding and a picture to the folder ``new``; return numbers for ``metrics.json``."""
    import numpy as np
    import pandas as pd

    from scsiameseclu import pl
    from scsiameseclu.tl._export import cell_table, without_internals

    key = arguments.key_added
    labels, confidence = adata.obs[key], adata.obs[confidence_key(key)]
    codes = adata.obsm[probs_key(key)].argmax(axis=1)
    metrics = {
        "n_cells": adata.n_obs,
        "n_genes": adata.n_vars,
        "mean_confidence": round(float(confidence.mean()), 4),
    }
    if arguments.labels_key is not None:
        metrics["scores"] = _score(adata.obs[arguments.labels_key], labels)
    table = pd.DataFrame({"cluster": labels, "confidence": confidence})
    if out_of_reference_key(key) in adata.obs:  # cells mapped to a model
        table["out_of_reference"] = adata.obs[out_of_reference_key(key)]
        codes[(labels == UNASSIGNED).to_numpy()] = -1
    table.to_csv(new / "pred.csv", index_label="cell")
    np.save(new / "pred.npy", codes)
    np.save(new / "embedding.npy", adata.obsm[latent_key(key)])
    colors = [name for name in (key, confidence_key(key), arguments.labels_key) if name is not None]
    pl.embedding(adata, colors, key=key, save=new / "umap.png", return_fig=True)
    cell_table(adata, key).to_csv(new / "embedding.csv", index_label="cell", float_format="%.6g")
    without_internals(adata).write_h5ad(new / "clustered.h5ad", compression="gzip")
    return metrics


def _score(truth: pd.Series, labels: pd.Series) -> dict[str, float]:
    """Agreement of the clusters with the known types, over the cells whose type is known."""
    from scsiameseclu.metrics import clustering_metrics

    known = truth.notna().to_numpy()
    scores = clustering_metrics(truth[known].to_numpy(), labels[known].to_numpy())
    return {name: round(float(score), 4) for name, score in dict[str, Any](scores).items()}


def summary(adata: AnnData, arguments: argparse.Namespace, metrics: Mapping[str, Any], written: Sequence[str]) -> str:
    """A table of the clusters, the scores if there are any, and the paths of the written files."""
    lines = [_cluster_table(adata, arguments.key_added, arguments.labels_key), ""]
    lines.append(f"{metrics['n_cells']} cells, {metrics['n_clusters']} clusters, {metrics['seconds']:.1f} s in all")
    if "n_unassigned" in metrics:
        lines += _mapping_summary(arguments, metrics)
    if "scores" in metrics:
        names = ("acc", "nmi", "ari", "f1_macro")
        scores = "  ".join(f"{name.upper()} {metrics['scores'][name]:.3f}" for name in names)
        lines.append(f"against {arguments.labels_key}, used for nothing else: {scores}")
    lines += ["", "wrote", *(f"  {arguments.out / name}" for name in written)]
    return "\n".join(lines)


def _mapping_summary(arguments: argparse.Namespace, metrics: Mapping[str, Any]) -> list[str]:
    """How many genes of the model the query has, and how many cells were left unassigned."""
    limits = [f"out-of-reference score above {arguments.max_out_of_reference:g}"]
    if arguments.min_confidence is not None:
        limits.append(f"confidence of the cluster below {arguments.min_confidence:g}")
    share = metrics["n_unassigned"] / max(metrics["n_cells"], 1)
    return [
        f"{metrics['n_genes_found']} of the model's {metrics['n_genes_of_model']} genes found",
        f"{metrics['n_unassigned']} cells ({share:.1%}) {UNASSIGNED}: {' or '.join(limits)}",
    ]


def _cluster_table(adata: AnnData, key: str, labels_key: str | None) -> str:
    import numpy as np
    import pandas as pd

    groups = adata.obs.groupby(key, observed=False)
    table = pd.DataFrame({"cells": groups.size()})
    table["share"] = (table["cells"] / adata.n_obs).map("{:.1%}".format)
    table["confidence of the cluster"] = groups[confidence_key(key)].mean().map("{:.3f}".format)
    if labels_key is not None:
        known = adata.obs[adata.obs[labels_key].notna()]
        overlap = pd.crosstab(known[key], known[labels_key].astype(str)).reindex(table.index, fill_value=0)
        share = overlap.max(axis=1) / overlap.sum(axis=1).clip(lower=1)
        frequent = [f"{name} ({share[row]:.0%})" for row, name in overlap.idxmax(axis=1).items()]
        table["most frequent label"] = np.where(share > 0, frequent, "none known")
    return table.rename_axis("cluster").reset_index().to_string(index=False)
