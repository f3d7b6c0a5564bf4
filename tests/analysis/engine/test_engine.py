"""The wavefront against plain passes: the same numbers, from less work."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, WINDOW, checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_variants import PROMPTS, random_variants, sites
from reference import plain_logits, plain_pass
from torch import Tensor
from torch.testing import assert_close
from transformer_lens import patching
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from steerscope.analysis.engine import run as engine
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import Readout, measure, run
from steerscope.analysis.errors import (
    BadArgument,
    BadNode,
    BadPrompt,
    BrokenInvariant,
    SteerscopeError,
    UnsupportedModel,
)
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model import models
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import SCALES, Site

EXACT = 2e-5  # in log-probability


def logits_of(readout: Readout) -> Tensor:
    assert readout.logits is not None
    return readout.logits


def hidden_of(readout: Readout) -> Tensor:
    assert readout.hidden is not None
    return readout.hidden


def log_probabilities(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1)


def assert_plain(model: Model, prompts: Sequence[Sequence[int]], variants: Sequence[Variant], **options: Any) -> None:
    """Every variant, at every position of its prompt, equals a plain pass of that prompt alone."""
    everywhere = [range(len(prompt)) for prompt in prompts]
    done = []
    for chunk, readout in run(model, prompts, variants, everywhere, **options):
        done += chunk
        assert readout.logits is not None
        for row, index in enumerate(chunk):
            variant = variants[index]
            assert readout.variants[row] is variant
            assert readout.position[readout.row == row].tolist() == list(everywhere[variant.prompt])
            found = readout.logits[readout.row == row]
            expected = plain_logits(model, prompts[variant.prompt], variant.edits)
            assert_close(log_probabilities(found), log_probabilities(expected), rtol=0, atol=EXACT)
    assert sorted(done) == list(range(len(variants)))


# Exactness.


@torch.no_grad()
def test_every_variant_equals_a_plain_pass_of_its_prompt_alone(every_architecture: Model) -> None:
    assert any(len(prompt) > WINDOW for prompt in PROMPTS)
    assert_plain(every_architecture, PROMPTS, random_variants(every_architecture, PROMPTS, 60))


@pytest.mark.parametrize("operation", ["add", "set", "scale"])
@torch.no_grad()
def test_each_operation_at_each_site_equals_a_plain_pass(every_architecture: Model, operation: Any) -> None:
    variants = []
    normed = every_architecture.architecture in ("Qwen3ForCausalLM", "Gemma3ForCausalLM")  # its norm undoes a scale
    for site in sites(every_architecture):
        if operation == "scale" and normed and site.name in ("q", "k"):
            continue
        width = len(PROMPTS[1]) if site.name == "pattern" else every_architecture.width(site)
        small = 3.0 if site.name in SCALES else 0.3
        value = small if operation == "scale" else torch.linspace(-1, 1, width) if width > 1 else torch.full((1,), 10.0)
        variants.append(Variant(1, (Edit(site, operation, value, (1, 4)),)))
    clean = plain_logits(every_architecture, PROMPTS[1])
    assert_plain(every_architecture, PROMPTS[1:2] * 2, variants)
    changed = measure(every_architecture, PROMPTS, variants, None, lambda r: logits_of(r) - clean[-1])
    assert (changed.abs().amax(-1) > 1e-5).all()


TEXTS = ["Once upon a time, there was a wedding.", "The dragon", "Lily and Tom went to the park to play"]


@torch.no_grad()
def test_patched_trained_models_equal_plain_passes(real_model: Model) -> None:
    """Each node's output in one prompt is put into another, as `localize` does."""
    prompts = [real_model.tokens(text) for text in TEXTS]
    seen = plain_pass(real_model, prompts[2])
    variants = []
    for node in real_model.nodes[::3]:
        clean = seen[node.site.name, node.layer][: len(prompts[1])]
        value = clean if node.head is None else clean[:, node.head]
        variants.append(Variant(1, (Edit(node.site, "set", value),)))
    assert_plain(real_model, prompts, variants)


