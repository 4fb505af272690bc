"""Predict the cell types of unlabelled cells from labelled cells on an embedding."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from scsiameseclu._keys import ADATA_KEYS, UNASSIGNED, check_key, confidence_key, latent_key, predicted_key, probs_key
from scsiameseclu.metrics import expected_calibration_error
from scsiameseclu.tl._input import check_anndata

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["classify"]

logger = logging.getLogger(__name__)
N_FOLDS = 5
PRIOR_SD = {"logistic": 0.25, "knn": np.inf}
"""Standard deviation of the normal prior of the logarithm of the temperature, by method.

The probabilities of logistic regression are nearly calibrated without a temperature, so the prior is narrow. The shares
of neighbours are not calibrated, so there is no prior.
"""
MANY_TYPES = 50
"""A column with more types, and fewer than two labelled cells per type, seems to hold names of cells and is refused."""
VERY_MANY_TYPES = 200
"""A warning is given if there are more types."""
METHODS = ("logistic", "knn")


def classify(
    adata: AnnData,
    labels_key: str,
    *,
    use_rep: str = ADATA_KEYS.LATENT,
    method: Literal["logistic", "knn"] = "logistic",
    reference: AnnData | None = None,
    reference_rep: str | None = None,
    unlabeled_category: str = "Unknown",
    n_neighbors: int = 10,
    threshold: float = 0.5,
    key_added: str | None = None,
    random_state: int = 0,
) -> pd.DataFrame:
    r"""Predict cell types from partly labelled cells, or from a labelled reference, on an embedding.

    The method ``"logistic"`` is multinomial logistic regression on the standardised embedding. The method ``"knn"`` is
    a weighted vote of the nearest labelled cells :math:`\mathcal N_i` of each cell,

    .. math:: p_{it} \propto \frac{1}{T}
        + \sum_{j \in \mathcal N_i} e^{-2 (d_{ij}^2 - d_{i1}^2) / \bar d_i^2} \, [y_j = t],

    where :math:`d_{ij}` is the distance to neighbour :math:`j`, :math:`d_{i1}` the distance to the nearest neighbour,
    :math:`\bar d_i^2` the mean squared distance to the neighbours, :math:`y_j` the label of neighbour :math:`j`, and
    :math:`T` the number of types.

    The probabilities of both methods are calibrated by temperature scaling: :math:`p^{1/\tau}`, normalised. The
    temperature :math:`\tau` maximises the likelihood of the labels of held-out cells (5-fold cross-validation). For
    ``"logistic"``, :math:`\log \tau` has a normal prior with mean 0 and standard deviation 0.25, which matters with few
    labels.

    Labelled cells get their held-out prediction, which does not use their own label. So a confident prediction that
    differs from the label suggests that the label is wrong. If a type has only one labelled cell, the label of this
    cell is used for its prediction, because no other cell has this type.

    The confidence is the probability among the known types. So a cell of a type without any labelled cell may have a
    high confidence.

    Parameters
    ----------
    adata
        Cells with an embedding. Only ``obs``, ``obsm`` and ``uns`` are changed.
    labels_key
        Column of ``obs`` with the labels. With ``reference``, the column of ``reference.obs``. Missing values,
        ``unlabeled_category`` and ``"unassigned"`` mean that a cell has no label.
    use_rep
        Entry of ``obsm`` with the embedding, ``(n_obs, d)``.
    method
        ``"logistic"`` or ``"knn"``. ``"logistic"`` needs fewer labels. ``"knn"`` is suitable for types of any shape in
        the embedding.
    reference
        Labelled cells with an embedding by the same model. All cells of ``adata`` are then predicted, and labels of
        ``adata`` are ignored. ``None``: the labelled cells of ``adata``.
    reference_rep
        Entry of ``reference.obsm`` with the embedding. ``None``: ``use_rep``.
    unlabeled_category
        Value in the column of labels that marks unlabelled cells.
    n_neighbors
        Number of labelled neighbours of each cell for ``"knn"``, but at most the number of labelled cells.
    threshold
        Cells with a lower confidence are ``"unassigned"``. Number in ``[0, 1]``.
    key_added
        Name of the results. ``None``: ``f"{labels_key}_predicted"``.
    random_state
        Seed of the split for cross-validation.

    Returns
    -------
    pandas.DataFrame
        Probabilities, float32 ``(n_obs, n_types)``. Rows are cells (``obs_names``) and sum to 1. Columns are types.

    Raises
    ------
    TypeError
        If ``adata`` or ``reference`` is not an AnnData.
    KeyError
        If the labels or an embedding do not exist.
    ValueError
        If fewer than two types have labelled cells, if the labels are measurements or names of cells, if the two
        embeddings have different dimensions or come from different models, if an embedding is not finite, or if an
        argument is out of range.

    Warns
    -----
    UserWarning
        If no type has two labelled cells, so that confidences cannot be calibrated, or if there are more than 200
        types.

    Notes
    -----
    The function writes

    - ``obs[key_added]``: predicted types, categorical;
    - ``obs[f"{key_added}_confidence"]``: confidence, float32;
    - ``obsm[f"{key_added}_probs"]``: probabilities, float32;
    - ``uns[key_added]``: ``"params"``; ``"types"``, the columns of the probabilities; ``"temperature"``; and
      ``"accuracy"`` and ``"calibration_error"`` of the held-out predictions.

    Accuracy and calibration error are computed over the labelled cells of types with at least two labelled cells (NaN
    if there are no such cells). The temperature was chosen on the same cells.

    Source of temperature scaling: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Examples
    --------
    >>> probabilities = scsiameseclu.tl.classify(adata, "partial_labels")
    >>> adata.obs["partial_labels_predicted"].value_counts()
    """
    for data in (adata, reference):
        if data is not None:
            check_anndata(
                data, "pass the AnnData of one modality, such as mdata['rna'], with the embedding in its obsm"
            )
    if method not in METHODS:
        raise ValueError(f"Expected method to be one of {list(METHODS)}, found {method!r}.")
    if not 0 <= threshold <= 1:
        raise ValueError(f"Expected threshold in [0, 1], found {threshold}; pass a probability.")
    if n_neighbors < 1:
        raise ValueError(f"Expected n_neighbors of at least 1, found {n_neighbors}.")
    key_added = predicted_key(labels_key) if key_added is None else key_added
    check_key(key_added)
    source = adata if reference is None else reference
    points = _embedding(adata, use_rep, "adata")
    source_points = points if reference is None else _embedding(reference, reference_rep or use_rep, "reference")
    if points.shape[1] != source_points.shape[1]:
        raise ValueError(
            f"Expected embeddings of the same dimension, found {points.shape[1]} and {source_points.shape[1]} "
            "(reference); embed both with the same model."
        )
    if reference is not None:
        _check_one_model(adata, use_rep, reference, reference_rep or use_rep)
    labels = _labels(source, labels_key, unlabeled_category)
    labelled = np.flatnonzero(labels.codes >= 0)
    codes, types = labels.codes[labelled].astype(np.int64), labels.categories.to_numpy(dtype=str)
    train = source_points[labelled]

    held_out, fair = _held_out(method, train, codes, len(types), n_neighbors, random_state)
    if not fair.any():
        message = f"obs[{labels_key!r}]: no type has two labelled cells, so confidences are not calibrated."
        warnings.warn(f"{message} Label more cells.", UserWarning, stacklevel=2)
    temperature = _fit_temperature(held_out[fair], codes[fair], PRIOR_SD[method]) if fair.any() else 1.0
    probs = _predict(method, train, codes, len(types), points, n_neighbors)
    if reference is None:
        probs[labelled[fair]] = held_out[fair]
    probs, held_out = _sharpened(probs, temperature).astype(np.float32), _sharpened(held_out[fair], temperature)

    confidence = probs.max(axis=1)
    names = np.where(confidence >= threshold, types[probs.argmax(axis=1)], UNASSIGNED)
    present = set(names)
    adata.obs[key_added] = pd.Categorical(names, [each for each in (*types, UNASSIGNED) if each in present])
    adata.obs[confidence_key(key_added)] = confidence
    adata.obsm[probs_key(key_added)] = probs
    correct = held_out.argmax(axis=1) == codes[fair]
    adata.uns[key_added] = {
        "params": {
            "labels_key": labels_key,
            "use_rep": use_rep,
            "method": method,
            "n_neighbors": n_neighbors,
            "threshold": threshold,
            "n_labelled": len(labelled),
            "from_reference": reference is not None,
        },
        "types": types,
        "temperature": temperature,
        "accuracy": float(correct.mean()) if fair.any() else np.nan,
        "calibration_error": expected_calibration_error(held_out.max(axis=1), correct) if fair.any() else np.nan,
    }
    logger.info("Held-out accuracy %.3f on %d labelled cells.", adata.uns[key_added]["accuracy"], fair.sum())
    return pd.DataFrame(probs, index=adata.obs_names, columns=types)


def _check_one_model(adata: AnnData, use_rep: str, reference: AnnData, reference_rep: str) -> None:
    """Refuse embeddings by two different models, as far as the models are recorded."""
    first, second = _made_by(adata, use_rep), _made_by(reference, reference_rep)
    if first is not None and second is not None and first != second:
        raise ValueError(
            "Expected embeddings by the same model, found that another model embedded the reference; map the cells to "
            "the model of the reference: scsiameseclu.tl.map(adata, model)."
        )


def _made_by(adata: AnnData, use_rep: str) -> str | None:
    """Digest of the weights of the model that computed an embedding; None if the digest is not recorded."""
    for key, record in adata.uns.items():
        if isinstance(record, Mapping) and latent_key(key) == use_rep:
            return dict(record.get("params", {})).get("embedding")
    return None


def _embedding(adata: AnnData, key: str, name: str) -> NDArray[np.float64]:
    if key not in adata.obsm:
        raise KeyError(
            f"Expected an embedding in {name}.obsm[{key!r}], found {sorted(adata.obsm)}: call write_to_adata() first, "
            "or name another embedding."
        )
    points = np.asarray(adata.obsm[key], dtype=np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(
            f"Expected a finite embedding of shape (n_obs, d) in {name}.obsm[{key!r}], found shape {points.shape} or "
            "NaN or infinite values; check how the embedding was computed."
        )
    return points


def _labels(source: AnnData, key: str, unlabeled_category: str) -> pd.Categorical:
    """Labels as strings. Cells without a label have the code -1."""
    if key not in source.obs:
        raise KeyError(f"`labels_key`: expected a column of obs, found {key!r}. Available: {list(source.obs.columns)}.")
    column = source.obs[key]
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 != 0).any():
        raise ValueError(
            f"Expected cell types in obs[{key!r}], found numbers with fractions, such as {column.dropna().iloc[0]}; "
            "name the column of labels."
        )
    given = pd.Categorical(column)
    given = given.rename_categories(given.categories.astype(str))
    known = [each for each in given.categories if each not in (unlabeled_category, UNASSIGNED)]
    labels = given.set_categories(known).remove_unused_categories()
    n_types, n_labelled = len(labels.categories), int((labels.codes >= 0).sum())
    if n_types < 2:
        raise ValueError(
            f"Expected at least two types in obs[{key!r}], found {list(labels.categories)}; label cells of other types."
        )
    if n_types > MANY_TYPES and n_labelled < 2 * n_types:
        raise ValueError(
            f"Expected cell types in obs[{key!r}], found {n_types} different values for {n_labelled} labelled cells, "
            "which seem to be names of cells; name the column of labels."
        )
    if n_types > VERY_MANY_TYPES:
        message = (
            f"obs[{key!r}] has {n_types} types. Check that the column holds cell types; training takes longer with "
            "more types."
        )
        warnings.warn(message, UserWarning, stacklevel=3)
    return labels


def _held_out(
    method: str, train: NDArray[np.float64], codes: NDArray[np.int64], n_types: int, n_neighbors: int, random_state: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Held-out probabilities of labelled cells, and for which cells these probabilities are meaningful.

    If a type has only one labelled cell, the type is unknown when this cell is held out. The probabilities of such a
    cell are not meaningful, and the cell is not used to choose the temperature.
    """
    fair = np.bincount(codes)[codes] > 1
    held_out = np.zeros((len(codes), n_types))
    for fold, rest in _folds(codes, random_state) if fair.any() else []:
        held_out[fold] = _predict(method, train[rest], codes[rest], n_types, train[fold], n_neighbors)
    return held_out, fair


