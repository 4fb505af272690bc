"""Weights of new categories in a query, and freezing of all other weights."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from scvi.nn import FCLayers
from torch import Tensor, nn

from scsiameseclu.module import SiameseModule


@torch.no_grad()
def place_covariates(module: SiameseModule, reference: SiameseModule) -> dict[str, list[int]]:
    """Copy the weights of known categories from the reference, and give new categories mean weights.

    A new category gets the mean weights of the known categories of its covariate. scvi-tools puts the columns of new
    categories, with random weights, at the end of the matrix. The columns belong at the end of their covariate, which
    is another place if more categorical covariates follow. Random weights would also move the cells of a new batch
    before any training.

    Parameters
    ----------
    module
        Module of the query, changed in place.
    reference
        Module of the reference. No covariate has more categories here than in ``module``.

    Returns
    -------
    Column numbers of the new categories in every covariate-dependent weight matrix of ``module``, by name of the
    parameter.
    """
    known = dict(reference.named_modules())
    new_columns: dict[str, list[int]] = {}
    for name, layers in module.named_modules():
        if not isinstance(layers, FCLayers):
            continue
        old_layers = known[name]
        for number, (stack, old_stack) in enumerate(zip(layers.fc_layers, old_layers.fc_layers, strict=True)):
            if layers.inject_into_layer(number):
                new = _place(stack[0], old_stack[0].weight, layers.n_cat_list, old_layers.n_cat_list)
                new_columns[f"{name}.fc_layers.{_layer_name(number)}.0.weight"] = new.nonzero().ravel().tolist()
    table, old_table = module.decoder.log_dispersion, reference.decoder.log_dispersion
    if table.shape[1] > old_table.shape[1]:
        table.copy_(_extended(old_table.to(table.device), table.shape[1]))
    # The offsets of a new batch are not known, so no offset is subtracted.
    module.expression_scaler.offset[:, reference.expression_scaler.offset.shape[1] :] = 0.0
    return new_columns


def adapt_only_new_categories(module: SiameseModule, new_columns: Mapping[str, Sequence[int]]) -> None:
    """Let training change only the columns of new categories in covariate-dependent weights.

    scvi-tools freezes all other weights before.

    Parameters
    ----------
    module
        Module of a query, changed in place.
    new_columns
        Column numbers of new categories, by name of the parameter.
    """
    parameters = dict(module.named_parameters())
    for name, columns in new_columns.items():
        if parameters[name].requires_grad:
            mask = torch.zeros(parameters[name].shape[1])
            mask[list(columns)] = 1.0
            parameters[name].register_hook(_Mask(mask))


def encoder_digest(module: SiameseModule, n_categories: Sequence[int]) -> str:
    """SHA-1 of the weights that embed cells of known categories, in hexadecimal.

    Parameters
    ----------
    module
        Module of a reference or a query.
    n_categories
        Number of known categories of every categorical covariate. The batch comes first. Weights of new categories do
        not change the digest.
    """
    known = _known_columns(module, n_categories)
    state = hashlib.sha1(usedforsecurity=False)
    for name, value in sorted(module.state_dict().items()):
        if name.startswith(_ENCODING):
            value = value[:, known[name]] if name in known else value
            state.update(name.encode())
            state.update(value.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


_ENCODING = (
    "embedding_genes",
    "expression_scaler.",
    "covariate_scaler.",
    "expression_encoder.",
    "graph_encoder.",
    "fusion.",
    "protein.encoder.",
    "protein.fusion.",
)
"""Beginnings of the names of all tensors that an embedding depends on."""


def _known_columns(module: SiameseModule, n_categories: Sequence[int]) -> dict[str, Tensor]:
    """Masks of the columns of the input and of known categories, by name of each covariate-dependent tensor."""
    columns = {"expression_scaler.offset": torch.arange(module.expression_scaler.offset.shape[1]) < n_categories[0]}
    for name, layers in module.named_modules():
        if not isinstance(layers, FCLayers) or not layers.n_cat_list:
            continue
        # A covariate with a single category has no columns. Columns appear when a second category is added.
        of_categories = [
            torch.arange(n_cat) < (n_known if n_known > 1 else 0)
            for n_cat, n_known in zip(layers.n_cat_list, n_categories, strict=True)
        ]
        for number, stack in enumerate(layers.fc_layers):
            if layers.inject_into_layer(number):
                width = stack[0].weight.shape[1] - sum(layers.n_cat_list)
                of_input = torch.ones(width, dtype=torch.bool)
                columns[f"{name}.fc_layers.{_layer_name(number)}.0.weight"] = torch.cat([of_input, *of_categories])
    return columns


def _layer_name(number: int) -> str:
    """Name of a layer of :class:`scvi.nn.FCLayers`."""
    return f"Layer {number}"


class _Mask:
    """Gradient hook that zeroes the gradient of masked columns, where the mask is 0."""

    def __init__(self, columns: Tensor) -> None:
        self.columns = columns

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient * self.columns.to(gradient.device, gradient.dtype)


def _place(linear: nn.Linear, old: Tensor, n_cats: list[int], old_n_cats: list[int]) -> Tensor:
    """Fill the weights of a linear layer from ``old``, and return a mask of the new columns.

    The columns are the input, then the continuous covariates, then the categories of one covariate after the other.
    """
    old = old.to(linear.weight.device)
    start = old.shape[1] - sum(old_n_cats)
    parts, new = [old[:, :start]], [torch.zeros(start, dtype=torch.bool)]
    for n_cat, old_n_cat in zip(n_cats, old_n_cats, strict=True):
        own = old[:, start : start + old_n_cat]
        parts.append(_extended(own, n_cat))
        new.append(torch.arange(n_cat) >= max(old_n_cat, min(n_cat, 1)))
        start += old_n_cat
    linear.weight.copy_(torch.cat(parts, dim=1))
    return torch.cat(new)


def _extended(table: Tensor, n_columns: int) -> Tensor:
    """Append the mean of the columns until the table has ``n_columns`` columns.

    A table without columns gets columns of zeros. Such a table belongs to a covariate with a single category.
    """
    if table.shape[1] == 0:
        return table.new_zeros(table.shape[0], n_columns)
    mean = table.mean(dim=1, keepdim=True)
    return torch.cat([table, mean.expand(-1, n_columns - table.shape[1])], dim=1)
