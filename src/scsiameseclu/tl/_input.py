"""Check of the input of the tools."""

from typing import Any

from anndata import AnnData

CLUSTERS_OF_MUDATA = (
    "pass the AnnData of one modality, with the clusters in its obs, such as mdata['rna'] after "
    "mdata['rna'].obs['siamese_clu'] = mdata.obs['siamese_clu']"
)


def check_anndata(data: Any, instead: str) -> None:
    """Check that the input of a tool is an AnnData. The error says what to pass instead of a model or a MuData.

    Parameters
    ----------
    data
        Input of the tool.
    instead
        Advice for users of a MuData, which ends the error message.

    Raises
    ------
    TypeError
        If ``data`` is not an AnnData.
    """
    if hasattr(data, "write_to_adata"):
        instead = "pass the cells themselves, such as model.adata after model.write_to_adata()"
    if not isinstance(data, AnnData):
        raise TypeError(f"Expected an AnnData, found {type(data).__name__}: {instead}.")
