"""Results do not depend on the number of processes that share a mini-batch."""

import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import datetime, sys
import torch
import torch.distributed as dist
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.nn._gather import gather_rows, n_processes, own_share
from scsiameseclu.train._metrics import EpochMeans
import numpy as np

torch.set_num_threads(1)
rank, world, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if world > 1:
    # A file instead of a port: nothing to collide with.
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=60)
    )
torch.manual_seed(0)
adata = synthetic(n_obs=90, n_vars=40, n_types=3, seed=0)
SCSiameseClu.setup_anndata(adata)
weights = {"cell_correlation": 0.5, "propagation": 0.1}
model = SCSiameseClu(
    adata, n_clusters=3, n_latent=6, n_hidden=16, loss_weights=weights, swap_rate=0.0, noise_sd=0.0, edge_drop_rate=0.0
)
module = model.module.train()
rows = np.arange(60)
mine = own_share(rows)
(batch,) = model._make_data_loader(adata, indices=mine, batch_size=60)
_, _, output = module(batch)
output.loss.backward()
grads = torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in module.parameters()])
loss = output.loss.detach()
if world > 1:  # as DistributedDataParallel does
    for tensor in (grads, loss):
        dist.all_reduce(tensor)
        tensor /= world
uneven = gather_rows(torch.arange(3.0 + rank)) if world > 1 else None
means = EpochMeans()  # of cells whose values are their row numbers
means.add({"row": torch.tensor(float(mine.mean()))}, len(mine))
if rank == 0:
    found = {"loss": loss, "grads": grads, "shares": n_processes(), "uneven": uneven, "means": means.current()}
    torch.save(found, out)
else:
    means.current()
if world > 1:
    dist.destroy_process_group()
"""


def run_together(folder, world):
    """Run the script in ``world`` processes, for at most two minutes; return the results of the first process."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    out = folder / f"found{world}.pt"
    processes = []
    try:
        for rank in range(world):
            command = [sys.executable, str(script), str(rank), str(world), str(folder / f"store{world}"), str(out)]
            log = (folder / f"log{world}_{rank}.txt").open("w")
            processes.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(), cwd=folder
                )
            )
        for rank, process in enumerate(processes):
            assert process.wait(timeout=120) == 0, (folder / f"log{world}_{rank}.txt").read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return torch.load(out)


def _environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_processes_have_the_loss_and_gradient_of_one(tmp_path):
    one, two = run_together(tmp_path, 1), run_together(tmp_path, 2)
    assert (one["shares"], two["shares"]) == (1, 2)
    assert torch.allclose(one["loss"], two["loss"], rtol=1e-5)
    assert torch.allclose(one["grads"], two["grads"], rtol=1e-3, atol=1e-6)
    assert one["grads"].abs().max() > 1e-3
    assert one["means"]["row"].item() == two["means"]["row"].item() == 29.5
    assert two["uneven"].tolist() == [0, 1, 2, 0, 1, 2, 3]
