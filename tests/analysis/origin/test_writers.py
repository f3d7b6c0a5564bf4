"""Writers: parts that add up on every architecture, effects against plain passes, refusals by value."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from architectures import ARCHITECTURES
from reference import plain_logits, plain_pass

from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.engine.edits import Edit
from steerscope.analysis.errors import BadVector
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.origin.parts import parts
from steerscope.analysis.origin.writers import COLUMNS, writers
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import log_prob, own_direction
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.vectors.prompt_pair import paired, prompt_pair
from steerscope.analysis.vectors.random import random_like
from steerscope.analysis.vectors.vector import SteeringVector

PLUS, MINUS = [5, 9, 30], [7, 9, 2]
Texts = list[str] | list[list[int]]


def asked(model: Model, *injections: Injection, texts: Texts, references: int = 0) -> Experiment:
    target = model.single_token(" ring") if model.tokenizer else 7
    return Experiment(model, injections, make_prompts(model, texts), log_prob([target]), references=references)


def places(model: Model) -> list[dict[str, Any]]:
    last = model.n_layers - 1
    found: list[dict[str, Any]] = [{"layer": layer} for layer in range(model.n_layers)]
    found += [{"layer": last, "site": "attn_out"}, {"layer": last, "site": "z", "head": 2}]
    return found + ([{"layer": last, "site": "mlp_out"}] if model.has_mlp else [])


def test_parts_add_up_to_the_vector_at_every_site(every_architecture: Model) -> None:
    for place in places(every_architecture):
        vector = prompt_pair(every_architecture, PLUS, MINUS, **place)
        found = parts(every_architecture, vector)
        assert vector.values.norm() > 1e-3
        assert found.error < 1e-5 and found.recorded < 1e-6
        total = sum(part.values for part in found.parts)
        torch.testing.assert_close(total, vector.values.double(), rtol=1e-5, atol=1e-5)


def test_every_writer_stands_once(every_architecture: Model) -> None:
    model, last = every_architecture, every_architecture.n_layers - 1
    expected = {
        "resid_pre": ["embedding", *(str(n) for n in model.nodes if n.layer < last)],
        "attn_out": [f"L{last}H{head}" for head in range(model.n_heads)],
        "mlp_out": [f"L{last}M"],
        "z": [f"L{last}H2"],
    }
    for place in places(model)[model.n_layers - 1 :]:
        found = parts(model, prompt_pair(model, PLUS, MINUS, **place))
        assert [part.writer for part in found.parts] == expected[place.get("site", "resid_pre")]


def test_a_part_is_what_is_gone_when_its_writer_is_silenced(every_architecture: Model) -> None:
    """Plain passes with a head's z, or an MLP's output, set to zero: how much less the node's site holds."""
    model = every_architecture
    if model.post_norm:
        pytest.skip("a silenced head changes the norm after attention; see below")
    pair = paired(model, PLUS, MINUS, 2)
    vector = prompt_pair(model, PLUS, MINUS, 1, pad=2)
    for part in parts(model, vector).parts[1:]:
        written = []
        for ids in pair:
            site = Site("mlp_out", 0) if part.head is None else Site("z", 0, part.head)
            at = ("mlp_out", 0) if part.head is None else ("attn_out", 0)
            width = model.d_model if part.head is None else model.d_head
            silent = plain_pass(model, ids, [Edit(site, "set", torch.zeros(width))])
            written.append(plain_pass(model, ids)[at] - silent[at])
        expected = (written[0] - written[1]).double()
        torch.testing.assert_close(part.values, expected, rtol=1e-4, atol=1e-4)


def gemma(folder: Path, bias: bool) -> Any:
    kind, options = ARCHITECTURES["gemma2"]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made: Any = hf.AutoModelForCausalLM
        model = made.from_config(getattr(hf, f"{kind}Config")(**options, attention_bias=bias))
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
    model.eval().save_pretrained(folder)
    return model


