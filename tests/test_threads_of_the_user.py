"""Limits on the threads of a process hold, and the process is not changed."""

import json
import os
import subprocess
import sys

import pytest

# numba starts its threads at its first parallel code, and sets the OpenMP pool of the calling thread to this number.
RUN = """
import json, sys, types
import lightning, numba, numba.np.ufunc.omppool, scanpy as sc, scvi, torch
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_info
import scsiameseclu as ssc
from scsiameseclu.pp import _knn

limit, scanpy_first = json.loads(sys.argv[1])
exec(limit)
seen = {"torch": [], "numba": [], "blas": []}

def look(*args, **kwargs):
    seen["torch"].append(torch.get_num_threads())
    seen["blas"].append(max(pool["num_threads"] for pool in threadpool_info()))

def state():
    return [torch.get_num_threads(), numba.get_num_threads(), sorted(pool["num_threads"] for pool in threadpool_info())]

class Search:  # takes the place of the true one, which compiles itself for seconds
    def __init__(self, points, n_neighbors, random_state):
        seen["numba"].append(numba.get_num_threads())  # starts the threads, as parallel code does
        look()
        self.neighbor_graph = [NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors()[1]]

class Look(lightning.Callback):
    on_train_batch_start = look

sys.modules["pynndescent"] = types.SimpleNamespace(NNDescent=Search)
_knn.EXACT_LIMIT = _knn.INVERTED_LIMIT = 10
adata = ssc.datasets.synthetic(n_obs=300, n_vars=50, n_types=3)
if scanpy_first:
    sc.pp.normalize_total(adata.copy())
    before = state()
    ssc.pp.preprocess(adata.copy(), n_pcs=5)
    ssc.SCSiameseClu.setup_anndata(adata)
else:
    before = [torch.get_num_threads()]
    ssc.SCSiameseClu.setup_anndata(adata)
    before += state()[1:]
model = ssc.SCSiameseClu(adata, n_clusters=3)
model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False, callbacks=[Look()])
model.module.register_forward_pre_hook(look)
model.module.fusion.register_forward_pre_hook(look)
model.predict()
model.get_normalized_expression()
print(json.dumps([seen, before, state()]))
"""


@pytest.mark.parametrize(
    "scanpy_first", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["numba not started", "numba started"]
)
@pytest.mark.parametrize(
    ("environment", "limit", "allowed"),
    [
        ("1", "", {"torch": 1, "numba": 1}),
        ("4", "torch.set_num_threads(1)", {"torch": 1, "numba": 1}),
        ("4", "torch.set_num_threads(3); numba.set_num_threads(2)", {"torch": 3, "numba": 2}),
    ],
    ids=["OMP_NUM_THREADS", "torch", "numba"],
)
def test_limits_hold_in_set_up_training_and_prediction(environment, limit, allowed, scanpy_first):
    variables = {**os.environ, "OMP_NUM_THREADS": environment, "NUMBA_NUM_THREADS": "4"}
    for name in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        variables.pop(name, None)
    command = [sys.executable, "-W", "ignore", "-c", RUN, json.dumps([limit, scanpy_first])]
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    seen, before, after = json.loads(done.stdout.splitlines()[-1])
    assert set(seen["numba"]) == {allowed["numba"]}
    assert set(seen["torch"]) == {allowed["torch"]} and len(seen["torch"]) > 6
    assert max(seen["blas"]) <= allowed["torch"]
    assert after == before
