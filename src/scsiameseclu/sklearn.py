"""The model as a scikit-learn estimator, which takes a matrix of cells by genes."""

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

    The estimator calls :func:`scsiameseclu.tl.cluster`. Use the estimator in scikit-learn pipelines and in
    cross-validation. Use the model itself (the attribute ``model_``, after fitting) for batches, proteins, saved models
    and plots.

    Parameters
    ----------
    n_clusters
        Number of clusters, at least 1. ``"auto"``: the number is estimated without labels, and may be 1.
    n_top_genes
        Number of highly variable genes to train on. ``None``: all genes.
    n_neighbors
        Number of neighbours of each cell in the cell graph.
    n_latent, n_hidden
        Number of dimensions of the embedding, and number of units of the hidden layers.
    max_epochs
        Number of training epochs. ``None``: the number is chosen by the number of cells.
    accelerator
        ``"auto"``, ``"cpu"``, ``"gpu"`` or another accelerator of Lightning.
    random_state
        Seed, at least 0. ``None``: ``scvi.settings.seed``. If this seed is also ``None``, every fit gives another
        result.

    Attributes
    ----------
    labels_
        Cluster of each cell of the fit, int64 ``(n_samples,)``. Cluster 0 is the largest cluster.
    model_
        The trained :class:`~scsiameseclu.SCSiameseClu`.
    genes_
        Numbers of the columns (genes) that the model was trained on, int64 ``(n_genes,)``.
    n_features_in_, feature_names_in_
        Number of genes in the fit, and names of the genes if the counts were a data frame.

    Notes
    -----
    Columns are genes. New cells need the same columns in the same order as the cells of the fit. Counts must be whole
    numbers of at least 0. A pickle of the estimator, a deep copy, and an estimator that is sent to another process
    contain the model without the cells of the fit.

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
            Ignored.

        Returns
        -------
        SiameseCluster
            The estimator itself.

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
            Raw counts, dense or sparse, ``(n_samples, n_features)``, with the columns of the fit.

        Returns
        -------
        numpy.ndarray
            Cluster of each cell, int64 ``(n_samples,)``.

        Raises
        ------
        ValueError
            If the counts are not whole numbers of at least 0, or the number or the names of the columns differ from the
            fit.
        sklearn.exceptions.NotFittedError
            If :meth:`fit` was not called before.
        """
        return _codes(self._model().predict(self._known_genes(X)))

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Compute the probability of every cluster for each cell.

        Parameters
        ----------
        X
            Raw counts, as for :meth:`predict`.

        Returns
        -------
        numpy.ndarray
            Probabilities, float32 ``(n_samples, n_clusters)``. Each row sums to 1.

        Raises
        ------
        ValueError, sklearn.exceptions.NotFittedError
            As :meth:`predict`.
        """
        return self._model().predict(self._known_genes(X), soft=True).to_numpy()

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Compute the embedding of cells.

        Parameters
        ----------
        X
            Raw counts, as for :meth:`predict`.

        Returns
        -------
        numpy.ndarray
            Embedding, float32 ``(n_samples, n_latent)``.

        Raises
        ------
        ValueError, sklearn.exceptions.NotFittedError
            As :meth:`predict`.
        """
        return self._model().get_latent_representation(self._known_genes(X))

    def _model(self) -> SCSiameseClu:
        check_is_fitted(self)
        return self.model_

    def _known_genes(self, X: Any) -> AnnData:
        """Cells with the genes that the model was trained on."""
        return self._cells(X, reset=False)[:, self.genes_].copy()

    def _cells(self, X: Any, *, reset: bool) -> AnnData:
        """Check the counts. Genes are named by their column number, and cells by their row number."""
        if isinstance(X, AnnData):
            raise TypeError("Expected a matrix of counts, found an AnnData; pass its counts, such as adata.X.")
        least = 2 if reset else 1
        sizes = {"ensure_min_samples": least, "ensure_min_features": least}
        X = validate_data(self, X, reset=reset, accept_sparse=("csr", "csc"), **sizes)
        check_non_negative(X, type(self).__name__)
        names = [pd.RangeIndex(size).astype(str) for size in X.shape]
        check_counts(X, *names, non_integer="raise")
        return AnnData(X, obs=pd.DataFrame(index=names[0]), var=pd.DataFrame(index=names[1]))

    @property
    def _n_features_out(self) -> int:
        """Number of dimensions of the embedding, which scikit-learn uses to name the output columns."""
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
    """Set the seed of scvi-tools during a ``with`` block, and restore the previous seed afterwards."""
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
    """Save a model, and return the contents of its files by name."""
    with TemporaryDirectory() as folder:
        model.save(f"{folder}/model")
        root = Path(folder, "model")
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _loaded(files: dict[str, bytes]) -> SCSiameseClu:
    """Load a model from the contents of its files."""
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            place = Path(folder, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        return SCSiameseClu.load(folder, adata=False)
