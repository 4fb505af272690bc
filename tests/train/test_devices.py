import pytest
import torch

from scsiameseclu.data.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.train._devices import n_devices


@pytest.mark.parametrize(
    ("devices", "expected"),
    [("auto", 1), (1, 1), (2, 2), ("2", 2), ([0, 2], 2), ("0,2", 2), (-1, 3), ("-1", 3), ("1,", 1)],
    ids=repr,
)
def test_devices_are_counted_as_lightning_counts_them(monkeypatch, devices, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert n_devices("cuda", devices) == expected


@pytest.mark.parametrize(("devices", "expected"), [("auto", 1), (1, 1), (3, 3), ("3", 3)], ids=repr)
def test_processes_on_a_cpu(devices, expected):
    assert n_devices("cpu", devices) == expected


def test_several_devices_as_text_are_a_distributed_training():
    adata = synthetic(n_obs=60, n_vars=30, n_types=2, seed=0)
    SCSiameseClu.setup_anndata(adata)
    with pytest.raises(ValueError, match="integer n_clusters for distributed training"):
        SCSiameseClu(adata, n_clusters="auto").train(max_epochs=1, accelerator="cpu", devices="2")
