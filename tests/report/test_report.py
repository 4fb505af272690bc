"""The report of a model is complete and safe, and needs no other files."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData

from scsiameseclu import tl
from scsiameseclu.datasets import synthetic
from scsiameseclu.model import SCSiameseClu
from scsiameseclu.report import _figures, build_report

SHORT = {"max_epochs": 20, "accelerator": "cpu", "enable_progress_bar": False}
HOSTILE = "<script>alert(1)</script>"
IMAGE = '"><img src="http://example.org/x.png" onerror=alert(1)>'
VOID = {"meta", "link", "img", "br"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """Tags with their attributes, texts, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def adata() -> AnnData:
    adata = synthetic(n_obs=240, n_vars=90, n_types=3, n_batches=2, seed=0)
    adata.obs["quality"] = np.random.default_rng(0).normal(size=adata.n_obs)
    return adata


@pytest.fixture(scope="module")
def model(adata) -> SCSiameseClu:
    scvi.settings.seed = 0
    small = {"n_hidden": 32, "n_latent": 8}
    return tl.cluster(adata, 3, batch_key="batch", n_top_genes=60, model_kwargs=small, train_kwargs=SHORT)


@pytest.fixture(scope="module")
def markers(adata) -> dict[str, list[str]]:
    """Genes that are highest in each type."""
    types = adata.obs["cell_type"].astype(str)
    means = pd.DataFrame(adata.X.toarray(), columns=adata.var_names).groupby(types.to_numpy()).mean()
    excess = means / means.mean()
    return {name: list(row.nlargest(5).index) for name, row in excess.iterrows()}


@pytest.fixture
def renamed(model):
    """The model with a hostile name for a cluster while the test runs."""
    before = model._cluster_names()
    model.rename({before[0]: HOSTILE, before[1]: IMAGE, before[2]: r"$\frac$ & {{ 7 * 6 }}"})
    yield model
    model.rename(dict(zip(model._cluster_names(), before, strict=True)))