@torch.no_grad()
def test_trained_models_in_double_precision_equal_plain_passes(real_model: Model) -> None:
    """Violent edits, which both sides round by more than 1e-5 in single precision. (Hugging Face's
    norms and softmaxes stay in single precision, so this is not exact to the last bit either.)"""
    assert real_model.source is not None
    model = load(real_model.source, dtype="float64")
    prompts = [model.tokens(text) for text in TEXTS]
    assert_plain(model, prompts, random_variants(model, prompts, 20))


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_edits_equal_those_made_in_the_untouched_checkpoint(small_models: Any, name: str) -> None:
    """Independent of TransformerLens: plain torch hooks in the Hugging Face model."""
    model, prompt, layer = small_models[name], PROMPTS[0], 1
    wide, narrow = torch.linspace(-1, 1, model.d_model), torch.linspace(-1, 1, model.d_head)
    cases = {
        "resid_pre": Edit(Site("resid_pre", layer), "add", wide, (2, 4)),
        "z": Edit(Site("z", layer, 2), "set", narrow, (2, 4)),
        "attn_out": Edit(Site("attn_out", layer), "add", wide, (2, 4)),
        "mlp_out": Edit(Site("mlp_out", layer), "set", wide, (2, 4)),
    }
    for site, edit in cases.items():
        original = checkpoint(name)
        module, before = _place(original, name, layer, site)
        columns = slice(2 * model.d_head, 3 * model.d_head) if site == "z" else slice(None)

        def change(x: Tensor, edit: Edit = edit, columns: slice = columns) -> Tensor:
            x = x.clone()
            old = x[:, [2, 4], columns] if edit.operation == "add" else 0
            x[:, [2, 4], columns] = old + edit.value
            return x

        with _hooked(module, change, before):
            expected = original(torch.tensor([prompt])).logits[0]
        found = measure(model, [prompt], [Variant(0, (edit,))], [range(len(prompt))], lambda r: logits_of(r)[None])
        assert_close(log_probabilities(found[0]), log_probabilities(expected), rtol=0, atol=EXACT)


def _place(hf: Any, name: str, layer: int, site: str) -> tuple[Any, bool]:
    """The module of a checkpoint whose input (or else output) a site is."""
    block = getattr(hf, "transformer", None) or getattr(hf, "gpt_neox", None) or hf.model
    block = (block.h if hasattr(block, "h") else block.layers)[layer]
    attention = getattr(block, "attn", None) or getattr(block, "attention", None) or block.self_attn
    projections = {"gpt2": "c_proj", "gpt_neo": "attention.out_proj", "gpt_neox": "dense", "gptj": "out_proj"}
    normed = name in ("gemma2", "gemma3")
    return {
        "resid_pre": (block, True),
        "z": (attention.get_submodule(projections.get(name, "o_proj")), True),
        "attn_out": (block.post_attention_layernorm if normed else attention, False),
        "mlp_out": (block.post_feedforward_layernorm if normed else block.mlp, False),
    }[site]


class _hooked:
    """A change of the first input or output of a module, while the context lasts."""

    def __init__(self, module: Any, change: Any, before: bool) -> None:
        def after_hook(module: Any, args: Any, out: Any) -> Any:
            return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

        def before_hook(module: Any, args: Any, kwargs: Any) -> Any:
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

        if before:
            self.handle = module.register_forward_pre_hook(before_hook, with_kwargs=True)
        else:
            self.handle = module.register_forward_hook(after_hook)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