@pytest.mark.parametrize("bias", [False, True])
def test_behind_a_norm_a_head_writes_with_the_scale_of_its_own_run(bias: bool, tmp_path: Path) -> None:
    """Gemma-2's RMSNorm after attention by hand; its scale keeps a bias from cancelling."""
    weights = gemma(tmp_path, bias).model.layers[0]
    model = load(tmp_path)
    vector = prompt_pair(model, PLUS, MINUS, 1)
    found = {part.writer: part.values for part in parts(model, vector).parts}
    assert ("L0 bias" in found) is bias
    assert parts(model, vector).error < 1e-5
    runs = []
    for ids in paired(model, PLUS, MINUS, 2):
        z = plain_pass(model, ids)["z", 0].double()  # [pos, head, d_head]
        out = weights.self_attn.o_proj.weight.double().view(model.d_model, model.n_heads, -1)
        heads = torch.einsum("phd,mhd->hpm", z, out)
        offset = weights.self_attn.o_proj.bias.double() if bias else torch.zeros(model.d_model)
        scale = ((heads.sum(0) + offset).square().mean(-1, keepdim=True) + 1e-6).sqrt()
        gain = 1 + weights.post_attention_layernorm.weight.double()
        runs.append((heads * gain / scale, offset * gain / scale))
    for head in range(model.n_heads):
        expected = runs[0][0][head] - runs[1][0][head]
        torch.testing.assert_close(found[f"L0H{head}"], expected, rtol=1e-4, atol=1e-5)
    if bias:
        torch.testing.assert_close(found["L0 bias"], runs[0][1] - runs[1][1], rtol=1e-4, atol=1e-5)


TEXTS = ["One day Lily saw a dragon near the ship", "Tom had a red ball", "There was a wedding near the"]
MORE = [*TEXTS, "They saw a big cake", "Once upon a time", "The bride played with Ben and"]


def test_alone_and_without_equal_one_plain_pass_each(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding", " ship", 1)
    question = asked(tiny, Injection(vector, 3.0), texts=TEXTS)
    result = writers(question)
    table = result.frames["per_prompt"].set_index(["prompt", "writer"])
    target = tiny.single_token(" ring")

    def metric(p: int, values: torch.Tensor | None) -> float:
        edits = [] if values is None else [Edit(Site("resid_pre", 1), "add", 3.0 * values, (0, 1))]
        positions = list(question.scored_positions.positions[p])
        logits = plain_logits(tiny, question.prompts.ids[p], edits)[positions]
        return float(logits.log_softmax(-1)[:, target].mean().item())

    for part in parts(tiny, vector).parts:
        values = part.values.float()
        for p in range(len(TEXTS)):
            row = [table.loc[(p, part.writer), measure] for measure in ("alone", "without")]
            alone = metric(p, values) - metric(p, None)
            without = metric(p, vector.values) - metric(p, vector.values - values)
            assert row == pytest.approx([alone, without], abs=2e-5)


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama", "gemma2", "native_attention_only"])
def test_the_run_checks_itself_on_every_kind_of_architecture(name: str, small_models: Any) -> None:
    model = small_models[name]
    texts: Texts = [[3, 4, 5, 6, 7, 8], [9, 8, 7, 6, 5]]
    injection = Injection(prompt_pair(model, PLUS, MINUS, 1), 2.0)
    result = writers(asked(model, injection, texts=texts))
    assert [check["passed"] for check in result.manifest["checks"]] == [True] * 4
    assert result.frames["writers"]["share"].sum() == pytest.approx(1, abs=1e-5)


def test_shares_are_projections_and_of_rows_too(tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding near", " ship", 1)
    result = writers(asked(tiny, Injection(vector), texts=TEXTS))
    table, rows = result.frames["writers"].set_index("writer"), result.frames["rows"]
    for part in parts(tiny, vector).parts:
        a, b = part.values.numpy(), vector.values.double().numpy()
        row = table.loc[part.writer]
        assert row["share"] == pytest.approx((a * b).sum() / (b * b).sum())
        assert row["cosine"] == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
        own = rows[rows["writer"] == part.writer]["share"].to_numpy()
        np.testing.assert_allclose(own[1:], (a * b).sum(1)[1:] / (b * b).sum(1)[1:])
        assert np.isnan(own[0])  # BOS
    first = rows[rows["writer"] == "embedding"]
    assert first["plus"].tolist()[1:] == [" wedding", " near"]
    assert first["minus"].tolist()[1:] == [" ship", " "]
    assert rows.groupby("row")["share"].sum().tolist()[1:] == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "same", "plus"),
    [
        (lambda v: v.row(2), lambda x: x[2:3], [" near"]),
        (lambda v: v.row(-2), lambda x: x[1:2], [" wedding"]),
        (lambda v: v.body, lambda x: x[1:], [" wedding", " near"]),
        (lambda v: v.body.row(0), lambda x: x[1:2], [" wedding"]),
        (lambda v: v.mean(), lambda x: x.mean(0)[None], ["<|endoftext|> wedding near"]),
        (lambda v: v.body.mean(), lambda x: x[1:].mean(0)[None], [" wedding near"]),
    ],
    ids=["row", "row from the end", "body", "row of the body", "mean", "mean of the body"],
)
def test_what_became_of_the_vector_became_of_its_parts(change: Any, same: Any, plus: list[str], tiny: Model) -> None:
    vector = prompt_pair(tiny, " wedding near", " ship", 1)
    whole, changed = parts(tiny, vector), parts(tiny, change(vector))
    assert changed.error < 1e-6
    for before, after in zip(whole.parts, changed.parts, strict=True):
        torch.testing.assert_close(after.values, same(before.values))
    assert [texts[0] for texts in changed.tokens] == plus


