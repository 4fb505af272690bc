"""The model as a scikit-learn estimator: cells by genes in, clusters and embedding out."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import settings
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data

from scsiameseclu.model import SCSiameseClu
from scsiameseclu.pp import check_counts
from scsiameseclu.tl import cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["SiameseCluster"]


class SiameseCluster(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Cluster cells from a matrix of raw counts, as a scikit-learn estimator.

    A thin layer over :func:`scsiameseclu.tl.cluster`: for pipelines, cross-validation and whatever else takes an
    estimator. Batches, proteins, files and plots need the model itself, which is there after fitting (``model_``).

    Parameters
    ----------
    n_clusters
        Number of clusters, at least 1; ``"auto"`` estimates it without labels and may answer 1.
    n_top_genes
        Number of highly variable genes to train on. ``None``: all genes.
    n_neighbors
        Neighbours of every cell in the graph.
    n_latent, n_hidden
        Width of the embedding and of the hidden layers.
    max_epochs
        Epochs of the training. ``None``: as many as suit the number of cells.
    accelerator
        ``"auto"``, ``"cpu"``, ``"gpu"`` or another one of Lightning.
    random_state
        Seed, at least 0. ``None``: ``scvi.settings.seed``, and without that another result every time.

    Attributes
    ----------
    labels_
        Cluster of each cell of the fit, int64 ``(n_samples,)``; 0 is the largest cluster.
    model_
        The trained :class:`~scsiameseclu.SCSiameseClu`.
    genes_
        Columns that the model was trained on, int64.
    n_features_in_, feature_names_in_
        Number of genes seen in the fit, and their names if the counts came as a data frame.

    Notes
    -----
    Genes are the columns, in the order of the fit. Counts are whole numbers of at least 0: anything else is refused. A
    pickle, a deep copy, and an estimator sent to another process hold the model without the cells it was fitted on.

    Examples
    --------
    >>> estimator = scsiameseclu.sklearn.SiameseCluster(n_clusters=8)
    >>> labels = estimator.fit_predict(adata.X)
    >>> embedding = estimator.transform(new_counts)
    """

    def __init__(
        self,
        n_clusters: int | Literal["auto"] = "auto",
        *,
        n_top_genes: int | None = 2000,
        n_neighbors: int = 15,
        n_latent: int = 32,
        n_hidden: int = 256,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        random_state: int | None = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.n_top_genes = n_top_genes
        self.n_neighbors = n_neighbors
        self.n_latent = n_latent
        self.n_hidden = n_hidden
        self.max_epochs = max_epochs
        self.accelerator = accelerator
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on the cells.

        Parameters
        ----------
        X
            Raw counts, dense or sparse, ``(n_samples, n_features)``: one row per cell, one column per gene.
        y
            Not used, not even if given.

        Returns
        -------
        The estimator.

        Raises
        ------
        ValueError
            If the counts are not whole numbers of at least 0, or there are too few cells or genes.
        """
        cells = self._cells(X, reset=True)
        with _seed(self.random_state):
            model = cluster(
                cells,
                self.n_clusters,
                n_top_genes=self.n_top_genes,
                n_neighbors=self.n_neighbors,
                model_kwargs={"n_latent": self.n_latent, "n_hidden": self.n_hidden},
                train_kwargs={
                    "max_epochs": self.max_epochs,
                    "accelerator": self.accelerator,
                    "enable_progress_bar": False,
                },
            )
        self.model_ = model
        self.genes_ = model.adata.var_names.astype(np.int64).to_numpy()
        self.labels_ = _codes(model.predict())
        return self

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Assign cells to the clusters of the fit.

        Parameters
        ----------
        X
            Raw counts, ``(n_samples, n_features)``.

        Returns
        -------
        Clusters, int64 ``(n_samples,)``.
        """
        return _codes(self._model().predict(self._known_genes(X)))

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Probability of every cluster, float32 ``(n_samples, n_clusters)``, for counts as in :meth:`predict`."""
        return self._model().predict(self._known_genes(X), soft=True).to_numpy()

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Embedding of cells, float32 ``(n_samples, n_latent)``, for counts as in :meth:`predict`."""
        return self._model().get_latent_representation(self._known_genes(X))

    def _model(self) -> SCSiameseClu:
        check_is_fitted(self)
        return self.model_

    def _known_genes(self, X: Any) -> AnnData:
        """New cells with the genes of the model."""
        return self._cells(X, reset=False)[:, self.genes_].copy()

    def _cells(self, X: Any, *, reset: bool) -> AnnData:
        """Checked counts; genes are named by their column, cells by their row."""
        least = 2 if reset else 1
        sizes = {"ensure_min_samples": least, "ensure_min_features": least}
        X = validate_data(self, X, reset=reset, accept_sparse=("csr", "csc"), **sizes)
        check_non_negative(X, type(self).__name__)
        names = [pd.RangeIndex(size).astype(str) for size in X.shape]
        check_counts(X, *names, non_integer="raise")
        return AnnData(X, obs=pd.DataFrame(index=names[0]), var=pd.DataFrame(index=names[1]))

    @property
    def _n_features_out(self) -> int:
        """Width of the embedding, which the names of the columns are made from."""
        return int(self.model_.module.n_latent)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        tags.non_deterministic = self.random_state is None
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        return {**state, "model_": _saved(self.model_)} if "model_" in state else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "model_": _loaded(state["model_"])} if "model_" in state else state)


def _codes(labels: pd.Series) -> NDArray[np.int64]:
    return labels.cat.codes.to_numpy().astype(np.int64)


@contextmanager
def _seed(random_state: int | None) -> Iterator[None]:
    """Seed everything random for the block, and put the seed of scvi-tools back."""
    if random_state is None:
        yield
        return
    before = settings.seed
    settings.seed = random_state
    try:
        yield
    finally:
        settings.seed = before


def _saved(model: SCSiameseClu) -> dict[str, bytes]:
    """Files of a saved model by name."""
    with TemporaryDirectory() as folder:
        model.save(f"{folder}/model")
        root = Path(folder, "model")
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _loaded(files: dict[str, bytes]) -> SCSiameseClu:
    """A model from its files."""
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            place = Path(folder, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        return SCSiameseClu.load(folder, adata=False)
