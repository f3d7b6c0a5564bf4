"""Vectors as people make them, on SmolLM2: answers over layers, principal directions, heads, a control vector."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import steerscope as st
from steerscope.analysis.model.models import Model
from steerscope.analysis.origin.parts import parts
from steerscope.analysis.vectors.recipes import RECIPES

pytestmark = pytest.mark.llm

KIND = ["She smiled and thanked them", "He helped the old man", "They shared their bread", "I love my friends"]
CRUEL = ["She laughed at his pain", "He kicked the old dog", "They stole our bread", "I hate my neighbours"]
QUESTIONS = [
    ("Would you help a stranger?\n\nChoices:\n (A) Yes\n (B) No", " (A)", " (B)"),
    ("Would you steal from a friend?\n\nChoices:\n (A) Yes\n (B) No", " (B)", " (A)"),
    ("Do you want others to be well?\n\nChoices:\n (A) Yes\n (B) No", " (A)", " (B)"),
    ("Would you lie to be praised?\n\nChoices:\n (A) Yes\n (B) No", " (B)", " (A)"),
]


@pytest.fixture(scope="module")
def smollm2(smollm2_file: Path) -> Model:
    model: Model = st.load(str(smollm2_file), selfcheck=False)
    return model


def test_answers_make_a_bundle_that_a_control_vector_holds_and_that_steers(smollm2: Model, tmp_path: Path) -> None:
    bundle = st.make_bundle(smollm2, "caa", range(8, 13), questions=QUESTIONS, chat=True)
    assert list(bundle) == list(range(8, 13)) and all(vector.rows == 1 for vector in bundle.values())
    alone = st.make_vector(smollm2, "caa", questions=QUESTIONS, chat=True, layer=10)
    torch.testing.assert_close(bundle[10].values, alone.values, atol=1e-3, rtol=1e-3)
    read = st.read_vector(bundle.save(tmp_path / "kind.gguf"), model=smollm2)
    assert isinstance(read, st.VectorBundle)
    assert all(torch.equal(read[layer].values, bundle[layer].values) for layer in bundle)
    plain = st.read_vector(tmp_path / "kind.gguf", layer=10)
    given = [st.Injection(v, 1.0, positions="all") for v in (alone, plain) if isinstance(v, st.SteeringVector)]
    direct = [st.Experiment(smollm2, (one,), ["My neighbour is"], st.kl(), references=0).disturbed() for one in given]
    np.testing.assert_allclose(direct[1], direct[0], rtol=1e-2)
    assert direct[0][0] > 1e-4


def test_a_direction_of_another_program_is_added_behind_its_block(smollm2: Model, tmp_path: Path) -> None:
    """As repeng does it: a plain hook behind block N."""
    import gguf

    direction = np.random.default_rng(0).normal(size=smollm2.d_model).astype("f4")
    writer = gguf.GGUFWriter(tmp_path / "c.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 1)
    writer.add_tensor("direction.29", direction)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    found = st.read_vector(tmp_path / "c.gguf", site="mlp_out", model=smollm2)
    assert isinstance(found, st.SteeringVector)
    ids = smollm2.tokens("Once upon a time")
    edit = st.Edit(found.site, "add", found.values[0], tuple(range(len(ids))))
    [(_, readout)] = st.run(smollm2, [ids], [st.Variant(0, (edit,))])
    vector = torch.from_numpy(direction)
    hook = (
        "blocks.29.hook_resid_post" if "blocks.29.hook_resid_post" in smollm2.bridge.hook_dict else "blocks.29.hook_out"
    )
    plain = smollm2.bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=[(hook, lambda x, hook: x + vector)])
    assert readout.logits is not None
    torch.testing.assert_close(readout.logits[0], plain[0, -1], atol=1e-2, rtol=1e-3)


def test_principal_directions_and_probes_tell_two_kinds_of_texts_apart(smollm2: Model) -> None:
    direction = st.make_vector(smollm2, "pca", positive=KIND, negative=CRUEL, layer=12)
    torch.testing.assert_close(direction.norms, torch.ones(1, dtype=torch.float64), atol=1e-5, rtol=0)
    heads = st.iti(smollm2, KIND, CRUEL, heads=6)
    assert len({vector.site for vector in heads}) == 6 and all(vector.site.name == "z" for vector in heads)
    assert min(vector.source["held_out_accuracy"] for vector in heads) >= 0.5


@pytest.mark.parametrize("recipe", ["pairs", "minus_mean"])
def test_writers_add_up_to_a_vector_of_many_runs(recipe: str, smollm2: Model) -> None:
    options: dict[str, dict[str, Any]] = {
        "pairs": {"pairs": list(zip(KIND, CRUEL, strict=True))},
        "minus_mean": {"prompt": " wedding", "corpus": KIND},
    }
    vector = st.make_vector(smollm2, recipe, layer=6, **options[recipe])
    found = parts(smollm2, vector)
    assert found.error < 1e-4 and len(found.parts) >= 6 * 10 + 1
    assert RECIPES[recipe].planned
