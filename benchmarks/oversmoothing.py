"""Over-smoothing: do cells become alike? Our embedding, graph autoencoders of several depths, and scVI; see README.md.

    python -m benchmarks.oversmoothing --data DIR --out oversmoothing.jsonl --keep latents [--sets ...] [--seeds 0]
    python -m benchmarks.oversmoothing --report oversmoothing.jsonl > oversmoothing.md
    python -m benchmarks.oversmoothing --keep latents --draw pbmc3k_seurat_labels --figure oversmoothing.png

The paper says that graph autoencoders over-smooth. The graph autoencoder here applies graph convolutions (Kipf &
Welling 2017) to the principal components on the graph of 15 neighbours. A linear decoder is trained to reconstruct the
components. The graph autoencoder has the width of our embedding, and only its depth varies. Known types are used for
the scores only.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from benchmarks import preprocessing
from benchmarks.run import labelled_files, read_results
from benchmarks.table import markdown

Latents = dict[str, NDArray[np.float32]]

N_LATENT = 32
DEPTHS = (1, 2, 4, 8, 16)
GCN_EPOCHS = 200
SCVI_EPOCHS = 100
MAX_CELLS = 5_000
DRAWN = ("graph autoencoder, 2 layers", "graph autoencoder, 8 layers", "scVI", "ours: fused")


def ours(adata: Any, n_types: int, seed: int) -> Latents:
    """Embeddings of the fused network and of its two branches, with all defaults."""
    import scvi
    import torch

    import scsiameseclu as ssc

    scvi.settings.seed = seed
    model = ssc.tl.cluster(adata, n_types, train_kwargs={"enable_progress_bar": False})
    parts: dict[str, list[Any]] = {"z": [], "z_expression": [], "z_graph": []}
    with torch.no_grad():
        for tensors in model._make_data_loader(model.adata, batch_size=1024):
            outputs = model.module.inference(**model.module._get_inference_input(tensors))
            for name, found in parts.items():
                found.append(outputs[name].cpu().numpy())
    names = {"z": "ours: fused", "z_expression": "ours: expression branch", "z_graph": "ours: graph branch"}
    return {names[name]: np.concatenate(found) for name, found in parts.items()}


def graph_autoencoder(points: NDArray[Any], depth: int, seed: int) -> NDArray[np.float32]:
    """Latent of graph convolutions trained on all cells at once to reconstruct ``points``, ``(n_obs, 32)``."""
    import torch
    from torch_geometric.nn import GCNConv

    from scsiameseclu.pp import knn

    torch.manual_seed(seed)
    values = torch.as_tensor(np.asarray(points / points.std(), dtype=np.float32))
    links = knn(np.asarray(points, dtype=np.float32), 15, seed).connectivities().tocoo()
    edges, weights = torch.as_tensor(np.stack([links.row, links.col]).astype(np.int64)), torch.as_tensor(links.data)
    widths = [values.shape[1], *[N_LATENT] * depth]
    layers = torch.nn.ModuleList(GCNConv(a, b) for a, b in zip(widths, widths[1:], strict=False))
    decoder = torch.nn.Linear(N_LATENT, values.shape[1])

    def encode() -> Any:
        z = values
        for i, layer in enumerate(layers):
            z = layer(z if i == 0 else torch.relu(z), edges, weights)
        return z

    optimizer = torch.optim.Adam([*layers.parameters(), *decoder.parameters()], lr=5e-3)
    for _ in range(GCN_EPOCHS):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(decoder(encode()), values).backward()
        optimizer.step()
    with torch.no_grad():
        return encode().numpy()


def scvi_latent(adata: Any, seed: int) -> NDArray[np.float32]:
    """Latent space of scVI with its defaults, except for 100 epochs."""
    import scvi

    scvi.settings.seed = seed
    cells = preprocessing.select_genes(adata)
    scvi.model.SCVI.setup_anndata(cells, layer="counts")
    model = scvi.model.SCVI(cells)
    model.train(max_epochs=SCVI_EPOCHS, accelerator="cpu", enable_progress_bar=False)
    return np.asarray(model.get_latent_representation(), dtype=np.float32)


def latents_of(path: Path, args: argparse.Namespace, seed: int) -> tuple[Latents, NDArray[Any]]:
    """All embeddings of a data set and its known types, computed now or kept from an earlier run."""
    import anndata as ad

    kept = args.keep / f"{path.stem}.{seed}.npz"
    if not kept.exists():
        adata = ad.read_h5ad(path)
        adata = adata[adata.obs[args.label].notna().to_numpy()].copy()
        truth = adata.obs[args.label].astype(str).to_numpy()
        del adata.obs[args.label]
        points = preprocessing.principal_components(adata, seed)
        made: Latents = {"PCA": np.asarray(points, dtype=np.float32)}
        for depth in DEPTHS:
            made[f"graph autoencoder, {depth} layer{'s' * (depth > 1)}"] = graph_autoencoder(points, depth, seed)
        made["scVI"] = scvi_latent(adata, seed)
        made.update(ours(adata, len(set(truth)), seed))
        args.keep.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(kept, truth=truth.astype("U"), **made)
    with np.load(kept) as found:
        return {name: found[name] for name in found.files if name != "truth"}, found["truth"]


def scores(latent: NDArray[np.float32], truth: NDArray[Any], seed: int) -> dict[str, float]:
    """Collapse and separation of an embedding, computed on its centred values because its position is arbitrary."""
    from scsiameseclu.metrics import effective_rank, mean_pairwise_cosine

    values = latent - latent.mean(axis=0)
    # The raw cosine is relative to the origin of the network: cells far from the origin have high cosines.
    raw, centred = mean_pairwise_cosine(latent, truth), mean_pairwise_cosine(values, truth)
    rows = np.random.default_rng(0).permutation(len(values))[:MAX_CELLS]
    clusters = KMeans(len(set(truth)), n_init=10, random_state=seed).fit_predict(values)
    return {
        "n_dims": latent.shape[1],
        "effective_rank": effective_rank(latent),
        "cosine_between_raw": raw["between"],
        "cosine_within": centred["within"],
        "cosine_between": centred["between"],
        "silhouette": float(silhouette_score(values[rows], truth[rows])),
        "kmeans_ari": float(adjusted_rand_score(truth, clusters)),
    }


def report(frame: pd.DataFrame) -> str:
    """Markdown table: means over sets and seeds."""
    columns: dict[str, Callable[[pd.DataFrame], str]] = {
        "dimensions": lambda part: f"{part['n_dims'].max():.0f}",
        "effective rank": lambda part: f"{part['effective_rank'].mean():.1f}",
        "share of dimensions": lambda part: f"{(part['effective_rank'] / part['n_dims']).mean():.2f}",
        "cosine, between types, raw": lambda part: f"{part['cosine_between_raw'].mean():+.2f}",
        "cosine, between types": lambda part: f"{part['cosine_between'].mean():+.3f}",
        "cosine, within types": lambda part: f"{part['cosine_within'].mean():+.3f}",
        "silhouette of types": lambda part: f"{part['silhouette'].mean():+.3f}",
        "k-means ARI": lambda part: f"{part['kmeans_ari'].mean():.3f}",
    }
    parts = [(name, frame[frame["embedding"] == name]) for name in frame["embedding"].unique()]
    return markdown(
        ["embedding", *columns], [[name, *[cell(part) for cell in columns.values()]] for name, part in parts]
    )


def draw(args: argparse.Namespace) -> None:
    """Correlations between cells ordered by known type, one heat map per embedding."""
    from matplotlib import pyplot as plt

    kept = args.keep / f"{args.draw}.{args.seeds[0]}.npz"
    if not kept.exists():
        raise FileNotFoundError(f"Expected embeddings in {kept}, found none; run the benchmark on {args.draw} first.")
    latents, truth = latents_of(Path(f"{args.draw}.h5ad"), args, args.seeds[0])
    rows = np.random.default_rng(0).permutation(len(truth))[:250]
    rows = rows[np.argsort(truth[rows], kind="stable")]
    figure, axes = plt.subplots(1, len(DRAWN), figsize=(3 * len(DRAWN), 3.2), layout="constrained")
    for ax, name in zip(axes, DRAWN, strict=True):
        image = ax.imshow(np.corrcoef(latents[name][rows]), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        ax.set(title=name, xticks=[], yticks=[])
    axes[0].set_ylabel("cells, by known type")
    figure.colorbar(image, ax=axes, label="correlation", shrink=0.8)
    figure.savefig(args.figure, dpi=75)


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, report, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="results file")
    parser.add_argument("--data", type=Path, help="folder of .h5ad files")
    parser.add_argument("--out", type=Path, help="results, JSON lines; appended to")
    parser.add_argument("--keep", type=Path, help="folder for the embeddings")
    parser.add_argument("--draw", help="data set to draw heat maps of, from the kept embeddings")
    parser.add_argument("--figure", type=Path, default=Path("oversmoothing.png"), help="file of the heat maps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sets", nargs="+", help="only files whose name contains one of these")
    parser.add_argument("--label", default="cell_type", help="column of obs with the known types")
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    if args.report:
        print(report(pd.DataFrame(read_results(args.report))))
        return 0
    if args.draw and args.keep:
        draw(args)
        return 0
    if not (args.data and args.out and args.keep):
        parser.error("give --data, --out and --keep, or --report, or --keep and --draw")
    done = {(row["set"], row["seed"]) for row in read_results(args.out)}
    for path in labelled_files(args.data, args.label, args.sets):
        for seed in args.seeds:
            if (path.stem, seed) in done:
                continue
            latents, truth = latents_of(path, args, seed)
            lines = [
                {"set": path.stem, "seed": seed, "embedding": name, **scores(latent, truth, seed)}
                for name, latent in latents.items()
            ]
            with args.out.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
            print(f"{path.stem} seed {seed}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
