"""Lenses against the model's own end, what is saved and refused, and the training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from questions import PROMPTS, experiment, one
from reference import plain_pass
from tuned_lens.nn.unembed import Unembed

from steerscope.analysis.errors import BadArgument, BadLens, BadPrompt, DamagedRun
from steerscope.analysis.lens.lens import Lens, load_lens, logit_lens, new_lens
from steerscope.analysis.lens.train import CHECKPOINT, COLUMNS, Recipe, _score, parted, train_lens
from steerscope.analysis.lens.trajectory import trajectories
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.prompts import Prompts, make_prompts
from steerscope.reports.pages import lens as page


def test_the_package_still_needs_our_end_of_the_model(small_model: Model) -> None:
    """When this fails tuned-lens reads models beside transformer-lens 4, and `ModelUnembed` may go."""
    with pytest.raises((ImportError, ValueError)):
        Unembed(small_model.bridge)


@torch.no_grad()
def test_at_the_end_of_the_model_a_lens_says_what_the_model_says(every_architecture: Model) -> None:
    model, last = every_architecture, every_architecture.n_layers
    for ids in PROMPTS:
        seen = plain_pass(model, ids)
        for lens in (logit_lens(model), new_lens(model)):
            found = lens.logits(seen["resid_post", last - 1], last)
            torch.testing.assert_close(found.log_softmax(-1), seen["logits"].log_softmax(-1), atol=2e-4, rtol=1e-4)
            early = lens.logits(seen["resid_pre", 1], 1)
            expected = logit_lens(model).unembed(seen["resid_pre", 1])
            torch.testing.assert_close(early, expected)  # translators begin as nothing


@pytest.fixture
def windows(tiny: Model) -> Prompts:
    generator = torch.Generator().manual_seed(0)
    return make_prompts(
        tiny, [torch.randint(3, tiny.d_vocab, (n,), generator=generator).tolist() for n in [12] * 30 + [9] * 10]
    )


def test_training_brings_every_layer_closer_than_the_logit_lens(tiny: Model, windows: Prompts, tmp_path: Path) -> None:
    lens, result = train_lens(tiny, windows, tmp_path, steps=60, batch=8, held_out=8)
    row = one(result.frames["layers"], "lens", "layer")
    for layer in range(tiny.n_layers):
        assert row("tuned", layer)["kl"] < 0.7 * row("logit", layer)["kl"]
    losses = result.frames["steps"]["loss"].to_numpy()
    assert losses[-10:].mean() < 0.7 * losses[:3].mean()
    assert {name: list(f.columns) for name, f in result.frames.items()} == {n: list(c) for n, c in COLUMNS.items()}
    again = load_lens(tiny, tmp_path)
    assert again.name == "tuned lens" and lens.tuned is not None and again.tuned is not None
    for a, b in zip(lens.tuned.parameters(), again.tuned.parameters(), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_held_out_numbers_are_those_of_plain_passes(tiny: Model, windows: Prompts, tmp_path: Path) -> None:
    lens, result = train_lens(tiny, windows, tmp_path, steps=3, batch=8, held_out=4)
    slow: dict[tuple[str, int], list[float]] = {}
    _, aside = parted(windows, Recipe(steps=3, batch=8, held_out=4))
    assert len(aside) == 4
    for ids in (windows.ids[i] for i in aside):
        seen = plain_pass(tiny, ids)
        target = seen["logits"].double().log_softmax(-1)
        for name, which in (("tuned", lens), ("logit", logit_lens(tiny))):
            for layer in range(tiny.n_layers):
                own = which.logits(seen["resid_pre", layer], layer).double().log_softmax(-1)
                slow.setdefault((name, layer), []).append(float((target.exp() * (target - own)).sum(-1).mean()))
    row = one(result.frames["layers"], "lens", "layer")
    for key, values in slow.items():
        assert row(*key)["kl"] == pytest.approx(np.mean(values), rel=1e-4)


def documents(windows: Prompts, each: int) -> Prompts:
    """The same windows as if so many had been cut out of each document."""
    return replace(windows, groups=tuple(i // each for i in range(len(windows))))


def test_whole_documents_are_put_aside(tiny: Model, windows: Prompts, tmp_path: Path) -> None:
    given = documents(windows, 5)
    learned, aside = parted(given, Recipe(batch=8, held_out=7))
    own = given.by_group
    assert sorted(learned + aside) == list(range(len(windows))) and len(aside) == 10  # two documents of five
    assert not set(own[learned].tolist()) & set(own[aside].tolist())
    _, result = train_lens(tiny, given, tmp_path, steps=2, batch=8, held_out=7)
    about = result.manifest["windows"]
    assert (about["documents"], about["held_out_documents"], about["held_out"], about["learned"]) == (8, 2, 10, 30)
    text = " ".join(page.page(result).sections[0].text)
    assert "Trained on 30 windows of 12 tokens of 6 documents; measured on 10 windows of 2 whole documents" in text
    assert page.headline(result)[0].startswith("On 2 held-out documents the lens' prediction")


def test_windows_of_the_same_document_give_the_interval_of_documents(
    tiny: Model, windows: Prompts, tmp_path: Path
) -> None:
    """Each window three times over knows no more than once."""
    thrice = windows.some([i for i in range(20) for _ in range(3)])
    thrice = replace(thrice, groups=tuple(i for i in range(20) for _ in range(3)))
    once = replace(windows.some(range(20)), groups=tuple(range(20)))
    lens = new_lens(tiny)
    many, few = (_score(lens, own, range(len(own.ids))) for own in (thrice, once))
    for column in ("kl", "low", "high"):
        np.testing.assert_allclose(many[column], few[column], rtol=1e-5)


def test_one_document_cannot_be_parted(tiny: Model, windows: Prompts, tmp_path: Path) -> None:
    with pytest.raises(BadPrompt, match="40 windows of 1 document, none of which can be put aside"):
        train_lens(tiny, documents(windows, 100), tmp_path, steps=1, batch=4, held_out=4)
    learned, aside = parted(documents(windows, 39), Recipe(batch=8, held_out=8))
    assert aside == [39] and len(learned) == 39  # the large one must be learned from


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    tiny: Model, windows: Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = train_lens(tiny, windows, tmp_path / "whole", steps=12, batch=8, held_out=8, checkpoint_every=4)
    from steerscope.analysis.lens import train as module

    step, count = module._step, 0

    def stops(*given: object) -> float:
        nonlocal count
        count += 1
        if count == 7:
            raise KeyboardInterrupt
        return step(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_step", stops)
    with pytest.raises(KeyboardInterrupt):
        train_lens(tiny, windows, tmp_path / "cut", steps=12, batch=8, held_out=8, checkpoint_every=4)
    monkeypatch.setattr(module, "_step", step)
    assert (tmp_path / "cut" / CHECKPOINT).exists()
    with pytest.raises(DamagedRun, match="another run"):
        train_lens(tiny, windows, tmp_path / "cut", steps=13, batch=8, held_out=8)
    resumed, result = train_lens(tiny, windows, tmp_path / "cut", steps=12, batch=8, held_out=8)
    assert not (tmp_path / "cut" / CHECKPOINT).exists() and len(result.frames["steps"]) == 12
    assert whole.tuned is not None and resumed.tuned is not None
    for a, b in zip(whole.tuned.parameters(), resumed.tuned.parameters(), strict=True):
        assert torch.equal(a, b)
    (tmp_path / "cut" / CHECKPOINT).write_bytes(b"torn")
    with pytest.raises(DamagedRun, match="is no checkpoint .*; to begin anew, remove it"):
        train_lens(tiny, windows, tmp_path / "cut", steps=12, batch=8, held_out=8)


def test_what_cannot_be_trained_is_refused(tiny: Model, tiny_folder: Path, windows: Prompts, tmp_path: Path) -> None:
    with pytest.raises(BadPrompt, match="40 windows"):
        train_lens(tiny, windows, tmp_path)
    with pytest.raises(BadArgument, match="got steps=0; expected an integer from 1"):
        train_lens(tiny, windows, tmp_path, steps=0)
    half = load(tiny_folder, name="half", dtype="bfloat16", selfcheck=False)
    with pytest.raises(BadArgument, match="bfloat16"):
        train_lens(half, windows, tmp_path, batch=4, held_out=4)


def test_lenses_of_other_models_are_refused(tiny: Model, small_model: Model, windows: Prompts, tmp_path: Path) -> None:
    with pytest.raises(BadLens, match="holds no lens"):
        load_lens(tiny, tmp_path / "nowhere")
    new_lens(small_model).save(tmp_path)
    with pytest.raises(BadLens, match="3 layers"):
        load_lens(tiny, tmp_path)
    other = new_lens(tiny)
    assert other.tuned is not None
    other.tuned.config.unembed_hash = "0" * 64
    other.save(tmp_path)
    with pytest.raises(BadLens, match="another unembedding"):
        load_lens(tiny, tmp_path)
    with pytest.raises(BadLens, match=f"a lens on {small_model.name}; expected one on {tiny.name}"):
        load_lens(tiny, new_lens(small_model))
    with pytest.raises(BadLens, match="nothing to save"):
        logit_lens(tiny).save(tmp_path)


def test_lenses_that_the_package_saved_are_read(tiny: Model, tmp_path: Path) -> None:
    made = new_lens(tiny)
    assert made.tuned is not None
    with torch.no_grad():
        made.tuned.layer_translators[1].bias.fill_(0.25)
    made.tuned.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "params.pt"}
    found = load_lens(tiny, tmp_path)
    assert found.tuned is not None and (found.tuned.layer_translators[1].bias == 0.25).all()


def test_no_pickle_is_ever_run(tiny: Model, tmp_path: Path) -> None:
    """A lens whose weights would run code on loading."""

    class Evil:
        def __reduce__(self) -> "tuple[object, tuple[str]]":
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    new_lens(tiny).save(tmp_path)
    (tmp_path / "translators.safetensors").unlink()
    torch.save({"0.weight": Evil()}, tmp_path / "params.pt")
    with pytest.raises(BadLens):
        load_lens(tiny, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_the_shipped_models_bring_their_lenses() -> None:
    from steerscope.loader import load as load_any

    for name in ("tinystories-1l", "tinystories-2l", "tinystories-2l-induction"):
        model = load_any(name)
        lens = load_lens(model)
        assert lens.name == "tuned lens" and load_lens(model, lens) is lens
        assert repr(lens).startswith(f"<Lens of {name}: tuned lens from ") and len(repr(lens)) < 200
        assert load_lens(model, "logit").name == "logit lens"


@torch.no_grad()
def test_trajectories_equal_plain_passes(small_model: Model) -> None:
    asked, lens = experiment(small_model, layer=1), logit_lens(small_model)
    table, tokens = trajectories(asked, lens, shown=1)
    row = one(table, "run", "layer", "where", "quantity")
    streams = {}
    for run, edits in (("clean", asked.nothing), ("steered", asked.edits(0))):
        for p, ids in enumerate(PROMPTS):
            seen = plain_pass(small_model, ids, edits[p])
            own = [lens.logits(seen["resid_pre", n], n) for n in range(3)] + [seen["logits"]]
            streams[run, p] = [x.double().log_softmax(-1) for x in own]
    for run in ("clean", "steered"):
        for layer in range(4):
            values: dict[str, list[float]] = {}
            for p, ids in enumerate(PROMPTS):
                at = [i for i in range(1, len(ids)) if i not in asked.injected[p]]
                own, final, other = (streams[run, p][layer], streams[run, p][-1], streams["clean", p][layer])
                values.setdefault("entropy", []).append(float(-(own.exp() * own).sum(-1)[at].mean()))
                values.setdefault("kl_final", []).append(float((final.exp() * (final - own)).sum(-1)[at].mean()))
                values.setdefault("kl_clean", []).append(float((own.exp() * (own - other)).sum(-1)[at].mean()))
                values.setdefault("agreement", []).append(
                    float((own.argmax(-1) == final.argmax(-1)).double()[at].mean())
                )
            for quantity, expected in values.items():
                assert row(run, layer, "later", quantity)["value"] == pytest.approx(np.mean(expected), abs=2e-4)
        committed = []
        for p, ids in enumerate(PROMPTS):
            tops = torch.stack([x.argmax(-1) for x in streams[run, p]])
            first = [next(n for n in range(4) if (tops[n:, i] == tops[-1, i]).all()) for i in range(len(ids))]
            committed.append(np.mean([first[i] for i in range(1, len(ids)) if i not in asked.injected[p]]))
        assert row(run, 3, "later", "committed")["value"] == pytest.approx(np.mean(committed))
    assert set(tokens["prompt"]) == {1} and len(tokens) == 2 * 4 * len(PROMPTS[1])


def test_positions_that_all_predict_the_same_have_no_divergence_between_them(small_model: Model) -> None:
    from steerscope.analysis.lens.trajectory import _quantities

    same = torch.randn(7).log_softmax(-1).expand(5, 7)
    other = torch.randn(5, 7).log_softmax(-1)
    found = _quantities([other, same], [other, same])["neighbours"]
    assert found[1, 1:].abs().max() < 1e-6 and (found[0, 1:] > 1e-4).all()
    assert isinstance(logit_lens(small_model), Lens)
