"""Share models on the Hugging Face Hub through :class:`scvi.hub.HubModel`."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scsiameseclu._atomic import replaced_entries
from scsiameseclu._keys import SIAMESE_KEYS

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["model_card", "prepare_hub_model", "pull_hub_model"]

PARENT_MODULE = "scsiameseclu"

_METADATA = "_scvi_required_metadata.json"  # name of the metadata file in scvi-tools

_CARD = """\
---
license: {license}
library_name: scvi-tools
tags:
- biology
- genomics
- single-cell
- clustering
- model_cls_name:{model}
- scvi_version:{scvi_version}
- anndata_version:{anndata_version}
---

# {model}

{description}

This model clusters single cells from raw RNA counts. The model gives an embedding of the cells and
{n_clusters} clusters, with a confidence for every cell. The model also assigns new cells to these clusters. The model
was trained with the package `scsiameseclu`, which builds on scvi-tools.

```python
import scsiameseclu as ssc

model = ssc.SCSiameseClu.load_query_data(query, "folder of this repository")
model.predict()
```

`ssc.hub.pull_hub_model` downloads the folder. The model consists of `model.safetensors` and `model.json`. The digests
of both files are in `manifest.json`. Loading the model runs no code from these files.

## Training data

{n_cells} cells, {n_genes} genes, {n_batches} batch(es). Source: {training_data}.

The files contain data of {n_landmarks} single cells of the training data (landmarks): the principal components (or
another representation that the cell graph was built on), the batch and the embedding of each landmark. The neighbours
of new cells are searched among the landmarks. The files contain no counts of single cells, and no weight of the network
belongs to a single cell. `model.save(..., landmarks=n)` writes fewer landmarks, or none.

## Set-up

```json
{setup}
```

## Parameters

