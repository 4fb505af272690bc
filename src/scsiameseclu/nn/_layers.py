"""Layer stacks shared by the encoders, the fusion gate and the decoder."""

from collections.abc import Sequence

from scvi.nn import FCLayers
from torch import nn


def hidden_stack(
    n_in: int,
    n_hidden: int,
    n_layers: int = 1,
    *,
    n_cat_list: Sequence[int] = (),
    n_cont: int = 0,
    dropout_rate: float = 0.0,
) -> FCLayers:
    """Build fully connected hidden layers with layer normalisation and the Mish activation.

    All weights that depend on covariates are in these layers, because query mapping in scvi-tools recognises
    :class:`scvi.nn.FCLayers` and trains only its covariate columns. Layer normalisation, in contrast to batch
    normalisation, works for a mini-batch of one cell, and the result for a cell does not depend on the other cells of
    the mini-batch.

    Parameters
    ----------
    n_in
        Width of the input.
    n_hidden
        Width of every hidden layer, which is also the width of the output.
    n_layers
        Number of hidden layers, at least 1.
    n_cat_list
        Number of categories of each categorical covariate. The batch comes first. A covariate with one category or
        none is not used.
    n_cont
        Number of continuous covariates.
    dropout_rate
        Dropout probability after each layer.
    """
    return FCLayers(
        n_in=n_in,
        n_out=n_hidden,
        n_cat_list=list(n_cat_list),
        n_cont=n_cont,
        n_layers=n_layers,
        n_hidden=n_hidden,
        dropout_rate=dropout_rate,
        use_batch_norm=False,
        use_layer_norm=True,
        activation_fn=nn.Mish,
    )