@pytest.mark.parametrize(
    ("change", "layer", "positions"),
    [
        (lambda v: v.row(-1), 0, "last"),
        (lambda v: v, 1, (2, 4)),
        (lambda v: v, None, "back"),
        (lambda v: v.mean(), 0, "all"),
    ],
    ids=["a row at another layer", "positions without BOS", "back", "a mean everywhere"],
)
def test_parts_are_injected_where_the_vector_is(change: Any, layer: int | None, positions: Any, tiny: Model) -> None:
    """All parts together give the steered run, so each stands at its place."""
    vector = change(prompt_pair(tiny, " wedding near", " ship", 1))
    injection = Injection(vector, 2.0, layer=layer, positions=positions)
    result = writers(asked(tiny, injection, texts=TEXTS))
    assert result.frames["totals"].set_index("quantity")["value"]["total"] != 0
    assert all(check["passed"] for check in result.manifest["checks"])


def test_the_embedding_alone_writes_at_layer_0(tiny: Model) -> None:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 0), 3.0)
    frames = writers(asked(tiny, injection, texts=TEXTS)).frames
    row = frames["writers"].iloc[0]
    assert frames["writers"]["writer"].tolist() == ["embedding"]
    total = frames["totals"].set_index("quantity")["value"]["total"]
    assert [row["share"], row["alone_share"], row["without_share"]] == pytest.approx([1, 1, 1])
    assert [row["alone"], row["without"]] == pytest.approx([total, total])


def test_a_planted_writer_is_found_and_the_others_wrote_nothing(planted: Model, stories: list[str]) -> None:
    """Of the heads of layer 1 only L1H2 writes, and nothing of layer 0 does."""
    for site, writer in (("attn_out", "L1H2"), ("resid_pre", "embedding")):
        vector = prompt_pair(planted, " wedding", " ship", 1, site=site)
        question = asked(planted, Injection(vector, 3.0, layer=0), texts=stories)
        table = writers(question).frames["writers"].set_index("writer")
        assert table.loc[writer, "share"] == pytest.approx(1)
        assert table.loc[writer, "alone"] != 0
        silent = table.drop(writer)[["norm", "share", "alone", "without"]]
        assert len(silent) >= 3 and not silent.to_numpy().any()


def test_each_injection_has_its_own_writers(tiny: Model) -> None:
    first = Injection(prompt_pair(tiny, " wedding", " ship", 1), 3.0)
    nothing = Injection(prompt_pair(tiny, " dragon", " ship", 1), 0.0)
    both = writers(asked(tiny, first, nothing, texts=TEXTS))
    table = both.frames["writers"]
    assert table.groupby("injection")["share"].sum().tolist() == pytest.approx([1, 1])
    second = table[table["injection"] == 1]
    assert not second[["alone", "without"]].to_numpy().any()  # its coefficient is 0
    alone = writers(asked(tiny, first, texts=TEXTS)).frames["writers"]
    own = table[table["injection"] == 0]
    np.testing.assert_allclose(own["without"], alone["without"], atol=1e-5)


