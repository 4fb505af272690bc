"""Weights of categories that a query adds to a covariate."""

import torch
from scvi.nn import FCLayers
from torch import Tensor, nn

from scsiameseclu.module import SiameseModule


@torch.no_grad()
def place_covariates(module: SiameseModule, reference: SiameseModule) -> dict[str, Tensor]:
    """Give every category of the reference its own weights, and each new one the mean of those of its covariate.

    scvi-tools appends the columns of new categories, with random weights, at the end. They belong at the end of their
    covariate, which is another place if further categorical covariates follow; and random weights would move the cells
    of a new batch before any training.

    Parameters
    ----------
    module
        Module of the query, changed in place.
    reference
        Module of the reference, with no more categories per covariate.

    Returns
    -------
    For every covariate-dependent weight matrix of ``module``, by parameter name, which of its columns are new: bool
    ``(n_columns,)``.
    """
    known = dict(reference.named_modules())
    new_columns: dict[str, Tensor] = {}
    for name, layers in module.named_modules():
        if not isinstance(layers, FCLayers):
            continue
        old_layers = known[name]
        for number, (stack, old_stack) in enumerate(zip(layers.fc_layers, old_layers.fc_layers, strict=True)):
            if layers.inject_into_layer(number):
                new = _place(stack[0], old_stack[0].weight, layers.n_cat_list, old_layers.n_cat_list)
                new_columns[f"{name}.fc_layers.{number}"] = new
    table, old_table = module.decoder.log_dispersion, reference.decoder.log_dispersion
    if table.shape[1] > old_table.shape[1]:
        table.copy_(_extended(old_table.to(table.device), table.shape[1]))
    # What differs in a new batch is not known: nothing is taken out.
    module.expression_scaler.offset[:, reference.expression_scaler.offset.shape[1] :] = 0.0
    return new_columns


def adapt_only_new_categories(module: SiameseModule, new_columns: dict[str, Tensor]) -> None:
    """Let training change the columns of new categories only, on top of what scvi-tools freezes."""
    for name, layers in module.named_modules():
        if not isinstance(layers, FCLayers):
            continue
        for number, stack in enumerate(layers.fc_layers):
            columns = new_columns.get(f"{name}.fc_layers.{number}")
            if columns is not None and stack[0].weight.requires_grad:
                stack[0].weight.register_hook(_Mask(columns))


class _Mask:
    """Zero the gradient of all columns but these."""

    def __init__(self, columns: Tensor) -> None:
        self.columns = columns

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient * self.columns.to(gradient.device, gradient.dtype)


def _place(linear: nn.Linear, old: Tensor, n_cats: list[int], old_n_cats: list[int]) -> Tensor:
    """Fill a linear layer column by column from ``old``; which columns are new.

    Columns are the input, continuous covariates, then the categories of one covariate after the other.
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
    """Append the mean column (0 if there is none: a covariate of a single category has no weights) up to ``n_columns``."""
    if table.shape[1] == 0:
        return table.new_zeros(table.shape[0], n_columns)
    mean = table.mean(dim=1, keepdim=True)
    return torch.cat([table, mean.expand(-1, n_columns - table.shape[1])], dim=1)
