"""``load`` and ``scsiameseclu info`` detect and name damage anywhere in the folder of a saved model."""

import random

import pytest
import scvi

from scsiameseclu import cli
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu

PAGE = 4096
FILES = ("manifest.json", "model.json", "model.safetensors", "adata.h5ad")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    scvi.settings.seed = 0
    adata = synthetic(n_obs=200, n_vars=60, n_types=2, n_batches=2, seed=0)
    SCSiameseClu.setup_anndata(adata, batch_key="batch", n_neighbors=5)
    model = SCSiameseClu(adata, n_clusters=2, n_latent=4, n_hidden=8)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    folder = tmp_path_factory.mktemp("damaged") / "model"
    model.save(folder, save_anndata=True)
    return folder


def damaged(content, draw):
    """Flip one random bit of the content, or set one random page to zero."""
    while True:
        found = bytearray(content)
        position = draw.randrange(len(content))
        if draw.random() < 0.8:
            found[position] ^= 1 << draw.randrange(8)
        else:
            start = position - position % PAGE
            found[start : start + PAGE] = bytes(len(found[start : start + PAGE]))
        if found != content:  # a page may be zero already
            return bytes(found)


def test_these_are_all_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert SCSiameseClu.load(folder, accelerator="cpu").is_trained
    assert cli.main(["info", str(folder)]) == 0


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("n_damages", [15, pytest.param(750, marks=pytest.mark.slow)])
def test_every_flipped_bit_and_zeroed_page_is_found_and_named(folder, name, n_damages, capsys):
    draw, path = random.Random(f"{name} {n_damages}"), folder / name
    content = path.read_bytes()
    try:
        for _ in range(n_damages):
            path.write_bytes(damaged(content, draw))
            with pytest.raises(ValueError, match=rf"{name}.*copy the whole folder"):
                SCSiameseClu.load(folder, accelerator="cpu")
            assert cli.main(["info", str(folder)]) == 1
            out, error = capsys.readouterr()
            assert out == "" and name in error and error.count("\n") == 1
    finally:
        path.write_bytes(content)