def test_references_are_random_parts_of_equal_norm(tiny: Model, monkeypatch: Any) -> None:
    drawn = []

    def spy(vector: SteeringVector, seed: int) -> SteeringVector:
        drawn.append((vector, random_like(vector, seed)))
        return drawn[-1][1]

    monkeypatch.setattr("steerscope.analysis.origin.writers.random_like", spy)
    injection = Injection(prompt_pair(tiny, " wedding near", " ship", 1), 3.0)
    question = replace(asked(tiny, injection, texts=MORE, references=2), metric=own_direction())  # its effect is clear
    result = writers(question)
    assert len(drawn) == 2 * len(result.frames["writers"])
    for real, random in drawn:
        torch.testing.assert_close(real.norms, random.norms)
    assert len({r.values.sum().item() for _, r in drawn}) == len(drawn)
    assert result.frames["writers"]["alone_reference"].notna().all()


def test_the_result_is_whole_and_repeats(tiny: Model, tmp_path: Path) -> None:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 1), 3.0)
    question = replace(asked(tiny, injection, texts=MORE, references=2), metric=own_direction())
    runs = [writers(question) for _ in range(2)]
    for name, frame in runs[0].frames.items():
        assert frame.equals(runs[1].frames[name])
    saved = Result.load(runs[0].save(tmp_path))
    assert {n: list(f.columns) for n, f in saved.frames.items()} == {n: list(c) for n, c in COLUMNS.items()}
    assert saved.frames["totals"].set_index("quantity").loc["sum_alone", ["share_low", "share_high"]].notna().all()


def test_a_result_whose_total_is_not_clear_is_saved_too(tiny: Model, tmp_path: Path) -> None:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 1), 3.0)
    Result.load(writers(asked(tiny, injection, texts=TEXTS, references=2)).save(tmp_path))


def recorded(model: Model) -> SteeringVector:
    return prompt_pair(model, " wedding", " ship", 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: random_like(recorded(m), 0), r"\(random\) has the recipe 'random'; expected a prompt pair"),
        (lambda m: recorded(m) + recorded(m), r"has the recipe 'sum'"),
        (lambda m: 2 * recorded(m), r"has the recipe 'multiple'"),
        (lambda m: SteeringVector(torch.ones(32), Site("resid_pre", 0)), r"\(given vector\) has the recipe 'unknown'"),
        (lambda m: recorded(m).row(0), r"zero everywhere"),
        (
            lambda m: replace(recorded(m), values=1.5 * recorded(m).values),
            r"differs from the vector by 0.33 of its norm",
        ),
        (lambda m: replace(recorded(m), values=recorded(m).values.repeat(5, 1)), r"differs from the vector in shape"),
        (
            lambda m: replace(recorded(m), site=Site("resid_pre", 9)),
            r"cannot be made again on tiny \(L9.resid_pre is outside",
        ),
        (
            lambda m: replace(recorded(m), source={**recorded(m).source, "plus": [99999]}),
            r"cannot be made again on tiny \(a prompt has the token id 99999",
        ),
    ],
    ids=["random", "sum", "multiple", "given", "zero", "changed", "repeated", "layer", "token"],
)
def test_a_vector_without_known_writers_is_refused(make: Any, message: str, tiny: Model) -> None:
    with pytest.raises(BadVector, match=f"^no writers possible: .*{message}"):
        parts(tiny, make(tiny))


def test_exact_says_why_there_are_no_writers(tiny: Model, tmp_path: Path) -> None:
    vector = random_like(recorded(tiny), 0)
    question = Experiment(tiny, (Injection(vector),), make_prompts(tiny, TEXTS), references=1)
    found = exact(question, completions=0, attention=False)
    assert found.frames["writers"].empty and found.frames["attention"].empty
    assert "recipe 'random'" in found.manifest["missing"]["writers"]
    assert found.manifest["missing"]["attention"] == "exact was run with attention=False"
    Result.load(found.save(tmp_path))


def test_exact_has_the_writers_of_the_method(tiny: Model) -> None:
    question = asked(tiny, Injection(recorded(tiny), 3.0), texts=TEXTS, references=2)
    found = exact(question, completions=0, attention=False)
    assert found.frames["writers"].equals(writers(question).frames["writers"])
