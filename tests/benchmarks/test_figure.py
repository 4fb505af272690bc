"""The figure of the main benchmark."""

import json

from benchmarks import figure


def test_methods_that_find_k_are_left_out(tmp_path):
    rows = [
        {"set": name, "method": method, "seed": 0, "k_given": method != "siamese_auto", "ari": 0.5}
        for name in ("a", "b")
        for method in ("siamese_k", "pca_kmeans", "siamese_auto")
    ]
    results, picture = tmp_path / "results.jsonl", tmp_path / "ari.svg"
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert figure.main([str(results), str(picture)]) == 0
    drawn = picture.read_text()
    assert "siamese_k" in drawn and "pca_kmeans" in drawn
    assert "siamese_auto" not in drawn
