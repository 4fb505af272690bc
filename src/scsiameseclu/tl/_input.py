"""What the tools accept."""

from typing import Any

from anndata import AnnData

CLUSTERS_OF_MUDATA = (
    "pass the AnnData of one modality, with the clusters in its obs, such as mdata['rna'] after "
    "mdata['rna'].obs['siamese_clu'] = mdata.obs['siamese_clu']"
)


def check_anndata(data: Any, instead: str) -> None:
    """Refuse anything but an AnnData, and say what to pass instead of a model or a MuData.

    Parameters
    ----------
    data
        What a tool was called with.
    instead
        What to do with a MuData, a clause.

    Raises
    ------
    TypeError
        If ``data`` is no AnnData.
    """
    if hasattr(data, "write_to_adata"):
        instead = "pass the cells themselves, such as model.adata after model.write_to_adata()"
    if not isinstance(data, AnnData):
        raise TypeError(f"Expected an AnnData, found {type(data).__name__}: {instead}.")
