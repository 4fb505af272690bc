"""The methods, grouped in families. Methods of a family differ only in the last step.

A family computes an embedding of an AnnData of raw counts once. The labels have been removed from the AnnData before.
Each method of the family turns the embedding into clusters. A method whose ``partition`` is ``None`` takes the clusters
that the family returned with the embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import partitions, preprocessing

Partition = Callable[[NDArray[Any], int, int], NDArray[Any]]


@dataclass(frozen=True)
class Options:
    """Options of a run."""

    seed: int
    n_types: int
    scvi_epochs: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Embedding:
    """Result of a family, which its methods partition."""

    values: NDArray[Any]
    labels: NDArray[Any] | None = None
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """Function that makes the embedding, modules to import before the clock starts, option that changes the result."""

    embed: Callable[[Any, Options], Embedding]
    imports: tuple[str, ...]
    option: str | None = None


@dataclass(frozen=True)
class Method:
    """Family of a method and its partition; ``knows_k``: whether the method is given the number of types."""

    family: str
    partition: Partition | None
    knows_k: bool = True
    ours: bool = False


def _pca(adata: Any, options: Options) -> Embedding:
    return Embedding(preprocessing.principal_components(adata, options.seed))


def _scvi(adata: Any, options: Options) -> Embedding:
    """Train scVI with its defaults on the counts of the same genes; like all peers, scVI is not told the batches."""
    import scvi

    scvi.settings.seed = options.seed
    cells = preprocessing.select_genes(adata)
    scvi.model.SCVI.setup_anndata(cells, layer="counts")
    model = scvi.model.SCVI(cells)
    model.train(max_epochs=options.scvi_epochs, accelerator="cpu", enable_progress_bar=False)
    epochs = len(model.history["elbo_train"])
    return Embedding(np.asarray(model.get_latent_representation()), info={"epochs": epochs})


def _scmae(adata: Any, options: Options) -> Embedding:
    from benchmarks import scmae

    values, epochs = scmae.embed(preprocessing.scaled_values(adata, scmae.N_TOP_GENES), options.seed)
    return Embedding(values, info={"epochs": epochs})


def _scaide(adata: Any, options: Options) -> Embedding:
    from benchmarks import scaide

    logs = preprocessing.select_genes(adata).X
    dense = np.asarray(logs.todense() if hasattr(logs, "todense") else logs, dtype=np.float32)
    values, steps = scaide.embed(dense, options.seed)
    return Embedding(values, info={"steps": steps})


def _siamese(adata: Any, options: Options, n_clusters: int | str, preset: dict[str, Any] | None = None) -> Embedding:
    """Run scsiameseclu from raw counts; ``settings`` go on top of the defaults or of a preset."""
    import scvi

    import scsiameseclu as ssc

    scvi.settings.seed = options.seed
    arguments = {"n_clusters": n_clusters, **(preset or {}), **options.settings}
    arguments["train_kwargs"] = {"enable_progress_bar": False, **(arguments.get("train_kwargs") or {})}
    key = arguments.setdefault("key_added", "siamese_clu")
    ssc.tl.cluster(adata, **arguments)
    return Embedding(np.asarray(adata.obsm[f"X_{key}"]), labels=adata.obs[key].astype(str).to_numpy())


def _siamese_k(adata: Any, options: Options) -> Embedding:
    return _siamese(adata, options, options.n_types)


def _siamese_auto(adata: Any, options: Options) -> Embedding:
    return _siamese(adata, options, "auto")


def _siamese_paper(adata: Any, options: Options) -> Embedding:
    """The published recipe taken literally, but without labels."""
    import scsiameseclu as ssc

    return _siamese(adata, options, options.n_types, ssc.presets.paper())


def _flowsom(embedding: NDArray[Any], n_types: int, seed: int) -> NDArray[Any]:
    from benchmarks.flowsom import flowsom

    return flowsom(embedding, n_types, seed)


def _rph_kmeans(embedding: NDArray[Any], n_types: int, seed: int) -> NDArray[Any]:
    from benchmarks.scaide import rph_kmeans

    return rph_kmeans(embedding, n_types, seed)


FAMILIES = {
    "pca": Family(_pca, ("scanpy", "sklearn.cluster", "benchmarks.flowsom")),
    "scvi": Family(_scvi, ("scanpy", "sklearn.cluster", "scvi"), option="scvi_epochs"),
    "scmae": Family(_scmae, ("scanpy", "sklearn.cluster", "benchmarks.scmae")),
    "scaide": Family(_scaide, ("scanpy", "sklearn.cluster", "benchmarks.scaide")),
    "siamese_k": Family(_siamese_k, ("scsiameseclu.model",), option="settings"),
    "siamese_auto": Family(_siamese_auto, ("scsiameseclu.model",), option="settings"),
    "siamese_paper": Family(_siamese_paper, ("scsiameseclu.model",), option="settings"),
}

METHODS = {
    "siamese_k": Method("siamese_k", None, ours=True),
    "siamese_k_kmeans": Method("siamese_k", partitions.kmeans, ours=True),
    "siamese_k_leiden_k": Method("siamese_k", partitions.leiden_k, ours=True),
    "siamese_auto": Method("siamese_auto", None, knows_k=False, ours=True),
    "siamese_paper": Method("siamese_paper", None, ours=True),
    "pca_kmeans": Method("pca", partitions.kmeans),
    "pca_ward": Method("pca", partitions.ward),
    "pca_leiden_1": Method("pca", partitions.leiden_1, knows_k=False),
    "pca_leiden_k": Method("pca", partitions.leiden_k),
    "pca_flowsom": Method("pca", _flowsom),
    "scvi_kmeans": Method("scvi", partitions.kmeans),
    "scvi_leiden_1": Method("scvi", partitions.leiden_1, knows_k=False),
    "scvi_leiden_k": Method("scvi", partitions.leiden_k),
    "scvi_rph_kmeans": Method("scvi", _rph_kmeans),
    "scmae_kmeans": Method("scmae", partitions.kmeans),
    "scmae_leiden_k": Method("scmae", partitions.leiden_k),
    "scaide": Method("scaide", _rph_kmeans),
}


def select(patterns: list[str]) -> list[str]:
    """Names of the methods that match any of the patterns, in the order of the registry."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in METHODS):
            raise ValueError(f"Expected methods among {list(METHODS)}, found {pattern!r}.")
    return [name for name in METHODS if any(fnmatchcase(name, pattern) for pattern in patterns)]