@pytest.mark.parametrize("name", ["gpt2", "gptj", "gpt_neo", "llama", "gemma2", "native_with_mlp"])
@torch.no_grad()
def test_an_edited_pattern_equals_the_edit_at_the_pattern_itself(small_models: Any, name: str) -> None:
    """We make it at `z`; where TransformerLens takes an edit of the pattern, both are the same."""
    model, prompt = small_models[name], PROMPTS[1]
    edit = Edit(Site("pattern", 0, 3), "set", torch.tensor([0.5, 0.5]), (1, 2))

    def directly(x: Tensor, hook: Any) -> Tensor:
        x = x.clone()
        x[:, 3, 1:3] = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0])
        return x

    expected = model.bridge.run_with_hooks(
        torch.tensor([prompt]), fwd_hooks=[("blocks.0.attn.hook_pattern", directly)]
    )[0, -1]
    found = measure(model, [prompt], [Variant(0, (edit,))], None, logits_of)
    assert_close(log_probabilities(found[0]), log_probabilities(expected), rtol=0, atol=EXACT)
    assert (found[0] - plain_logits(model, prompt)[-1]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama"])
@torch.no_grad()
def test_patched_heads_equal_the_loop_of_transformer_lens(
    small_models: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patching, "tqdm", lambda items: items)
    model, clean, corrupted = small_models[name], PROMPTS[0][:7], PROMPTS[2]
    _, cache = model.bridge.run_with_cache(torch.tensor([clean]))
    expected = patching.get_act_patch_attn_head_out_all_pos(
        model.bridge, torch.tensor([corrupted]), cache, lambda logits: logits[0, -1, 5]
    )
    heads = [node for node in model.nodes if node.head is not None]
    z = plain_pass(model, clean)
    variants = [Variant(0, (Edit(node.site, "set", z["z", node.layer][:, node.head]),)) for node in heads]
    found = measure(model, [corrupted], variants, None, lambda r: logits_of(r)[:, 5])
    assert_close(found.view_as(expected), expected, rtol=0, atol=EXACT)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), count=st.integers(1, 6), budget=st.sampled_from([1, 10**5, None]))
@torch.no_grad()
def test_any_variants_equal_plain_passes(small_model: Model, seed: int, count: int, budget: int | None) -> None:
    prompts = [p[: 1 + (seed + i) % len(p)] for i, p in enumerate(PROMPTS)]
    assert_plain(small_model, prompts, random_variants(small_model, prompts, count, seed), budget=budget)


# Invariance.


@torch.no_grad()
def test_results_depend_on_neither_budget_nor_order(every_architecture: Model) -> None:
    variants = random_variants(every_architecture, PROMPTS, 30, seed=1)
    whole = measure(every_architecture, PROMPTS, variants, None, _log_probabilities)
    singly = measure(every_architecture, PROMPTS, variants, None, _log_probabilities, budget=1)
    backwards = measure(every_architecture, PROMPTS, variants[::-1], None, _log_probabilities).flip(0)
    assert_close(singly, whole, rtol=0, atol=EXACT)
    assert_close(backwards, whole, rtol=0, atol=EXACT)


def _log_probabilities(readout: Readout) -> Tensor:
    return log_probabilities(logits_of(readout))


@torch.no_grad()
def test_no_edits_give_the_plain_pass(every_architecture: Model) -> None:
    assert_plain(every_architecture, PROMPTS, [Variant(p) for p in range(3)])


@pytest.mark.parametrize("site", ["resid_pre", "z", "attn_out", "pattern"])
@torch.no_grad()
def test_adding_zero_changes_no_bit(every_architecture: Model, site: str) -> None:
    """To the same rows: BLAS may round a row of a larger batch in another way."""
    at = Site(site, 1, 0 if site in ("z", "pattern") else None)
    width = 5 if site == "pattern" else every_architecture.width(at)
    zero = [Variant(p, (Edit(at, "add", torch.zeros(width)),)) for p in range(3)]
    one = [Variant(p, (Edit(at, "scale", 1.0),)) for p in range(3)]
    plain = [Variant(p) for p in range(3)]
    logits = [measure(every_architecture, PROMPTS, variants, None, logits_of) for variants in (plain, zero, one)]
    if site == "pattern":  # z is multiplied out again, and may round otherwise
        assert_close(logits[1], logits[0], rtol=0, atol=EXACT)
        assert_close(logits[2], logits[0], rtol=0, atol=EXACT)
    else:
        assert torch.equal(logits[1], logits[0])
        assert torch.equal(logits[2], logits[0])


