import logging
import warnings

import pytest
import scvi

from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.train._messages import quiet_lightning

LIGHTNING = logging.getLogger("lightning.pytorch.utilities.rank_zero")


@pytest.fixture
def messages(caplog):
    """Texts that Lightning logs."""
    caplog.set_level(logging.INFO, "lightning.pytorch")  # independent of other tests
    texts: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(record.getMessage())
    LIGHTNING.addHandler(handler)
    yield texts
    LIGHTNING.removeHandler(handler)


def train():
    adata = synthetic(n_obs=40, n_vars=20, n_types=2)
    SCSiameseClu.setup_anndata(adata, n_neighbors=5)
    model = SCSiameseClu(adata, n_clusters=2, n_latent=2, n_hidden=4)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)


def test_a_normal_run_says_nothing_of_devices_and_products(messages):
    train()
    assert messages == [] and LIGHTNING.level == logging.NOTSET


def test_who_debugs_hears_everything(messages):
    verbosity = scvi.settings.verbosity
    scvi.settings.verbosity = logging.DEBUG
    try:
        train()
    finally:
        scvi.settings.verbosity = verbosity
    assert any("GPU" in text for text in messages)


def test_warnings_pass_and_a_level_that_was_given_stays(messages):
    with quiet_lightning():
        LIGHTNING.warning("loss is not finite")
    assert messages == ["loss is not finite"]
    LIGHTNING.setLevel(logging.INFO)
    try:
        with quiet_lightning():
            LIGHTNING.info("as asked")
            assert LIGHTNING.level == logging.INFO
    finally:
        LIGHTNING.setLevel(logging.NOTSET)
    assert messages[1:] == ["as asked"]


def test_of_the_warnings_only_the_one_about_code_of_lightning_is_kept_back():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_lightning():
            warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use another", FutureWarning, stacklevel=1)
            warnings.warn("the training loss is large", UserWarning, stacklevel=1)
        warnings.warn("LeafSpec is deprecated", FutureWarning, stacklevel=1)
    assert [str(each.message) for each in caught] == ["the training loss is large", "LeafSpec is deprecated"]
