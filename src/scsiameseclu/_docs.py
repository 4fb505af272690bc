"""Descriptions of arguments that several functions share.

A docstring contains ``%(name)s`` where the description called ``name`` belongs. :func:`with_shared_descriptions`
inserts the text.
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
    Cells to apply the model to. ``None``: the cells of the model. Other cells are set up with the set-up arguments of
    the model.""",
    param_indices="""\
indices
    Row numbers of cells, or a boolean mask over the cells. ``None``: all cells.""",
    param_batch_size="""\
batch_size
    Cells per mini-batch. ``None``: ``scvi.settings.batch_size``.""",
    param_batch_size_on_gpu="""\
batch_size
    Cells per mini-batch. ``None``: ``scvi.settings.batch_size``, and at least 8,192 on a GPU. The number does not
    change the result.""",
    param_transform_batch="""\
transform_batch
    Batch category that every cell is decoded with. With a list of categories, the results are averaged over these
    batches. ``None``: each cell is decoded with its own batch.""",
    param_gene_list="""\
gene_list
    Names of the genes to return. ``None``: all genes.""",
    param_return_numpy="""\
return_numpy
    Return an array instead of a :class:`pandas.DataFrame`.""",
    # set-up
    param_n_neighbors="""\
n_neighbors
    Number of neighbours of each cell in the cell graph.""",
    param_setup_kwargs="""\
**kwargs
    Arguments that scvi-tools passes when a model is loaded or a query is mapped to a model. Users do not need them.""",
    # saved models
    param_dir_path="""\
dir_path
    Folder of the saved model.""",
    param_prefix="""\
prefix
    Text at the start of the names of the model's files.""",
    param_device="""\
accelerator, device
    Device to load the model to, as in :meth:`scvi.model.base.BaseModelClass.load`: for example ``"cpu"``, ``"gpu"`` or
    ``"auto"``, and the number of the device.""",
    param_reference_model="""\
reference_model
    Trained model, or the folder of a saved model.""",
    # plots
    param_results="""\
adata
    Cells with the results of :meth:`~scsiameseclu.SCSiameseClu.write_to_adata`.""",
    param_key="""\
key
    The ``key_added`` under which the results were written.""",
    param_ax="""\
ax
    Axes to draw into. ``None``: the axes of a new figure.""",
    param_figsize="""\
figsize
    Width and height of the figure, in inches.""",
    param_finish="""\
show, save, return_fig
    As in scanpy. ``show``: whether to show the figure (the default). ``save``: path of a file to write the figure to.
    ``return_fig``: whether to return the figure.""",
    returns_panel="""\
The figure if ``return_fig``; the axes if ``show=False`` or ``ax`` is given; otherwise ``None``. The figure has one
panel.""",
)


def with_shared_descriptions(function: _Function) -> _Function:
    """Replace each ``%(name)s`` in the docstring of a function by the shared description of this name."""
    described: _Function = _processor.dedent(function)
    return described