def test_everything_is_on_one_page_and_nothing_is_written_to_the_data(model, adata, markers, tmp_path):
    before, own = adata.copy(), model.adata.copy()
    model.report(tmp_path / "new" / "report.html", adata, markers=markers, labels_key="cell_type")
    for now, then in ((adata, before), (model.adata, own)):
        pd.testing.assert_frame_equal(now.obs, then.obs)
        pd.testing.assert_frame_equal(now.var, then.var)
        assert (now.X != then.X).nnz == 0
        assert set(now.obsm) == set(then.obsm) and set(now.obsp) == set(then.obsp) and set(now.uns) == set(then.uns)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]
    page = Page((tmp_path / "new" / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    alternatives = [image["alt"] for image in page.of("img")]
    assert len(alternatives) == len(set(alternatives)) == 7 and all(alternatives)
    text = " ".join(page.texts)
    for name in (*markers, "scvi-tools", "n_neighbors", "240"):
        assert name in text
    headings = {"Data", "Clusters", "Cluster tree", "Settings", "Versions", "Least certain cells"}
    assert headings <= {each.strip() for each in page.texts}


def test_nothing_is_fetched(model, tmp_path):
    model.report(tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not {"script", "iframe", "object", "embed", "form", "video", "audio"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "data", "srcset", "poster"}:
                assert value.startswith(("data:", "#")), (tag, name)
    for image in page.of("img"):
        assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    style = (tmp_path / "report.html").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style and "@media print" in style
    policy = next(each["content"] for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_texts_of_the_user_are_only_text(renamed, adata, tmp_path):
    hostile = adata.copy()
    labels = renamed.predict().astype(str).to_numpy()
    hostile.obs[IMAGE] = pd.Categorical(np.where(labels == HOSTILE, HOSTILE, "other"))
    hostile.obs["labels"] = pd.Categorical([f"{IMAGE}{each}" for each in adata.obs["cell_type"]])
    genes = {HOSTILE: list(adata.var_names[:5]), IMAGE: list(adata.var_names[5:10])}
    renamed.report(
        tmp_path / "report.html", hostile, markers=genes, labels_key="labels", call=f"{HOSTILE}", figures=tmp_path
    )
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == [] and not page.of("script")
    assert all(image["src"].startswith("data:") for image in page.of("img"))
    text = "".join(page.texts)
    assert text.count(HOSTILE) > 5 and IMAGE in text and "{{ 7 * 6 }}" in text
    followed = [each for each in build_report(renamed, hostile).concerns if each.kind == "column"]
    assert any(each.about == HOSTILE and IMAGE in each.text for each in followed)


def test_figures_are_written_as_png_and_svg(model, tmp_path):
    model.report(tmp_path / "report.html", figures=tmp_path / "figures")
    written = {path.stem: set() for path in (tmp_path / "figures").iterdir()}
    for path in (tmp_path / "figures").iterdir():
        written[path.stem].add(path.suffix)
        assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    assert set(written) == {"umap", "confidence", "tree", "evidence", "markers", "training"}
    assert all(kinds == {".png", ".svg"} for kinds in written.values())


def test_the_clusters_of_the_table_are_those_of_the_model(model, adata, markers):
    report = build_report(model, adata, markers=markers, labels_key="cell_type")
    table = pd.DataFrame(report.clusters.rows, columns=report.clusters.header).set_index("cluster")
    summary = model.get_cluster_summary()
    assert table["cells"].astype(int).to_dict() == summary["size"].astype(int).to_dict()
    np.testing.assert_allclose(table["confidence"].astype(float), summary["mean_confidence"], atol=6e-4)
    labels = model.predict().astype(str)
    shares = pd.crosstab(labels.to_numpy(), adata.obs["cell_type"].astype(str).to_numpy(), normalize="index")
    for cluster, row in table.iterrows():
        best = shares.loc[cluster].sort_values(ascending=False)
        assert row["name by labels"] == f"{best.index[0]} ({best.iloc[0]:.0%})"
        assert row["name by markers"].startswith(best.index[0])
        assert row["runner-up by markers"].split(" (")[0] in set(markers) - {best.index[0]}
    assert (
        report.pairs is None
        or sum(int(n) for _, n in report.pairs.rows) == (model.predict(soft=True).max(axis=1) < 0.5).sum()
    )
    least = model.predict(soft=True).max(axis=1)
    assert report.least_certain.rows[0][0] in set(least.index[least == least.min()])


def test_the_code_makes_the_model_again(model):
    code = build_report(model).code
    assert "batch_key='batch'" in code and "n_clusters=3" in code and "scvi.settings.seed = 0" in code
    cells = synthetic(n_obs=240, n_vars=90, n_types=3, n_batches=2, seed=0)[:, model.adata.var_names].copy()
    # The device is not part of the code for the result; progress bars are.
    code = code.replace("model.train(", "model.train(accelerator='cpu', enable_progress_bar=False, ")
    scope = {"adata": cells}
    scvi.settings.seed = 5
    exec(code, scope)
    pd.testing.assert_series_equal(scope["model"].predict(), model.predict())
    np.testing.assert_array_equal(scope["model"].get_latent_representation(), model.get_latent_representation())


def test_a_given_call_and_later_changes_are_told(model, tmp_path):
    assert build_report(model, call="scsiameseclu fit x").code == "scsiameseclu fit x"
    assert "code" not in build_report(model).notes
    model.save(tmp_path / "model", save_anndata=True)
    other = SCSiameseClu.load(tmp_path / "model", accelerator="cpu")
    other.merge(["0", "1"])
    assert "after training" in build_report(other).notes["code"]
    report = build_report(other)
    assert len(report.clusters.rows) == 2 and [row[:2] for row in report.splits.rows] != []


def test_stability_is_shown_for_these_clusters_only(model, adata):
    cells = adata.copy()
    rng, labels = np.random.default_rng(0), cells.obs["siamese_clu"].astype(str).to_numpy()
    runs = pd.DataFrame({name: rng.permutation(labels) for name in "ab"}, index=cells.obs_names)
    tl.stability(cells, labels=runs)
    report = build_report(model, cells)
    assert "stability" in report.clusters.header and "siamese" not in report.pictures["umap"].text
    assert "stability" in report.pictures["umap"].text
    assert {each.about for each in report.concerns if each.kind == "stability"} == {"0", "1", "2"}
    cells.obs["siamese_clu"] = cells.obs["siamese_clu"].cat.rename_categories(["2", "1", "0"])
    assert "stability" not in build_report(model, cells).clusters.header


def test_a_query_has_its_own_page(model):
    query = synthetic(n_obs=80, n_vars=90, n_types=3, n_batches=2, seed=3)
    rng = np.random.default_rng(0)
    query.X = np.where(rng.random(query.shape) < 0.5, query.X.toarray(), rng.permuted(query.X.toarray(), axis=1))
    report = build_report(tl.map(query, model), query)
    assert {"out_of_reference", "on_reference"} <= set(report.pictures) and "cells out of reference" in report.summary
    assert "tl.map" in report.code and "out of reference" in report.to_html()
    assert {"out_of_reference", "on_reference"}.isdisjoint(build_report(model).pictures)


def test_a_sample_of_a_large_reference_is_drawn(model, monkeypatch):
    assert _figures._MAX_REFERENCE_CELLS == 5_000
    query = tl.map(synthetic(n_obs=20, n_vars=90, n_types=3, n_batches=2, seed=3), model)
    latent = query.reference.latent

    def drawn(largest):
        monkeypatch.setattr(_figures, "_MAX_REFERENCE_CELLS", largest)
        return _figures._sampled(latent).obsm["X_cluster"]

    np.testing.assert_array_equal(drawn(len(latent)), latent)
    sample = drawn(30)
    np.testing.assert_array_equal(sample, drawn(30))
    rows = [np.flatnonzero((latent == cell).all(axis=1))[0] for cell in sample]
    assert len(set(rows)) == 30 and sorted(rows) == rows and rows != list(range(30))
    grey = build_report(query).pictures["on_reference"].figure.axes[0].collections[0]
    assert len(grey.get_offsets()) == 30


def test_one_cluster_has_a_page_too(tmp_path):
    scvi.settings.seed = 0
    cells = synthetic(n_obs=60, n_vars=30, n_types=1, seed=0)
    one = tl.cluster(cells, 1, model_kwargs={"n_hidden": 16}, train_kwargs=SHORT)
    one.report(tmp_path / "report.html", cells, markers={"a": list(cells.var_names[:3])})
    report = build_report(one, cells)
    assert "markers" not in report.pictures and report.clusters.rows[0][:3] == ("0", "60", "100.0%")
    assert "every cell has the probability 1" in report.notes["clusters"]


def test_what_cannot_be_reported(model, adata, tmp_path):
    with pytest.raises(ValueError, match="Expected adata with the 240 cells of the model"):
        model.report(tmp_path / "report.html", adata[:100].copy())
    with pytest.raises(KeyError, match="labels_key"):
        model.report(tmp_path / "report.html", labels_key="nowhere")
    cells = synthetic(n_obs=60, n_vars=30, n_types=2)
    SCSiameseClu.setup_anndata(cells)
    with pytest.raises(RuntimeError, match="call model.train"):
        SCSiameseClu(cells, n_clusters=2).report(tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_shows_every_picture_and_prints_the_page(renamed, adata, tmp_path):
    path = tmp_path / "report.html"
    renamed.report(path, adata)
    # The report runs no scripts. To see the pictures, open them in a copy of the page.
    seen = re.sub(r"<meta http-equiv=.*?>", "", path.read_text(encoding="utf-8"))
    look = (
        "<script>window.onload = () => { document.body.dataset.seen ="
        " [...document.images].filter(each => each.naturalWidth > 100).length }</script></body>"
    )
    (tmp_path / "seen.html").write_text(seen.replace("</body>", look), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    run = {"capture_output": True, "text": True, "timeout": 120}
    shown = subprocess.run([BROWSER, *options, "--dump-dom", f"file://{tmp_path / 'seen.html'}"], **run)
    assert f'data-seen="{seen.count("<img")}"' in shown.stdout
    assert shown.stdout.count("<script") == 1 and "alert(1)" in shown.stdout
    subprocess.run([BROWSER, *options, f"--print-to-pdf={tmp_path / 'report.pdf'}", f"file://{path}"], **run)
    printed = (tmp_path / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF") and printed.count(b"/Type /Page") > 2
