"""Pictures of a report."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from matplotlib import rc_context

from scsiameseclu import pl
from scsiameseclu._keys import confidence_key, latent_key, markers_key, out_of_reference_key, stability_key
from scsiameseclu.report._cells import KEY, Cells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from scsiameseclu.model import SCSiameseClu

_DPI = 150
_PIXELS = 96
"""Pixels of a page per inch."""
_MAX_GENES = 60
"""Largest number of genes of the given marker lists that are drawn."""
_MAX_REFERENCE_CELLS = 5_000
"""Largest number of reference cells that are drawn with the cells of a query. More cells are sampled."""


@dataclass(frozen=True)
class Picture:
    """A figure with its name and its alternative text for screen readers."""

    name: str
    text: str
    figure: Figure

    @property
    def source(self) -> str:
        """The picture as a data URL, for the ``src`` of an image element."""
        buffer = BytesIO()
        self.figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

    @property
    def width(self) -> int:
        """Width of the picture on the page, in pixels."""
        return round(self.figure.get_figwidth() * _PIXELS)

    def write(self, folder: Path) -> None:
        """Write the figure as PNG and as SVG."""
        for ending in ("png", "svg"):
            self.figure.savefig(folder / f"{self.name}.{ending}", dpi=_DPI, bbox_inches="tight")


def draw_pictures(model: SCSiameseClu, cells: Cells, markers: Mapping[str, Sequence[str]] | None) -> dict[str, Picture]:
    """Draw the pictures of a report. Pictures without data are left out.

    Parameters
    ----------
    model
        The model of the report.
    cells
        Cells of the model.
    markers
        Marker genes of each cell type, or ``None``.

    Returns
    -------
    dict
        Pictures by name.
    """
    shown, pictures = cells.shown, {}

    def add(name: str, text: str, draw: Any, *arguments: Any, **options: Any) -> None:
        with rc_context({"text.parse_math": False}):  # names that contain $ must not be read as formulas
            pictures[name] = Picture(name, text, draw(*arguments, return_fig=True, **options))

    colors = [name for name in (KEY, confidence_key(KEY), stability_key(KEY)) if name in shown.obs]
    if shown.n_obs > 2:
        add("umap", "The cells in two dimensions, by " + ", ".join(colors), pl.embedding, shown, colors, key=KEY)
    add("confidence", "Confidence of the cells of every cluster", pl.confidence, shown, key=KEY)
    if model.cluster_tree_ is not None:
        add("tree", "Tree over the clusters, with the evidence for every split", pl.cluster_tree, model, genes=2)
        add("evidence", "Separability of the parts of every split", pl.split_evidence, model)
    if markers_key(KEY) in shown.uns:
        add("markers", "Best marker genes of every cluster", pl.marker_dotplot, shown, key=KEY)
    if known := _known(markers, shown.var_names):
        add("given_markers", "Given marker genes in every cluster", pl.marker_dotplot, shown, known, key=KEY)
    if model.n_clusters_search_ is not None:
        add("n_clusters", "How the number of clusters was found", pl.n_clusters_search, model)
    if model.is_query_ and out_of_reference_key(KEY) in shown.obs:
        text = "Out-of-reference scores of the cells"
        add("out_of_reference", text, pl.out_of_reference, shown, key=KEY)
    if model.is_query_ and model.reference is not None and len(model.reference.latent):
        reference = _sampled(model.reference.latent)
        text = "The cells of the query among cells of the reference, which are grey"
        add("on_reference", text, pl.query_on_reference, shown, reference, key=KEY, reference_key=KEY)
    if model.history:
        add("training", "Loss terms by epoch", pl.training_curves, model)
    return pictures


def _sampled(latent: NDArray[np.float32]) -> AnnData:
    """A random sample of the reference cells, given by their embedding, ``(n, n_latent)``. The seed is fixed."""
    if len(latent) > _MAX_REFERENCE_CELLS:
        rows = np.random.default_rng(0).choice(len(latent), _MAX_REFERENCE_CELLS, replace=False)
        latent = latent[np.sort(rows)]
    return AnnData(obsm={latent_key(KEY): latent}, shape=(len(latent), 0))


def _known(markers: Mapping[str, Sequence[str]] | None, genes: Sequence[str]) -> dict[str, list[str]]:
    """Marker genes that are in the data, at most as many as can be read in a figure."""
    known: dict[str, list[str]] = {}
    left, present = _MAX_GENES, set(genes)
    for name, listed in (markers or {}).items():
        found = [gene for gene in listed if gene in present][:left]
        if found:
            known[name] = found
            left -= len(found)
    return known
