"""Suppression of messages from Lightning that do not concern the training."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGER = "lightning.pytorch.utilities.rank_zero"  # logs devices, advertisements and the end of training


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Suppress Lightning's messages about devices, products and deprecations in its own code.

    Warnings about the training are shown. All messages are shown with ``scvi.settings.verbosity = logging.DEBUG``, or
    if the user has set a level for Lightning's logger.
    """
    logger = logging.getLogger(_LOGGER)
    if logging.getLogger("scvi").getEffectiveLevel() <= logging.DEBUG or logger.level != logging.NOTSET:
        yield
        return
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
            yield
    finally:
        logger.setLevel(logging.NOTSET)
