"""How alike vectors are, against plain passes; and what is alike by construction."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steerscope.analysis.errors import BadVector
from steerscope.analysis.model.models import Model
from steerscope.analysis.origin.compare_vectors import compare_vectors
from steerscope.analysis.results.result import Result
from steerscope.analysis.vectors.bundle import VectorBundle
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.random import random_like
from steerscope.reports.report import html

TEXTS = ["One day Tom saw a red ball", "Lily went to the park", "Once upon a time"]


def test_similarity_is_the_correlation_of_what_plain_passes_change(tiny: Model, tmp_path: Path) -> None:
    vectors = [prompt_pair(tiny, word, " ship", layer).row(-1) for word, layer in ((" wedding", 1), (" ball", 0))]
    found = compare_vectors(tiny, vectors, TEXTS, coefficient=2.0)
    changes = []
    for vector in vectors:
        own = []
        for text in TEXTS:
            ids = torch.tensor([tiny.tokens(text)])
            hook = f"blocks.{vector.site.layer}.hook_resid_pre"

            def add(x: torch.Tensor, hook: object, value: torch.Tensor = 2 * vector.values[0]) -> torch.Tensor:
                x[:, -1] += value
                return x

            with torch.no_grad():
                change = tiny.bridge.run_with_hooks(ids, fwd_hooks=[(hook, add)])[0, -1] - tiny.bridge(ids)[0, -1]
            own.append((change - change.mean()).double())
        changes.append(torch.cat(own))
    row = found.frames["pairs"].iloc[0]
    assert row["similarity"] == pytest.approx(float(torch.corrcoef(torch.stack(changes))[0, 1]), abs=1e-3)
    one, other = (v.values[0] for v in vectors)
    assert row["cosine"] == pytest.approx(float(torch.cosine_similarity(one, other, dim=0)), abs=1e-5)
    assert row["low"] <= row["similarity"] <= row["high"]
    assert row["reference_low"] <= row["reference"] <= row["reference_high"] < 1
    again = Result.load(found.save(tmp_path / "r"))
    assert again.summary() == found.summary() and "wedding" in html(again)


def test_what_is_alike_by_construction_is_found_alike(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1).row(-1)
    bundle = VectorBundle({1: vector, 0: random_like(vector, 3)})
    pairs = compare_vectors(tiny, [vector, bundle, -1e-3 * vector], TEXTS[:1]).frames["pairs"].set_index("pair")
    assert pairs.loc["0 and 2", "similarity"] == pytest.approx(1) == pairs.loc["0 and 2", "cosine"]
    assert pairs.loc["0 and 3", "cosine"] == pytest.approx(-1)
    assert abs(pairs["cosine"]["0 and 1"]) < 0.7 and np.isnan(pairs["low"]).all()
    assert compare_vectors(tiny, [vector, vector], TEXTS, references=0).frames["pairs"]["reference"].isna().all()
    other = prompt_pair(tiny, " wedding", " ship", 1, site="z", head=1).row(-1)
    assert np.isnan(compare_vectors(tiny, [vector, other], TEXTS).frames["pairs"]["cosine"][0])
    with pytest.raises(BadVector, match="1 vectors, each with 4 random ones; expected at least 2"):
        compare_vectors(tiny, [vector], TEXTS)
