"""Options of MuData that differ between releases."""

from contextlib import AbstractContextManager, nullcontext

import mudata


def without_columns_of_modalities() -> AbstractContextManager[object]:
    """Leave columns of the modalities out of a new MuData, as mudata 0.4 does by itself."""
    if hasattr(mudata, "set_options"):  # up to mudata 0.3
        return mudata.set_options(pull_on_update=False)
    return nullcontext()