def _folds(codes: NDArray[np.int64], random_state: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Held-out cells and training cells of each fold. The cells of each type are spread evenly over the folds."""
    n_folds = min(N_FOLDS, int(np.bincount(codes).max()))
    shuffled = np.random.default_rng(random_state).permutation(len(codes))
    by_type = shuffled[np.argsort(codes[shuffled], kind="stable")]
    fold_of = np.empty(len(codes), dtype=np.int64)
    fold_of[by_type] = np.arange(len(codes)) % n_folds
    return [(np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)) for fold in range(n_folds)]


def _predict(
    method: str,
    train: NDArray[np.float64],
    codes: NDArray[np.int64],
    n_types: int,
    points: NDArray[np.float64],
    n_neighbors: int,
) -> NDArray[np.float64]:
    """Probabilities before calibration, ``(n_points, n_types)``."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import NearestNeighbors
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    present = np.unique(codes)
    probs = np.zeros((len(points), n_types))
    if method == "logistic" and len(present) > 1:
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(train, codes)
        probs[:, present] = fitted.predict_proba(points)
        return probs
    if method == "logistic":  # only one type is left after holding out the only cell of the other type
        probs[:, present] = 1.0
        return probs
    distance, neighbor = NearestNeighbors(n_neighbors=min(n_neighbors, len(train))).fit(train).kneighbors(points)
    scale = np.mean(distance**2, axis=1, keepdims=True)
    weight = np.exp(-2 * (distance**2 - distance[:, :1] ** 2) / np.where(scale > 0, scale, 1.0))
    rows = np.repeat(np.arange(len(points)), neighbor.shape[1])
    np.add.at(probs, (rows, codes[neighbor].ravel()), weight.ravel())
    probs += 1.0 / n_types
    return probs / probs.sum(axis=1, keepdims=True)


def _sharpened(probs: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    logits = np.log(np.maximum(probs, 1e-12)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _fit_temperature(probs: NDArray[np.float64], codes: NDArray[np.int64], prior_sd: float) -> float:
    """Temperature between 0.1 and 10 with the highest posterior probability, given the labels.

    The logarithm of the temperature has a normal prior with mean 0 and standard deviation ``prior_sd``, because few
    cells give little evidence. A small share of errors is assumed in addition to the observed errors (rule of
    succession), because a few cells without errors do not prove that there are never errors.
    """
    share_of_errors = 1.0 / (len(codes) + 2.0)

    def loss(log_temperature: float) -> Any:
        log_probs = np.log(np.maximum(_sharpened(probs, float(np.exp(log_temperature))), 1e-12))
        own = log_probs[np.arange(len(codes)), codes]
        other_types = (log_probs.sum(axis=1) - own) / max(probs.shape[1] - 1, 1)
        log_prior = -0.5 * (log_temperature / prior_sd) ** 2 / len(codes)
        return -((1.0 - share_of_errors) * own + share_of_errors * other_types).mean() - log_prior

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.1), np.log(10.0)), method="bounded").x))
