"""A report of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from scsiameseclu._atomic import replaced_file
from scsiameseclu._keys import DEFAULT_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from anndata import AnnData
    from mudata import MuData

    from scsiameseclu.model._siamese_clu import SCSiameseClu


class ReportMixin:
    """One page with what there is to know about the clusters."""

    def report(
        self,
        path: str | PathLike[str],
        adata: AnnData | MuData | None = None,
        *,
        markers: str | Mapping[str, Sequence[str]] | None = None,
        labels_key: str | None = None,
        key: str = DEFAULT_KEY,
        figures: str | PathLike[str] | None = None,
        call: str | None = None,
    ) -> None:
        """Write a report as one HTML file that fetches nothing from the network and can be printed.

        It holds a summary of the data, what asks for a second look (few counts, small or unstable clusters, clusters
        that follow a column of ``obs``, clusters that may hold two types), a UMAP, the tree over the clusters with its
        evidence, marker genes, a table of the clusters with proposed names, the least certain cells and those unlike
        the reference, and the settings, versions and call behind the result.

        Parameters
        ----------
        path
            File to write, in a folder that is made if there is none; a file that is there is replaced.
        adata
            The cells of the model with all their genes or further columns of ``obs``, such as the object that was
            passed to :func:`scsiameseclu.tl.cluster`. ``None``: the data of the model. Nothing is written to it.
        markers
            Marker genes of each type, or the name of a bundled human set such as ``"blood"``, to propose names by
            :func:`scsiameseclu.tl.annotate`.
        labels_key
            Column of ``obs`` with known types, shown next to the clusters and used for nothing else.
        key
            Name of the results in ``obs``, under which the stability of the clusters
            (:func:`scsiameseclu.tl.stability`) is looked up.
        figures
            Folder to write the figures to, as PNG and SVG. ``None``: they are on the page only.
        call
            Text to show as the call that made the result. ``None``: set-up, construction and training as code.

        Raises
        ------
        RuntimeError
            If the model has no clusters yet.
        ValueError
            If ``adata`` has other cells than the model; and as :func:`scsiameseclu.tl.annotate`.
        KeyError
            If there is no column ``labels_key``.

        Examples
        --------
        >>> model = scsiameseclu.tl.cluster(adata)
        >>> model.report("report.html", adata, markers={"B cell": ["CD79A", "MS4A1"], "T cell": ["CD3D", "CD3E"]})
        """
        from scsiameseclu.report import build_report  # imported late: training needs no plots

        model = cast("SCSiameseClu", self)
        found = build_report(model, adata, markers=markers, labels_key=labels_key, key=key, call=call)
        with replaced_file(path) as new:
            new.write_text(found.to_html(), encoding="utf-8")
        if figures is not None:
            found.write_figures(Path(figures))
