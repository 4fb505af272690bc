"""Comparison of the gene names of new cells with the gene names of a model."""

from __future__ import annotations

import warnings

import pandas as pd

_VERSION = r"\.\d+$"  # ENSG00000167286.9


def check_gene_names(found: pd.Index, wanted: pd.Index) -> None:
    """Refuse gene names that cannot be matched to the names in a model, and report near misses.

    A near miss is a name that differs from a name of the model only by upper and lower case or by a version suffix such
    as ``.9``. Near misses are never matched, because two different genes may have nearly equal names.

    Parameters
    ----------
    found
        Names in the new data.
    wanted
        Names the model was set up with.

    Raises
    ------
    ValueError
        If a name occurs more than once, or the model knows none of the names.

    Warns
    -----
    UserWarning
        If genes of the model that are missing in the new data have near misses there.
    """
    if not found.is_unique:
        twice = found[found.duplicated()].unique()
        raise ValueError(
            f"Expected unique gene names, found {len(twice)} more than once ({_examples(twice)}). "
            "Call adata.var_names_make_unique() or remove the copies."
        )
    known = found.isin(wanted)
    near = _near_misses(found[~known], wanted[~wanted.isin(found)])
    if not known.any():
        hint = near or "Check that query and model use the same kind of gene names."
        raise ValueError(
            f"Expected some of the model's {len(wanted)} genes ({_examples(wanted)}), found none of them among the "
            f"query's {len(found)} ({_examples(found)}). {hint}"
        )
    if near:
        warnings.warn(
            f"Expected the gene names of the model, found {int(known.sum())} of its {len(wanted)}. {near}",
            UserWarning,
            stacklevel=2,
        )


def check_same_genes(found: pd.Index, wanted: pd.Index) -> None:
    """Refuse data whose genes are not the genes of a model in the order of the model.

    Parameters
    ----------
    found
        Names in the data.
    wanted
        Names the model was set up with.

    Raises
    ------
    ValueError
        If ``found`` differs from ``wanted``. The message says whether genes are missing or only in another order.
    """
    if found.equals(wanted):
        return
    missing = wanted[~wanted.isin(found)]
    if len(missing):
        near = _near_misses(found[~found.isin(wanted)], missing)
        hint = f"{near} " if near else ""
        raise ValueError(
            f"Expected the {len(wanted)} genes the model was set up with ({_examples(wanted)}), found "
            f"{len(wanted) - len(missing)} of them among {len(found)} ({_examples(found)}). {hint}"
            "scsiameseclu.tl.map(adata, model) maps cells that lack genes of the model, which count as 0."
        )
    raise ValueError(
        f"Expected the {len(wanted)} genes the model was set up with, in their order, found them in another order or "
        "more than once, in data that cannot be reordered: make names unique, and read backed data into memory "
        "(adata.to_memory())."
    )


def check_gene_share(found: pd.Index, wanted: pd.Index, min_share: float) -> None:
    """Refuse new cells that have too few of the genes of a model.

    The missing genes, not the cell type, would decide to which cluster the model assigns such cells.

    Parameters
    ----------
    found
        Names in the new data, unique.
    wanted
        Names the model was set up with.
    min_share
        Share of ``wanted`` that must be found, in ``[0, 1]``.

    Raises
    ------
    ValueError
        If the share is smaller than ``min_share``, or ``min_share`` is out of range.
    """
    if not 0 <= min_share <= 1:
        raise ValueError(f"`min_gene_share`: expected a number between 0 and 1, found {min_share}.")
    known = wanted.isin(found)
    if known.mean() < min_share:
        hint = _near_misses(found[~found.isin(wanted)], wanted[~known])
        raise ValueError(
            f"Expected at least {min_share:.0%} of the model's {len(wanted)} genes ({_examples(wanted)}), found "
            f"{int(known.sum())} ({known.mean():.1%}) among the query's {len(found)} ({_examples(found)}). The missing "
            "genes would decide to which clusters the cells are assigned. "
            f"{hint or 'Check that query and model are of one species and use the same kind of gene names.'} To map "
            "the cells nevertheless, lower min_gene_share."
        )


def _near_misses(found: pd.Index, wanted: pd.Index) -> str:
    """Message about near misses: how the names differ, and what to do. Empty if there is no near miss."""
    exact = pd.Series(wanted.astype(str), index=wanted.astype(str))
    changes = {
        "the version suffix": lambda names: names.str.replace(_VERSION, "", regex=True),
        "upper and lower case": lambda names: names.str.upper(),
        "case and version suffix": lambda names: names.str.upper().str.replace(_VERSION, "", regex=True),
    }
    names = found.astype(str)
    for what, simplified in changes.items():
        of_model = exact.groupby(simplified(exact.index)).first()
        plain = simplified(names)
        matched = plain.isin(of_model.index)
        if matched.any():
            first = int(matched.argmax())
            return (
                f"{len(plain[matched].unique())} more would match without {what} ({names[first]!r} here, "
                f"{of_model[plain[first]]!r} in the model). If these are the same genes, rename adata.var_names "
                "to the names in the model."
            )
    return ""


def _examples(names: pd.Index) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