```json
{parameters}
```
"""


def model_card(
    folder: str | PathLike[str], license_info: str, description: str = "", training_data: str = "not stated"
) -> str:
    """Create the text of a model card.

    The function of scvi-tools for model cards (``HubModelCardHelper``) refuses models of other packages.

    Parameters
    ----------
    folder
        Folder of a saved model.
    license_info
        Licence of the model, as an identifier of the Hugging Face Hub (``"cc-by-4.0"``, ...).
    description
        What the model is for, in Markdown.
    training_data
        Source of the training data, in Markdown.

    Returns
    -------
    str
        Markdown with the header that the Hugging Face Hub expects.

    Raises
    ------
    ValueError
        If the folder holds no model of this package.
    """
    from scsiameseclu import _compat
    from scsiameseclu.model import SCSiameseClu

    model = SCSiameseClu.load(str(folder), adata=False, accelerator="cpu")
    stats = model.summary_stats
    options = model.init_params_
    parameters = {**options["non_kwargs"]}
    for extra in options["kwargs"].values():
        parameters.update(extra)
    landmarks = _compat.field_state(model.registry_, SIAMESE_KEYS.CELL_GRAPH)["landmarks"]
    return _CARD.format(
        license=license_info,
        model=type(model).__name__,
        scvi_version=model.registry_["scvi_version"],
        anndata_version=version("anndata"),
        description=description,
        n_clusters=model.n_clusters,
        n_cells=stats["n_cells"],
        n_genes=stats["n_vars"],
        n_batches=stats["n_batch"],
        training_data=training_data,
        n_landmarks=len(landmarks["rep"]),
        setup=json.dumps(model.registry_["setup_args"], indent=2, default=str),
        parameters=json.dumps(parameters, indent=2, default=str),
    )


def prepare_hub_model(
    folder: str | PathLike[str],
    license_info: str,
    description: str = "",
    training_data: str = "not stated",
    training_data_url: str | None = None,
    overwrite: bool = False,
) -> Any:
    """Add metadata and a model card to the folder of a saved model, as the model hub of scvi-tools requires.

    Parameters
    ----------
    folder
        Folder of a model saved with ``model.save(folder, save_anndata=True)``. If the model was saved without its data,
        the data must be given to ``hub_model.load_model(adata=...)``, or be available from ``training_data_url``.
    license_info, description, training_data
        See :func:`model_card`.
    training_data_url
        Address to download the training data from, if the data are not in the folder.
    overwrite
        Whether to replace existing metadata and an existing model card.

    Returns
    -------
    :class:`scvi.hub.HubModel`
        Hub model of the folder. Its method ``push_to_huggingface_hub`` uploads the folder.

    Raises
    ------
    ImportError
        If ``huggingface_hub`` is not installed.
    FileExistsError
        If the folder already has metadata or a model card, and ``overwrite=False``.
    ValueError
        If the folder holds no model of this package.
    """
    from scsiameseclu.model import SCSiameseClu

    text = model_card(folder, license_info, description, training_data)
    try:
        from huggingface_hub import ModelCard
        from scvi.hub import HubMetadata, HubModel
    except ImportError as error:
        raise ImportError(
            "Expected the package huggingface_hub, found none: pip install 'scsiameseclu[hub]'."
        ) from error
    path = str(Path(folder))
    registry = SCSiameseClu.load_registry(path)
    metadata = HubMetadata(
        scvi_version=registry["scvi_version"],
        anndata_version=version("anndata"),
        model_cls_name=SCSiameseClu.__name__,
        training_data_url=training_data_url,
        model_parent_module=PARENT_MODULE,
    )
    card = ModelCard(text)
    with replaced_entries(folder) as new:
        HubModel(str(new), metadata=metadata, model_card=card).save()
        present = [each.name for each in new.iterdir() if (Path(folder) / each.name).exists()]
        if present and not overwrite:
            raise FileExistsError(
                f"Expected no {' or '.join(present)} in {path!r}; add overwrite=True to replace these files."
            )
    return HubModel(path, metadata=metadata, model_card=card)


def pull_hub_model(
    repo_name: str, revision: str | None = None, pull_anndata: bool = True, cache_dir: str | None = None, **kwargs: Any
) -> Any:
    """Download a model of this package from the Hugging Face Hub.

    Neither downloading nor loading the model runs code from the files. The corresponding method of scvi-tools
    (:meth:`scvi.hub.HubModel.pull_from_huggingface_hub`) is less safe: the method downloads ``model.pt``, which is a
    pickle, and loads the file with the class that the repository names.

    Parameters
    ----------
    repo_name
        Repository, ``"owner/name"``.
    revision
        Branch, tag or commit to download. ``None``: the newest version. Only a commit always names the same files.
    pull_anndata
        Whether to download the data as well, if the repository contains data.
    cache_dir
        Folder for downloads. ``None``: the default folder of ``huggingface_hub``.
    **kwargs
        Further arguments of :func:`huggingface_hub.snapshot_download`.

    Returns
    -------
    :class:`scvi.hub.HubModel`
        Its method ``load_model`` loads the model. ``SCSiameseClu.load(hub_model.local_dir)`` also loads the model.

    Raises
    ------
    ImportError
        If ``huggingface_hub`` is not installed.
    ValueError
        If the repository holds no model of this package.
    """
    from scsiameseclu._file_format import ARRAYS, MANIFEST, VALUES
    from scsiameseclu.model import SCSiameseClu
    from scsiameseclu.model._saved_files import DATA_FILES

    try:
        from huggingface_hub import snapshot_download
        from scvi.hub import HubModel
    except ImportError as error:
        raise ImportError(
            "Expected the package huggingface_hub, found none: pip install 'scsiameseclu[hub]'."
        ) from error
    data = list(DATA_FILES.values()) if pull_anndata else []
    wanted = [MANIFEST, VALUES, ARRAYS, _METADATA, "README.md", *data]
    folder = snapshot_download(repo_name, allow_patterns=wanted, revision=revision, cache_dir=cache_dir, **kwargs)
    SCSiameseClu.load_registry(folder)
    try:
        metadata = json.loads((Path(folder) / _METADATA).read_text(encoding="utf-8"))
        found = metadata["model_parent_module"], metadata["model_cls_name"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"Expected {_METADATA} of a model in {repo_name!r}, found none that can be read.") from error
    if found != (PARENT_MODULE, SCSiameseClu.__name__):
        raise ValueError(
            f"Expected a model of class {PARENT_MODULE}.{SCSiameseClu.__name__} in {repo_name!r}, found "
            f"{'.'.join(map(str, found))}."
        )
    return HubModel(folder, repo_name=repo_name)
