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
    """Report about the clusters of a trained model, on one page."""

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
        """Write a report about the clusters as one HTML file.

        The file can be printed, and loads nothing from the network. The report contains

        * a summary of the data;
        * warnings about few counts, small or unstable clusters, clusters that follow a column of ``obs``, and clusters
          that may hold two cell types;
        * a UMAP, the tree over the clusters with the evidence for each split, and marker genes;
        * a table of the clusters with proposed names;
        * the least certain cells, and cells unlike the reference;
        * settings, versions and code behind the result.

        Parameters
        ----------
        path
            File to write. The folder is created if necessary, and an existing file is replaced.
        adata
            Cells of the model with additional genes or columns of ``obs``, such as the object that was passed to
            :func:`scsiameseclu.tl.cluster`. By default the data of the model. The method does not change the object.
        markers
            Marker genes by cell type, or the name of a bundled human set such as ``"blood"``.
            :func:`scsiameseclu.tl.annotate` proposes names of the clusters from the markers.
        labels_key
            Column of ``obs`` with known cell types. The types are shown next to the clusters and used for nothing else.
        key
            Key of the results in ``obs``. The report finds the stability of the clusters
            (:func:`scsiameseclu.tl.stability`) under this key.
        figures
            Folder for the figures as PNG and SVG files. With ``None`` the figures are only in the report.
        call
            Code to show as the call that made the result. With ``None`` the report shows set-up, construction and
            training of the model as code.

        Raises
        ------
        RuntimeError
            If the model has no clusters yet.
        ValueError
            If ``adata`` has other cells than the model. Also under the conditions of
            :func:`scsiameseclu.tl.annotate`.
        KeyError
            If ``obs`` has no column ``labels_key``.

        Examples
        --------
        >>> model = scsiameseclu.tl.cluster(adata)
        >>> model.report("report.html", adata, markers={"B cell": ["CD79A", "MS4A1"], "T cell": ["CD3D", "CD3E"]})
        """
        from scsiameseclu.report import build_report  # imported here, so that training does not import plot libraries

        model = cast("SCSiameseClu", self)
        found = build_report(model, adata, markers=markers, labels_key=labels_key, key=key, call=call)
        with replaced_file(path) as new:
            new.write_text(found.to_html(), encoding="utf-8")
        if figures is not None:
            found.write_figures(Path(figures))
