"""Native story models: every activation, norm and order trains, loads back with equal logits, and is analysed."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_training import small_training
from torch import Tensor
from transformer_lens import TransformerBridgeConfig

import steerscope as st
from steerscope import cli
from steerscope.analysis.errors import BadArgument, ModelNotFound
from steerscope.analysis.loading.natives import read_native
from steerscope.analysis.loading.parallel import fresh_model
from steerscope.tinystories.config import TrainConfig
from steerscope.tinystories.forward import logits_of, story_model
from steerscope.tinystories.train import checkpoint_folder, read_corpus, train
from steerscope.tinystories.variants import BASE, VARIANTS, Recipe, config, trained

KINDS: list[dict[str, Any]] = [
    *({"act": act} for act in ("gelu", "relu", "silu", "solu", "solu_ln")),
    *(
        {"norm": norm, "parallel": parallel}
        for norm, parallel in itertools.product(("LN", "RMS", "none"), (False, True))
    ),
]


def small(out: Path, **changes: Any) -> TrainConfig:
    found: TrainConfig = small_training(None, out, **{"topic_stories": 60, "n_layers": 2, **changes})
    return found


def name(kind: dict[str, Any]) -> str:
    return "-".join(map(str, kind.values()))


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_every_variant_trains_loads_back_with_equal_logits_and_is_analysed(
    kind: dict[str, Any], tmp_path: Path
) -> None:
    settings = small(tmp_path / "model", **({"act": "gelu"} | kind))
    folder = train(settings)
    model = st.load(folder)  # with its self-check
    assert (model.architecture, model.parallel) == ("TransformerLensNative", kind.get("parallel", False))
    assert model.norm == {"LN": "LN", "RMS": "RMS", "none": "none"}[kind.get("norm", "LN")]
    ids = torch.tensor([model.tokens("One day, Lily saw the ship.")])
    written = st.load(folder, selfcheck=False).bridge.original_model
    with torch.no_grad():
        assert torch.allclose(model.bridge(ids), by_hand(written, ids), atol=1e-5)
    injection = st.Injection(st.steering_vector(model, " ship", " ", layer=0), 2.0)
    few: dict[str, Any] = {"references": 0, "completions": 0, "writers": False, "attention": False, "growing": False}
    found = st.localize(model, injection, ["Tom was at home. He looked", "Amy went out. She"], **few)
    assert set(found.frames["effects"]["node"]) == {"L0H0", "L0H1", "L0M", "L1H0", "L1H1", "L1M"}
    assert all(check["passed"] for check in found.manifest["checks"])


def by_hand(model: Any, ids: Tensor) -> Tensor:
    """The mathematics of a native model, written down again."""
    cfg = model.cfg
    acts = {
        "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
        "relu": lambda x: x.clamp_min(0),
        "silu": lambda x: x * torch.sigmoid(x),
        "solu": lambda x: x * x.softmax(-1),
        "solu_ln": lambda x: x * x.softmax(-1),
    }

    def normed(x: Tensor, norm: Any) -> Tensor:
        if cfg.normalization_type is None:
            return x
        x = x - x.mean(-1, keepdim=True) if cfg.normalization_type == "LN" else x
        x = x / (x.square().mean(-1, keepdim=True) + cfg.eps).sqrt() * norm.weight
        return x + norm.bias if cfg.normalization_type == "LN" else x

    def linear(x: Tensor, part: Any) -> Tensor:
        found: Tensor = x @ part.weight.T + (0 if part.bias is None else part.bias)
        return found

    x = model.tok_embed.weight[ids] + model.pos.weight[: ids.shape[1]]
    later = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()
    for block in model.layers:
        q, k, v = (
            linear(normed(x, block.ln1), getattr(block.attn, n)).reshape(*x.shape[:2], cfg.n_heads, -1).transpose(1, 2)
            for n in "qkv"
        )
        scores = (q @ k.transpose(-1, -2) / cfg.d_head**0.5).masked_fill(later, -torch.inf)
        attended = linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2), block.attn.o)
        read = x if cfg.parallel_attn_mlp else x + attended
        hidden = acts[cfg.act_fn](linear(normed(read, block.ln2), getattr(block.mlp, "in", None) or block.mlp.fc_in))
        if cfg.act_fn == "solu_ln":
            ln = block.mlp.ln
            hidden = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:], ln.weight, ln.bias, cfg.eps)
        x = x + attended + linear(hidden, getattr(block.mlp, "out", None) or block.mlp.fc_out)
    return linear(normed(x, model.ln_out), model.head)


def test_a_parallel_mlp_does_not_see_attention_and_another_one_does() -> None:
    for parallel in (True, False):
        sizes: dict[str, Any] = {"d_model": 16, "d_head": 8, "n_heads": 2, "n_layers": 1, "n_ctx": 16, "d_vocab": 50}
        model = fresh_model(TransformerBridgeConfig(**sizes, act_fn="relu", parallel_attn_mlp=parallel), 0)
        seen: list[Tensor] = []
        model.layers[0].mlp.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[0]))
        ids = torch.tensor([[1, 2, 3]])
        model(ids)
        with torch.no_grad():
            model.layers[0].attn.o.weight.zero_()
        model(ids)
        assert torch.equal(seen[0], seen[1]) == parallel


def test_without_act_norm_and_parallel_a_gpt_neo_is_trained() -> None:
    settings = small(Path("x"))
    assert not settings.native and type(story_model(settings, 300, 0)).__name__ == "GPTNeoForCausalLM"
    assert all(small(Path("x"), **kind).native for kind in ({"act": "gelu"}, {"norm": "RMS"}, {"parallel": True}))


def test_a_native_run_that_was_stopped_gives_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    whole = train(small(tmp_path / "whole", act="relu"))
    stopped = small(tmp_path / "stopped", act="relu")
    assert train(stopped, stop_after=3) == checkpoint_folder(stopped)
    one, other = (load_file(folder / "model.safetensors") for folder in (train(stopped), whole))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_the_stories_of_the_grammar_are_held_out_where_there_is_no_other_text(tmp_path: Path) -> None:
    corpus = read_corpus(small(tmp_path / "model", corpus_seed=3))
    assert corpus.held_out and len(corpus.texts) == 1
    again = read_corpus(small(tmp_path / "model", corpus_seed=3, seed=5))
    assert again.hash == corpus.hash != read_corpus(small(tmp_path / "model", seed=5)).hash


def test_models_of_a_study_differ_in_one_setting_and_share_their_stories(tmp_path: Path) -> None:
    recipe = Recipe()
    base = config(recipe, BASE, 0, tmp_path)
    for variant in VARIANTS:
        other = config(recipe, variant, 0, tmp_path)
        changed = {name for name in vars(base) if getattr(base, name) != getattr(other, name)}
        assert changed == set(VARIANTS[variant]), variant
    assert config(recipe, BASE, 4, tmp_path).corpus_seed == base.corpus_seed


def test_a_model_that_is_there_is_not_trained_again_and_one_of_other_settings_is_refused(tmp_path: Path) -> None:
    settings = small(tmp_path / "model", act="silu")
    folder = trained(settings)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert trained(settings) == folder and (folder / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(BadArgument, match="holds a model of other settings of steps; expected the same"):
        trained(small(tmp_path / "model", act="silu", steps=7))


def test_the_order_of_a_folder_is_read_and_older_folders_have_none(tmp_path: Path) -> None:
    folder = train(small(tmp_path / "model", parallel=True))
    (folder / "checksums.json").unlink()
    whole = json.loads((folder / "config.json").read_text())
    assert whole["parallel_attn_mlp"] and st.load(folder, selfcheck=False).parallel
    del whole["parallel_attn_mlp"]
    (folder / "config.json").write_text(json.dumps(whole))
    assert not st.load(folder, selfcheck=False).parallel
    (folder / "config.json").write_text(json.dumps(whole | {"parallel_attn_mlp": "yes"}))
    with pytest.raises(ModelNotFound, match="parallel_attn_mlp='yes'"):
        st.load(folder)


def test_dropout_is_refused_where_there_is_none() -> None:
    with pytest.raises(BadArgument, match="a native model has none"):
        small(Path("x"), act="relu", dropout=0.1)


def test_bf16_and_muon_train_native_models_too(tmp_path: Path) -> None:
    settings = small(tmp_path / "model", act="solu", bf16=True)
    before = story_model(settings, 300, 0)
    after: Any = read_native(train(settings), "x")
    ids = torch.arange(8)[None]
    assert torch.isfinite(logits_of(after, ids)).all()
    moved = [
        n for n, p in after.named_parameters() if not torch.allclose(p, dict(before.named_parameters())[n], atol=1e-4)
    ]
    assert {"layers.0.mlp.fc_in.weight", "tok_embed.weight", "head.weight"} <= set(moved)


def test_several_seeds_are_trained_into_folders_of_their_own_and_not_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = "--topic-stories 60 --heads 2 --width 16 --vocabulary 300 --context 32 --steps 1 --layers 1 --act relu"
    given = [*sizes.split(), "--seeds", "2", "--seed", "4", "--out", str(tmp_path / "run"), "--json"]
    monkeypatch.setattr("sys.argv", ["steerscope", "tinystories", "train", *given])
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
    folders = {path.name: path for path in (tmp_path / "run").iterdir()}
    assert set(folders) == {"seed-4", "seed-5"}
    one, other = (load_file(folder / "model.safetensors") for folder in folders.values())
    assert not torch.equal(one["tok_embed.weight"], other["tok_embed.weight"])
