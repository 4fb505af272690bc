"""Loggers of Lightning get the values of the history of a model."""

import numpy as np
import pandas as pd
import scvi
from lightning.pytorch.loggers import CSVLogger

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.pl import training_curves


def trained(**options) -> SCSiameseClu:
    scvi.settings.seed = 0
    adata = synthetic(n_obs=80, n_vars=30, n_types=2)
    SCSiameseClu.setup_anndata(adata, n_neighbors=5)
    model = SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)
    model.train(max_epochs=5, accelerator="cpu", enable_progress_bar=False, **options)
    return model


def test_a_table_has_what_the_history_would_have_and_can_be_drawn(tmp_path):
    history = trained().history
    model = trained(logger=CSVLogger(tmp_path, name="run"))
    assert not model.history
    table = pd.read_csv(tmp_path / "run" / "version_0" / "metrics.csv").set_index("epoch")
    assert set(history) <= set(table)
    for name, expected in history.items():
        found = table[name].dropna()
        np.testing.assert_array_equal(found.index, expected.index)
        np.testing.assert_allclose(found, expected.iloc[:, 0].astype(float), rtol=1e-4)
    curves = {name: table[[name]].dropna() for name in history}
    titles = [ax.get_title() for ax in training_curves(curves, return_fig=True).axes]
    assert titles == [ax.get_title() for ax in training_curves(history, return_fig=True).axes]
