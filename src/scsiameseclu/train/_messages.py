"""Messages of Lightning that say nothing about the training at hand."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGER = "lightning.pytorch.utilities.rank_zero"  # devices it found, other products, the end of a training


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep back what Lightning has to say about devices, products and its own code, unless the user debugs.

    Warnings about the training pass. With ``scvi.settings.verbosity = logging.DEBUG``, or a level that the user gave
    the logger, everything does.
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
