import numpy as np
import pandas as pd
import pytest
from lightning.pytorch.loggers import CSVLogger

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.pl import training_curves


def _frame(name: str, values: list[float], first: int = 0) -> pd.DataFrame:
    return pd.DataFrame({name: values}, index=pd.RangeIndex(first, first + len(values), name="epoch"))


@pytest.fixture
def history() -> dict[str, pd.DataFrame]:
    return {
        "train_loss_step": _frame("train_loss_step", [9.0]),
        "train_loss_epoch": _frame("train_loss_epoch", [3.0, 2.0, 1.0]),
        "loss_validation": _frame("loss_validation", [3.5, 2.5, 2.0]),
        "clustering_train": _frame("clustering_train", [0.5, 0.25], first=1),
        "never_train": _frame("never_train", [np.nan, np.nan]),
        "elbo_train": _frame("elbo_train", [7.0, 6.0, 5.0]),
    }


def test_training_and_validation_share_a_panel(history: dict[str, pd.DataFrame]) -> None:
    figure = training_curves(history, return_fig=True)
    panels = {ax.get_title(): ax for ax in figure.axes}
    assert set(panels) == {"loss", "clustering"}
    train, validation = panels["loss"].get_lines()
    np.testing.assert_array_equal(train.get_ydata(), [3.0, 2.0, 1.0])
    np.testing.assert_array_equal(validation.get_ydata(), [3.5, 2.5, 2.0])
    np.testing.assert_array_equal(panels["clustering"].get_lines()[0].get_xdata(), [1, 2])


def test_metrics_choose_and_order_panels(history: dict[str, pd.DataFrame]) -> None:
    figure = training_curves(history, ["clustering", "loss"], n_cols=1, return_fig=True)
    assert [ax.get_title() for ax in figure.axes] == ["clustering", "loss"]
    assert [ax.get_title() for ax in training_curves(history, ["elbo"], return_fig=True).axes] == ["elbo"]
    with pytest.raises(KeyError, match=r"among \['clustering', 'elbo', 'loss'\], found \['nothing'\]"):
        training_curves(history, ["nothing"])


def test_takes_a_model_and_wants_it_trained(history: dict[str, pd.DataFrame]) -> None:
    class Model:
        def __init__(self, history: dict[str, pd.DataFrame] | None) -> None:
            self.history = history

    assert len(training_curves(Model(history), return_fig=True).axes) == 2
    with pytest.raises(ValueError, match="call train"):
        training_curves(Model(None))
    with pytest.raises(ValueError, match="n_cols of at least 1, found 0"):
        training_curves(history, n_cols=0)


def test_unused_panels_are_blank(history: dict[str, pd.DataFrame]) -> None:
    history |= {"a_train": _frame("a_train", [1.0])}
    figure = training_curves(history, n_cols=2, return_fig=True)
    assert [ax.axison for ax in figure.axes] == [True, True, True, False]


def test_a_model_trained_with_another_logger_is_told_so(tmp_path) -> None:
    adata = synthetic(n_obs=60, n_vars=30, n_types=2)
    SCSiameseClu.setup_anndata(adata, n_neighbors=5)
    model = SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)
    with pytest.raises(ValueError, match="call train"):
        training_curves(model)
    options = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}
    model.train(logger=CSVLogger(tmp_path), **options)
    with pytest.raises(ValueError, match="trained with a logger which stores no history in the model"):
        training_curves(model)
