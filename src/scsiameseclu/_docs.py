"""Descriptions of arguments that several functions have, each written once.

A docstring names a description by ``%(name)s``, and :func:`with_shared_descriptions` puts the text there.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from docrep import DocstringProcessor

__all__ = ["with_shared_descriptions"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_processor = DocstringProcessor(
    # cells that a model is applied to
    param_adata="""\
adata
    Cells to look at; those of the model by default. Other cells are set up as the model's were.""",
    param_indices="""\
indices
    Rows, or a boolean mask; all by default.""",
    param_batch_size="""\
batch_size
    Cells per batch; ``scvi.settings.batch_size`` by default.""",
    param_batch_size_on_gpu="""\
batch_size
    Cells per batch; ``scvi.settings.batch_size`` by default, 8,192 or more on a GPU. The number does not change the
    result.""",
    param_transform_batch="""\
transform_batch
    Batch category, or several to average over, that every cell is decoded as; its own by default.""",
    param_gene_list="""\
gene_list
    Genes to return; all by default.""",
    param_return_numpy="""\
return_numpy
    Return an array instead of a :class:`pandas.DataFrame`.""",
    # set-up
    param_n_neighbors="""\
n_neighbors
    Neighbours per cell.""",
    param_setup_kwargs="""\
**kwargs
    Arguments scvi-tools passes on when a model is loaded or mapped to a query.""",
    # saved models
    param_dir_path="""\
dir_path
    Folder of the model.""",
    param_prefix="""\
prefix
    What the names of the files begin with.""",
    param_device="""\
accelerator, device
    As in scvi-tools.""",
    param_reference_model="""\
reference_model
    Trained model, or the folder it was saved in.""",
    # plots
    param_results="""\
adata
    Cells with the results of :meth:`~scsiameseclu.SCSiameseClu.write_to_adata`.""",
    param_key="""\
key
    The ``key_added`` under which the results were written.""",
    param_ax="""\
ax
    Axes to draw into. ``None``: a new figure.""",
    param_figsize="""\
figsize
    Width and height of the figure, in inches.""",
    param_finish="""\
show, save, return_fig
    As in scanpy: show the figure (the default), the file to write it to, return the figure.""",
    returns_panel="""\
Nothing; the figure if ``return_fig``; the axes if ``show=False`` or ``ax`` is given. One panel.""",
)


def with_shared_descriptions(function: _Function) -> _Function:
    """Put the descriptions that the docstring of a function names in their places."""
    described: _Function = _processor.dedent(function)
    return described
