"""Names of clusters, and their change with the clusters."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)


def names_after(names: Sequence[str], old: NDArray[np.integer], new: NDArray[np.integer]) -> list[str]:
    """Names of new clusters. A warning lists the names that are dropped.

    Parameters
    ----------
    names
        Names of the old clusters.
    old, new
        Number of the old and of the new cluster of each small group of the tree, ``(n_groups,)``.

    Returns
    -------
    The name of the old cluster, if a new cluster has exactly the same small groups and the name is not a number.
    Otherwise, the name is the number of the new cluster.
    """
    name_of = {tuple(np.flatnonzero(old == number)): name for number, name in enumerate(names) if not is_number(name)}
    found = [name_of.get(tuple(np.flatnonzero(new == number)), str(number)) for number in range(int(new.max()) + 1)]
    dropped = [name for name in names if not is_number(name) and name not in found]
    if dropped:
        logger.warning(
            "Clusters %s are merged or divided, so their names are dropped. To name the new clusters, call rename().",
            dropped,
        )
    return found


def free_number(names: Sequence[str]) -> str:
    """Lowest number that is not the name of a cluster."""
    return next(str(number) for number in range(len(names) + 1) if str(number) not in names)


def numbers_first(name: str) -> tuple[bool, int, str]:
    """Key that sorts numbers by value, before all other names."""
    return not is_number(name), int(name) if is_number(name) else 0, name


def is_number(name: str) -> bool:
    """Whether a name is a number, such as the names of clusters after training."""
    return name.isascii() and name.isdigit()
