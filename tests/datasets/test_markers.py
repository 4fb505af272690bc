"""Bundled marker genes are complete, clean, and of the organism that they name."""

import re

import pytest

from scsiameseclu.datasets import marker_sets, marker_sources, pbmc3k

TISSUES = ["blood", "brain", "immune", "kidney", "pancreas"]


@pytest.mark.parametrize("tissue", TISSUES)
@pytest.mark.parametrize("organism", ["human", "mouse"])
def test_every_type_has_distinct_markers_of_this_organism(tissue: str, organism: str) -> None:
    sets = marker_sets(tissue, organism)
    assert len(sets) >= 9 and "unassigned" not in sets
    for name, genes in sets.items():
        assert 3 <= len(genes) == len(set(genes)) <= 8, name
        for gene in genes:
            assert gene.isupper() == (organism == "human"), gene
    assert len({frozenset(genes) for genes in sets.values()}) == len(sets)


@pytest.mark.parametrize("tissue", TISSUES)
def test_both_organisms_have_the_same_types(tissue: str) -> None:
    assert list(marker_sets(tissue, "human")) == list(marker_sets(tissue, "mouse"))


@pytest.mark.parametrize("tissue", TISSUES)
def test_sources_are_publications_with_a_doi(tissue: str) -> None:
    sources = marker_sources(tissue)
    assert len(sources) >= 2
    assert all(re.search(r"\(\d{4}\), doi:10\.\d{4,}/\S+$", source) for source in sources)


def test_a_caller_cannot_change_the_bundled_lists() -> None:
    marker_sets("blood")["B cell"].clear()
    assert len(marker_sets("blood")["B cell"]) > 3


def test_most_blood_markers_are_among_the_bundled_cells() -> None:
    genes = {gene for genes in marker_sets("blood").values() for gene in genes}
    assert len(genes.intersection(pbmc3k().var_names)) > 0.6 * len(genes)


def test_unknown_sets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one of \['blood', 'brain', 'immune', 'kidney', 'pancreas'\], found 'liver'"):
        marker_sets("liver")
    with pytest.raises(ValueError, match=r"organism to be one of \['human', 'mouse'\], found 'rat'"):
        marker_sets("blood", "rat")
    with pytest.raises(ValueError, match="found '../blood'"):
        marker_sources("../blood")