@torch.no_grad()
def test_patching_everything_gives_the_other_run(small_model: Model) -> None:
    clean, corrupted = PROMPTS[0][:5], PROMPTS[1]
    seen = plain_pass(small_model, clean)
    edits = [Edit(Site("resid_pre", 0), "set", seen["resid_pre", 0])]
    logits = measure(small_model, [corrupted], [Variant(0, tuple(edits))], None, logits_of)
    assert_close(logits[0], seen["logits"][-1], rtol=0, atol=EXACT)


# Sharing: what makes it fast.


@pytest.fixture
def rows_seen(small_model: Model) -> Iterator[list[int]]:
    """Rows at each layer's attention, over all chunks, as the model itself sees them."""
    rows: list[int] = []
    handles = [
        block.attn.register_forward_pre_hook(
            lambda module, args, kwargs: rows.append(len(args[0] if args else kwargs["hidden_states"])),
            with_kwargs=True,
        )
        for block in small_model.bridge.blocks
    ]
    yield rows
    for handle in handles:
        handle.remove()


def test_rows_join_at_the_layer_of_their_first_edit(small_model: Model, rows_seen: list[int]) -> None:
    zero = torch.zeros(small_model.d_head)
    variants = [Variant(0, (Edit(Site("z", layer, head), "set", zero),)) for layer in range(3) for head in range(4)]
    measure(small_model, PROMPTS, variants, None, logits_of)
    assert rows_seen == [5, 9, 12]  # four edited rows a layer, and the row that is not edited yet


def test_a_row_without_edits_is_shared_by_all_that_ask_for_it(small_model: Model, rows_seen: list[int]) -> None:
    logits = measure(small_model, PROMPTS, [Variant(0), Variant(1), Variant(0), Variant(0)], None, logits_of)
    assert rows_seen == [2, 2, 2]
    assert torch.equal(logits[0], logits[2])


def test_shared_edits_are_computed_once(small_model: Model, rows_seen: list[int]) -> None:
    injection = Edit(Site("resid_pre", 0), "add", torch.ones(small_model.d_model))
    heads = [Edit(Site("z", 2, head), "scale", 0.0) for head in range(4)]
    measure(small_model, PROMPTS, [Variant(0, (injection, head)) for head in heads], None, logits_of)
    assert rows_seen == [1, 1, 4]


def test_equal_edits_that_are_not_the_same_are_not_mixed_up(small_model: Model) -> None:
    first, second = (Edit(Site("resid_pre", 0), "add", torch.ones(small_model.d_model)) for _ in range(2))
    logits = measure(small_model, PROMPTS, [Variant(0, (first,)), Variant(0, (second,))], None, logits_of)
    assert_close(logits[0], logits[1], rtol=0, atol=EXACT)


