"""A valid, cheap call of every public name and of every public method: what a test of all doors begins with."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import torch
from checkpoints import save_gpt2
from small_circuits import FILE

import steerscope as st
from steerscope.analysis.model.models import Model
from steerscope.questions import QUESTIONS
from steerscope.tinystories.twelve import twelve
from steerscope.tinystories.variants import Recipe

SMALLEST = Recipe((), 2, 1, 8, 2, 32, 1024, 300, 1, 2, concepts=("wedding", "ship"), openings=2, windows=1, tokens=16)
Call = tuple[Callable[..., Any], dict[str, Any]]


def public_calls(folder: Path) -> dict[str, Call]:
    """By name, a function or bound method and valid arguments.

    Args:
        folder: for the model and the files that are read.
    """
    save_gpt2(folder)
    model = st.load(folder, name="tiny")
    texts = ["One day Lily saw a dragon", "Tom had a red ball"]
    vector = st.steering_vector(model, " wedding", " ", layer=1)
    injection = st.Injection(vector, 3.0)
    experiment = st.Experiment(model, (injection,), texts, references=0)
    site, edit = st.Site("resid_pre", 0), st.Edit(st.Site("resid_pre", 0), "set", torch.zeros(model.d_model))
    column = st.Column("what")
    result = st.Result("made up", {"a": pd.DataFrame({"x": [1.0]})}, {"a": {"x": column}}, {})
    saved = result.save(folder / "result")
    tuned = st.load_lens(st.load("tinystories-1l"))
    given = st.Prompts(((1, 2, 3), (4, 5)), ("a", "b"))
    windows = st.windows(model, "shipped", count=6, tokens=8)
    sides: dict[str, Any] = {"targets": ((7,), (8,), (7,)), "against": ((8,), (7,), (8,))}
    answered = [st.Prompts(((1, 2, n), (1, 3, n), (4, 2, n)), ("a", "b", "c"), **sides) for n in (5, 6)]
    alone = st.Experiment(model, (injection,), texts[:1], references=0)
    knobs: dict[str, dict[str, Any]] = {
        "localize": {"method": "exact", "completions": 0, "writers": False, "attention": False, "growing": False},
        "exact": {"completions": 0, "writers": False, "attention": False, "growing": False},
        "map_effect": {"circuit": str(FILE), "sets": 3, "permutations": 5, "controls": 1},
        "path_effect": {"senders": ["injection"], "receivers": ["logits"]},
        "self_repair": {"nodes": ["L1M"]},
        "by_position": {"nodes": ["L1M"]},
        "breakdown": {"coefficients": [1.0], "text": texts},
        "compare_variants": {"out": "study", "recipe": SMALLEST},
        "task_vector": {"model": tuned.model, "topic": "wedding", "seeds": 2, "steps": 1, "kl": 0.01},
        "train_lens": {"windows": windows, "out": "lens", "steps": 1, "batch": 2, "held_out": 1},
        "head_census": {"sequences": 3, "length": 6, "causal": 1, "text": texts},
        "layer_study": {"model": tuned.model, "vectors": twelve()[:1], "at": ["L0.resid_pre"]},
        "find_circuit": {"asked": alone, "trials": 2, "points": 4, "randoms": 2, "resamples": 4, "curve": False},
        "stress": {"circuit": None, "task": answered, "injections": injection, "coefficients": [1.0], "randoms": 1},
        "sweep": {"vectors": vector, "prompts": texts, "out": "sweep", "trials": 8, "controls": 0},
    }
    found: dict[str, Call] = {}

    def add(name: str, function: Callable[..., Any], /, **options: Any) -> None:
        found[name] = function, options

    for name, question in QUESTIONS.items():
        subject = {"experiment": experiment} if question.experiment else {"model": model}
        subject = {} if name == "compare_variants" else subject  # trains its own
        add(name, getattr(st, name), **{**subject, **knobs.get(name, {})})
    add("load", st.load, source=str(folder), selfcheck=False, device="cpu", dtype="float32", name="n", bos=False)
    add("Model", Model, **{name: getattr(model, name) for name in inspect.signature(Model).parameters})
    add("executor", st.executor, how="processes", workers=2)
    add("Node", st.Node, layer=0, head=1)
    add("Site", st.Site, name="z", layer=0, head=1)
    add("Positions", st.Positions, place="front", indices=())
    add("Layout", st.Layout, length=4, has_bos=True, parts=(("user", (1,)),))
    add("steering_vector", st.steering_vector, model=model, plus=" wedding", minus=" ", layer=1)
    add("mean_difference", st.mean_difference, model=model, positive=texts, negative=["A dog", "A cat"], layer=1)
    add("SteeringVector", st.SteeringVector, values=torch.ones(2, 4), site=site, source={"label": "x"})
    add("read_vector", st.read_vector, path=folder / "SteeringVector.safetensors", layer=1, model=model)
    add("make_vector", st.make_vector, model=model, recipe="single_prompt")
    found["make_vector"][1].update(prompt=" wedding", layer=1)
    add("make_bundle", st.make_bundle, model=model, recipe="mean_difference", layers=[1])
    found["make_bundle"][1].update(positive=texts, negative=["A dog", "A cat"])
    add("iti", st.iti, model=model, positive=texts, negative=["A dog", "A cat"], heads=2)
    (folder / "table.csv").write_text("name,plus,minus,layer\na, wedding, ship,1\n")
    add("build_vectors", st.build_vectors, model=model, table=folder / "table.csv", out="vectors", layer=1)
    add("compare_vectors", st.compare_vectors, model=model, vectors=[vector, vector], prompts=texts, carriers="none")
    add("random_like", st.random_like, vector=vector, seed=1)
    add("Injection", st.Injection, vector=vector, coefficient=1.0, layer=1, positions="front")
    found["Injection"][1].update(operation="add", during="prompt")
    bundled = st.VectorBundle({1: vector.row(-1)}, {"label": "x"})
    add("VectorBundle", st.VectorBundle, vectors={1: vector}, source={})
    add("bundle", st.bundle, vectors=bundled, coefficient=1.0, positions="all", operation="set", during="both")
    other = st.SteeringVector(torch.arange(1.0, 1 + vector.values.shape[1]), vector.site)
    add("rotation", st.rotation, vector=vector.row(-1), towards=other, degrees=30.0, layer=1, positions="last")
    add("everywhere", st.everywhere, model=model, vector=vector.row(-1), coefficient=0.5)
    add("Prompts", st.Prompts, ids=((1, 2),), texts=("a",), source="s", continuations=(), groups=(0,))
    found["Prompts"][1].update(targets=((1,),), against=((2,),), scored=((0,),), parts=((("user", (0,)),),))
    add("prompts", st.prompts, name="general")
    add("cost", st.cost, experiment=experiment, question="exact")
    add("read_prompts", st.read_prompts, path=folder / "p.txt")
    add("windows", st.windows, model=model, source="shipped", count=2, tokens=8, seed=0, read=50)
    add("generate", st.generate, model=model, prompt=texts[0], injections=injection, tokens=2)
    add("generate_many", st.generate_many, model=model, prompts=texts, injections=injection, tokens=2)
    add("Experiment", st.Experiment, model=model, injections=(injection,), prompts=texts, metric=st.kl(), references=0)
    found["Experiment"][1].update(matched="norm", scored="last", seed=0, budget=None)
    add("PerPrompt", st.PerPrompt, values=[" a", " b"])
    add("kl", st.kl)
    add("log_prob", st.log_prob, targets=[" Lily"], against=[" dog"])
    add("logit_direction", st.logit_direction)
    add("own_direction", st.own_direction)
    add("perplexity", st.perplexity, continuation=" there")
    add("Edit", st.Edit, site=site, operation="set", value=torch.zeros(model.d_model), positions=(0,))
    add("Variant", st.Variant, prompt=0, edits=(edit,))
    add("run", st.run, model=model, prompts=[[1, 2, 3]], variants=[st.Variant(0, (edit,))], positions=[(1,)])
    add("Result", st.Result, kind="x", frames={}, columns={}, manifest={})
    add("Column", st.Column, meaning="what", unit="nats", role="detail")
    add("Lens", st.Lens, model=model, unembed=tuned.unembed, tuned=None, source="x")
    add("load_lens", st.load_lens, model=model, source="logit")
    add("edge_graph", st.edge_graph, result=result)
    graph: Any = nx.DiGraph([("L0H1", "L1M")])
    circuit = st.Circuit(name="c", title="t", model="tiny", graph=graph, n_layers=2, n_heads=4)
    add("Circuit", st.Circuit, **vars(circuit))
    add("circuit", st.circuit, name="ioi")
    add("circuits", st.circuits)
    toy = st.load("toy-induction", selfcheck=False)
    census = st.detect_heads(toy, sequences=8, causal=0)
    add("measured_circuit", st.measured_circuit, circuit="induction", census=census)
    add("task", st.task, name="ioi")
    add("found_circuit", st.found_circuit, result=result, name="found", title="t")
    add("tasks", st.tasks)
    add("detect_heads", st.detect_heads, model=model, sequences=3, length=6, causal=0, text=())
    own = st.log_prob(st.PerPrompt([7, 8]), against=st.PerPrompt([8, 7]))
    alike = st.Experiment(model, (injection,), [[1, 2, 3, 4, 5], [2, 3, 4, 5, 6]], own, references=0)
    claim = st.Claim("L1M", at=(4,))
    add("Claim", st.Claim, node="L1H0", feature=str, by=None, at=(4,), children=(st.Claim("L0H1", by="v"),))
    add("scrub", st.scrub, model=model, hypothesis={"a": (claim,)}, dataset=alike, steering="stands", draws=1)
    found["scrub"][1].update(places=[{"a": 1}, {"a": 1}], level=0.9)
    hypothesis = st.Hypothesis(name="h", claims=(st.Claim("mover"),), roles={"mover": ["L1H0"]})
    add("Hypothesis", st.Hypothesis, **vars(hypothesis))
    add("hypothesis", st.hypothesis, name="planted")
    add("hypotheses", st.hypotheses)
    add("report", st.report, folder=saved, to=folder / "page")
    (folder / "p.txt").write_text("One\nTwo\n")
    objects: dict[str, Any] = {"Model": model, "Experiment": experiment, "Injection": injection, "Lens": tuned}
    objects |= {"Prompts": given, "Result": result, "SteeringVector": vector, "Edit": edit}
    objects |= {"Positions": st.Positions(), "VectorBundle": bundled, "Node": st.Node(0), "Site": site}
    objects |= {"Circuit": circuit, "Hypothesis": hypothesis}
    by_name: dict[str, Any] = dict(
        text=" Lily", ids=[1, 2], token=1, site=site, layer=0, length=4, rows=1, prompt=st.Layout(4, True)
    )
    by_name |= dict(
        vector=0,
        more=[1],
        everywhere=False,
        precision="exact",
        at=[2],
        layers=[1],
        share=0.5,
        most=0,
        count=1,
        chosen=[0],
        folder=saved,
        index=0,
        model=model,
        base=None,
    )
    by_name |= dict(edits=experiment.edits(0), sites=[("z", 0)], nodes=[st.Node(0)], variants=[st.Variant(0)])
    by_name |= dict(values=np.zeros(2), injections=(injection,), target=0.1, path=None)
    by_name |= dict(steered=experiment.steered, scores=[experiment.along], score=experiment.along, reads="logits")
    by_name |= dict(stream=torch.zeros(2, tuned.model.d_model), logits=torch.zeros(2, 3), overwrite=True, beside={})
    by_name["roles"] = {"mover": ["L0H1"]}
    for name, value in objects.items():
        for method in _methods(type(value)):
            bound = getattr(value, method)
            by_name["folder"] = saved if name == "Result" else folder / name
            by_name["path"] = folder / f"{name}.{'yaml' if name == 'Circuit' else 'safetensors'}"
            options = {p: by_name[p] for p in inspect.signature(bound).parameters}
            if name in ("Model", "Positions") and "site" in options and method in ("hook", "heads"):
                options["site"] = "z"
            add(f"{name}.{method}", bound, **options)
    vector.save(folder / "SteeringVector.safetensors")
    for operator in ("__add__", "__sub__", "__mul__", "__rmul__"):
        bound = getattr(vector, operator)
        add(f"SteeringVector.{operator}", bound, **{next(iter(inspect.signature(bound).parameters)): vector})
    return {name: (function, {**_defaults(function), **options}) for name, (function, options) in found.items()}


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Every argument that has a default, so that it is tried, too."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and "factory" not in repr(p.default)}


def _methods(kind: type) -> list[str]:
    return [
        n
        for n, v in vars(kind).items()
        if not n.startswith("_") and (inspect.isfunction(v) or isinstance(v, classmethod))
    ]
