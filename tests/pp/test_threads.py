"""Blocks on several threads come in order, a few in advance, with the same results on any number of threads."""

import numpy as np
import pytest
import torch
from scipy import sparse

from scsiameseclu.pp._counts import row_chunks, totals
from scsiameseclu.pp._projection import Projection
from scsiameseclu.pp._threads import in_threads


@pytest.fixture(params=[1, 3])
def n_threads(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param


def test_results_come_in_order_and_items_are_drawn_a_few_ahead(n_threads):
    drawn = []

    def items():
        for item in range(50):
            drawn.append(item)
            yield item

    found = []
    for result in in_threads(lambda item: item**2, items()):
        found.append(result)
        assert len(drawn) <= len(found) + n_threads
    assert found == [item**2 for item in range(50)]
    assert list(in_threads(str, [])) == []


def test_an_error_reaches_the_caller(n_threads):
    def fail(item):
        if item == 5:
            raise ValueError("item 5")
        return item

    with pytest.raises(ValueError, match="item 5"):
        list(in_threads(fail, range(20)))


def test_sums_do_not_depend_on_the_number_of_threads(monkeypatch):
    counts = sparse.random(9000, 40, 0.3, "csr", random_state=0, data_rvs=lambda n: np.arange(1, n + 1) % 7 + 1.0)
    states = []
    for number in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        projection = Projection.fit(counts, 5)
        states.append([*totals(counts), projection.components, projection.transform(counts)])
    assert all(np.array_equal(first, second) for first, second in zip(*states, strict=True))


def test_blocks_of_a_csr_matrix_are_no_copies():
    counts = sparse.random(10, 6, 0.5, "csr", random_state=0)
    blocks = list(row_chunks(counts, 4))
    assert [rows for rows, _ in blocks] == [slice(0, 4), slice(4, 8), slice(8, 10)]
    for rows, block in blocks:
        assert np.shares_memory(block.data, counts.data)
        assert np.array_equal(block.toarray(), counts[rows].toarray())
        block.check_format(full_check=True)
