"""Options of the module reach the part of the network that they configure."""

import pytest
from torch import nn

from scsiameseclu.module import SiameseModule

OPTIONS = {
    "n_latent": (7, lambda module: module.graph_encoder.project.out_features),
    "gene_likelihood": ("poisson", lambda module: module.decoder.gene_likelihood),
    "dispersion": ("gene-batch", lambda module: module.decoder.dispersion),
    "convolution": ("attention", lambda module: module.graph_encoder.convolution),
    "fusion": ("mean", lambda module: {0.5: "mean"}[module.fusion.share]),
    "swap_rate": (0.15, lambda module: module.augmentation.swap_rate),
    "noise_sd": (0.35, lambda module: module.augmentation.noise_sd),
    "edge_drop_rate": (0.45, lambda module: module.edge_drop_rate),
    "off_diagonal_weight": (0.55, lambda module: module.off_diagonal_weight),
    "kernel": ("student_t", lambda module: module.build_head(4).kernel),
    "temperature": (0.65, lambda module: module.build_head(4).temperature),
    "sharpening": (2.5, lambda module: module.build_head(4).sharpening),
    "neighbor_positives": (False, lambda module: module.neighbor_positives),
    "protein_likelihood": ("normal", lambda module: module.protein.likelihood),
    "protein_share": (0.85, lambda module: module.protein_share),
    "extra_payload_autotune": (True, lambda module: module.extra_payload_autotune),
}
NETWORKS = ("expression_encoder", "graph_encoder", "protein.encoder")


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_reaches_the_part_that_it_is_about(option):
    value, found = OPTIONS[option]
    module = SiameseModule(9, 4, **{"n_hidden": 16, "n_proteins": 4, option: value})
    assert found(module) == value


@pytest.mark.parametrize("network", NETWORKS)
def test_width_depth_and_dropout_reach_every_encoder(network):
    module = SiameseModule(9, 4, n_hidden=24, n_layers=3, dropout_rate=0.25, n_proteins=4)
    layers = list(module.get_submodule(network).modules())
    widths = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)]
    assert widths.count(24) == 3
    assert {layer.p for layer in layers if isinstance(layer, nn.Dropout)} == {0.25}