def test_chunks_respect_the_budget(small_model: Model) -> None:
    variants = [Variant(0, (Edit(Site("z", 0, 0), "scale", i / 10),)) for i in range(20)]
    one_row = engine.working_set(small_model, 1, len(PROMPTS[0]), 1, "logits", ())
    for rows in (1, 3, 20):
        chunks = [chunk for chunk, _ in run(small_model, PROMPTS, variants, budget=rows * one_row)]
        assert max(map(len, chunks)) == rows
        assert len(chunks) == -(-20 // rows)


def test_a_budget_below_one_row_still_runs_row_by_row(small_model: Model) -> None:
    variants = random_variants(small_model, PROMPTS, 4)
    assert [len(chunk) for chunk, _ in run(small_model, PROMPTS, variants, budget=1)] == [1] * 4


def test_prompts_of_like_length_share_a_chunk(small_model: Model) -> None:
    prompts = [[5] * 40, [5] * 2] * 3
    lengths = [
        {len(prompts[v.prompt]) for v in readout.variants}
        for _, readout in run(
            small_model,
            prompts,
            [Variant(p) for p in range(6)],
            budget=engine.working_set(small_model, 3, 40, 3, "logits", ()),
        )
    ]
    assert lengths == [{2}, {40}] or lengths == [{2, 40}, {40}], lengths


def test_an_estimate_of_memory_covers_what_a_pass_takes(small_model: Model) -> None:
    """The largest tensors of a block and the logits; the estimate must not be below them."""
    rows, length = 16, len(PROMPTS[0])
    block = rows * length * (small_model.d_model * 8 + 4 * small_model.d_model)
    logits = rows * length * small_model.d_vocab
    assert engine.working_set(small_model, rows, length, rows * length, "logits", ()) >= 4 * (block + logits)


# Reading.


@torch.no_grad()
def test_activations_are_those_of_the_edited_pass(every_architecture: Model) -> None:
    variants = random_variants(every_architecture, PROMPTS, 12, seed=2)
    names = [n for n in models.HOOKS if not n.startswith("mlp") or every_architecture.has_mlp]
    wanted = [(name, layer) for name in names for layer in range(every_architecture.n_layers)]
    for chunk, readout in run(every_architecture, PROMPTS, variants, reads="none", sites=wanted):
        assert readout.logits is None and readout.hidden is None
        for row, index in enumerate(chunk):
            prompt = PROMPTS[variants[index].prompt]
            expected = plain_pass(every_architecture, prompt, variants[index].edits)
            for key in wanted:
                found = readout.activations[key][row]
                cut = found[:, : len(prompt), : len(prompt)] if key[0] == "pattern" else found[: len(prompt)]
                assert_close(cut, expected[key], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_activations_of_plain_variants_equal_the_cache_of_transformer_lens(every_architecture: Model) -> None:
    _, cache = every_architecture.bridge.run_with_cache(torch.tensor([PROMPTS[0]]))
    names = [n for n in models.HOOKS if not n.startswith("mlp") or every_architecture.has_mlp]
    wanted = [(name, 1) for name in names]
    _, readout = next(run(every_architecture, PROMPTS, [Variant(0)], sites=wanted))
    for name, layer in wanted:
        assert_close(
            readout.activations[name, layer], cache[every_architecture.hook(name, layer)], rtol=1e-5, atol=1e-6
        )


@torch.no_grad()
def test_the_hidden_stream_times_the_unembedding_is_the_logits(every_architecture: Model) -> None:
    variants = random_variants(every_architecture, PROMPTS, 8, seed=3)
    logits = measure(every_architecture, PROMPTS, variants, None, logits_of)
    hidden = measure(every_architecture, PROMPTS, variants, None, hidden_of, reads="hidden")
    found = every_architecture.bridge.unembed(hidden[None])[0]
    if every_architecture.softcap:
        cap = every_architecture.bridge.cfg.output_logits_soft_cap
        found = cap * torch.tanh(found / cap)
    assert_close(found, logits, rtol=0, atol=EXACT)


def test_means_are_over_the_read_positions_of_each_row(small_model: Model) -> None:
    positions = [[0, 1, 2], [4], [2, 6]]
    variants = [Variant(2), Variant(0), Variant(1)]
    means = measure(small_model, PROMPTS, variants, positions, lambda r: r.mean(logits_of(r)[:, 7]))
    expected = [plain_logits(small_model, PROMPTS[v.prompt])[positions[v.prompt], 7].mean() for v in variants]
    assert_close(means, torch.stack(expected), rtol=0, atol=EXACT)


# Gradients.


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama", "gemma2", "native_with_mlp"])
def test_gradients_of_edits_equal_those_of_plain_passes(small_models: Any, name: str) -> None:
    model = small_models[name]
    edits = [
        Edit(Site("resid_pre", 0), "add", torch.randn(model.d_model).requires_grad_(), (1, 2)),
        Edit(Site("z", 0, 2), "set", torch.randn(2, model.d_head).requires_grad_(), (0, 3)),
        Edit(Site("pattern", 0, 1), "add", torch.randn(3, requires_grad=True), (2, 4)),
        Edit(Site("mlp_out", 0), "add", torch.randn(model.d_model).requires_grad_()),
    ]
    values: list[Any] = [edit.value for edit in edits]
    variants = [Variant(1, tuple(edits[:2])), Variant(1, tuple(edits)), Variant(0, (edits[0],))]
    with torch.no_grad():  # the engine's mode does not depend on the caller's
        scores = measure(model, PROMPTS, variants, None, lambda r: _log_probabilities(r)[:, 5], grad=True)
    found = torch.autograd.grad(scores.sum(), values)
    plain = [log_probabilities(plain_logits(model, PROMPTS[v.prompt], v.edits))[-1, 5] for v in variants]
    for ours, theirs in zip(found, torch.autograd.grad(torch.stack(plain).sum(), values), strict=True):
        assert theirs.abs().max() > 1e-4
        assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_of_edits_equal_finite_differences(small_models: Any) -> None:
    model = small_models["gpt2"]
    value = torch.linspace(-1, 1, model.d_head).requires_grad_()
    edit = Edit(Site("z", 1, 2), "set", value, (1, 3))
    step = 1e-2 * torch.linspace(1, -2, model.d_head)

    def score(value: Tensor, grad: bool) -> Tensor:
        variant = Variant(0, (Edit(edit.site, "set", value, edit.positions),))
        return measure(model, PROMPTS, [variant], None, lambda r: _log_probabilities(r)[:, 5], grad=grad)[0]

    (gradient,) = torch.autograd.grad(score(value, True), value)
    moved = (score(value.detach() + step, False) - score(value.detach() - step, False)) / 2
    assert_close(gradient @ step, moved, rtol=2e-3, atol=1e-6)


def test_activations_are_in_the_graph_with_grad(small_model: Model) -> None:
    value = torch.zeros(small_model.d_model, requires_grad=True)
    variant = Variant(0, (Edit(Site("resid_pre", 0), "add", value),))
    _, readout = next(run(small_model, PROMPTS, [variant], sites=[("z", 2)], grad=True))
    assert readout.logits is not None
    z = readout.activations["z", 2]
    assert torch.autograd.grad(z.sum(), value, retain_graph=True)[0].abs().max() > 0


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_the_callers_gradient_mode_is_left_alone_between_chunks(
    small_model: Model, outside: bool, inside: bool
) -> None:
    with torch.set_grad_enabled(outside):
        for _, readout in run(small_model, PROMPTS, [Variant(0), Variant(1)], budget=1, grad=inside):
            assert torch.is_grad_enabled() is outside
            assert readout.logits is not None and readout.logits.requires_grad is inside


# Refusals.


def test_a_hook_that_never_fires_is_an_error(small_models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """TransformerLens gives GPT-J such a hook, takes edits there, and never calls it."""
    model = small_models["gptj"]
    monkeypatch.setitem(models.HOOKS, "attn_out", "attn.hook_rot_q")
    variant = Variant(0, (Edit(Site("attn_out", 1), "scale", 0.0),))
    with pytest.raises(
        BrokenInvariant,
        match=r"hooks that never fired on gptj: blocks\.1\.attn\.hook_rot_q; their edits would have been lost",
    ):
        next(run(model, PROMPTS, [variant]))


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama"])
@torch.no_grad()
def test_every_hook_that_is_attached_fires_once(small_models: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_models[name]
    calls: list[str] = []
    plain = model.bridge.run_with_hooks

    def counted(name: str, inner: Any) -> Any:
        def outer(x: Tensor, hook: Any) -> Any:
            calls.append(name)
            return inner(x, hook=hook)

        return outer

    def counting(tokens: Tensor, fwd_hooks: Any) -> Tensor:
        attached = [(name, counted(name, hook)) for name, hook in fwd_hooks]
        logits = plain(tokens, fwd_hooks=attached)
        assert sorted(calls) == sorted(name for name, _ in attached)
        calls.clear()
        return logits  # type: ignore[no-any-return]

    monkeypatch.setattr(model.bridge, "run_with_hooks", counting)
    wanted = [(name, layer) for name in models.HOOKS for layer in range(3)]
    variants = random_variants(model, PROMPTS, 20)
    assert len(list(run(model, PROMPTS, variants, sites=wanted, budget=10**6))) > 1


def test_a_pattern_that_comes_too_late_is_an_error() -> None:
    """As GPT-J's in TransformerLens; on the day when this fails, `loading` need not help any more."""
    gptj = checkpoint("gptj")
    bridge = build_bridge_from_module(gptj, "GPTJForCausalLM", hf_config=gptj.config)
    model = load(bridge, name="toy")
    variant = Variant(0, (Edit(Site("pattern", 1, 0), "scale", 0.0),))
    with pytest.raises(UnsupportedModel, match="toy .* shows its attention patterns only after their use.*edit z"):
        next(run(model, PROMPTS, [variant]))
    next(run(model, PROMPTS, [Variant(0)], sites=[("pattern", 1)]))  # reading is fine


def at(name: str, layer: int, head: int | None = None, width: int = 32, positions: Any = None) -> Edit:
    return Edit(Site(name, layer, head), "add", torch.zeros(width), positions)


@pytest.mark.parametrize(
    ("prompts", "edit", "positions", "error", "message"),
    [
        ([], None, None, BadPrompt, "got no prompt, or an empty one; expected at least one token each; add some"),
        ([[1], []], None, None, BadPrompt, "got no prompt, or an empty one"),
        (
            [[1] * 65],
            None,
            None,
            BadPrompt,
            "a prompt has 65 tokens; expected at most the 64 that gpt2 reads; shorten it",
        ),
        ([[1, 96]], None, None, BadPrompt, "the token id 96; expected 0 to 95, those of gpt2; use its own tokenizer"),
        ([[1, -1]], None, None, BadPrompt, "the token id -1"),
        ([[1, 2]], at("resid_pre", 3), None, BadNode, "L3.resid_pre is outside of gpt2, which has layers 0 to 2"),
        ([[1, 2]], at("z", 0, 4, 8), None, BadNode, "L0H4.z is outside of gpt2, which has heads 0 to 3"),
        ([[1, 2]], at("z", 0, 1), None, BadArgument, r"value of shape \[32\]; expected \[8\] or \[2, 8\]"),
        ([[1, 2]], at("resid_pre", 0, None, 31), None, BadArgument, r"value of shape \[31\]"),
        (
            [[1, 2]],
            at("resid_pre", 0, None, 32, (2,)),
            None,
            BadArgument,
            "position 2 is edited at L0.resid_pre in a prompt of 2 tokens; expected 0 to 1",
        ),
        ([[1, 2]], at("resid_pre", 0, None, 32, (-1,)), None, BadArgument, "position -1"),
        ([[1, 2]], None, [[2]], BadArgument, "position 2 is read in a prompt of 2 tokens"),
        (
            [[1, 2]],
            Edit(Site("z", 0, 1), "set", torch.zeros(3, 8)),
            None,
            BadArgument,
            r"shape \[3, 8\]; expected \[8\] or \[2, 8\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    small_model: Model, prompts: Any, edit: Edit | None, positions: Any, error: type[SteerscopeError], message: str
) -> None:
    with pytest.raises(error, match=message):
        next(run(small_model, prompts, [Variant(0, (edit,) if edit else ())], positions))


def test_an_mlp_is_refused_where_there_is_none(small_models: Any) -> None:
    model = small_models["native_attention_only"]
    with pytest.raises(BadNode, match=r"L0.mlp_out does not exist: native_attention_only has attention only"):
        next(run(model, PROMPTS, [Variant(0, (at("mlp_out", 0),))]))
    with pytest.raises(BadNode, match="has attention only"):
        next(run(model, PROMPTS, [Variant(0)], sites=[("mlp_out", 0)]))


@pytest.mark.parametrize("site", [("resid_mid", 0), ("z", 3), ("z", -1)])
def test_an_activation_that_is_not_there_is_refused(small_model: Model, site: tuple[str, int]) -> None:
    with pytest.raises(BadNode, match="no activation"):
        next(run(small_model, PROMPTS, [Variant(0)], sites=[site]))
