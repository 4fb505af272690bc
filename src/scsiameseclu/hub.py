"""Sharing a model: what :class:`scvi.hub.HubModel` needs beside the saved model."""

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

_METADATA = "_scvi_required_metadata.json"  # the name that scvi-tools gives it

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

Clusters of single cells from raw RNA counts: an embedding, {n_clusters} clusters with a confidence for every cell, and
the mapping of new cells to these clusters, by the package `scsiameseclu` on scvi-tools.

```python
import scsiameseclu as ssc

model = ssc.SCSiameseClu.load_query_data(query, "folder of this repository")
model.predict()
```

`ssc.hub.pull_hub_model` downloads the folder. The model is made of `model.safetensors` and `model.json`, with their
digests in `manifest.json`; loading it runs no code from these files.

## Training data

{n_cells} cells, {n_genes} genes, {n_batches} batch(es). Source: {training_data}.

The model holds {n_landmarks} single cells of it: of each the principal components (or other representation of the cell
graph), the batch and the embedding, among which new cells look for neighbours. It holds no counts of single cells, and
no weight of the network belongs to one. `model.save(..., landmarks=n)` writes fewer of them, or none.

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
    """Write the text of a model card.

    The helper of scvi-tools (``HubModelCardHelper``) refuses models of other packages.

    Parameters
    ----------
    folder
        Folder of a saved model.
    license_info
        Licence of the model, as an identifier of the Hugging Face Hub (``"cc-by-4.0"``, ...).
    description
        What the model is for, in Markdown.
    training_data
        Where the training data come from.

    Returns
    -------
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
    """Add metadata and a model card to the folder of a saved model, so that the model hub of scvi-tools can use it.

    Parameters
    ----------
    folder
        Folder of a model saved with ``model.save(folder, save_anndata=True)``. Without the data, only
        ``hub_model.load_model(adata=...)`` works, or a download from ``training_data_url``.
    license_info, description, training_data
        See :func:`model_card`.
    training_data_url
        Where the training data can be downloaded, if they are not in the folder.
    overwrite
        Replace metadata and card that are there already.

    Returns
    -------
    :class:`scvi.hub.HubModel` of the folder; ``push_to_huggingface_hub`` uploads it.

    Raises
    ------
    ImportError
        If ``huggingface_hub`` is not installed.
    FileExistsError
        If the folder has metadata or a card and ``overwrite`` is off.
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
                f"Expected no {' or '.join(present)} in {path!r}; add overwrite=True to replace them."
            )
    return HubModel(path, metadata=metadata, model_card=card)


def pull_hub_model(
    repo_name: str, revision: str | None = None, pull_anndata: bool = True, cache_dir: str | None = None, **kwargs: Any
) -> Any:
    """Download a model of this package from the Hugging Face Hub. No code in the files is run, now or on loading.

    The similar method of scvi-tools downloads ``model.pt``, which is a pickle, and loads it with whatever class the
    repository names.

    Parameters
    ----------
    repo_name
        Repository, ``"owner/name"``.
    revision
        Branch, tag or commit; the newest by default. A commit stays what it is.
    pull_anndata
        Download the data as well, if they are there.
    cache_dir
        Folder for downloads; that of ``huggingface_hub`` by default.
    **kwargs
        Further arguments of :func:`huggingface_hub.snapshot_download`.

    Returns
    -------
    :class:`scvi.hub.HubModel`; its ``load_model`` loads the model, ``SCSiameseClu.load(hub_model.local_dir)`` as well.

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
