"""Vectors in files: round trips bit for bit, other programs' files as these mean them, bad ones in a sentence."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from bad_files import zeros
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from steerscope.analysis.errors import BadNode, BadVector
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site, parse_site
from steerscope.analysis.vectors.bundle import VectorBundle
from steerscope.analysis.vectors.control_vector import control_bytes
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector
from steerscope.analysis.vectors.vector_files import READERS, read_vector

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SLOW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def bits(x: torch.Tensor) -> bytes:
    return x.numpy().tobytes()


@st.composite
def vectors(draw: st.DrawFn, site: str, layer: int, rows: int, width: int) -> SteeringVector:
    values = draw(st.lists(FLOATS, min_size=rows * width, max_size=rows * width))
    label = draw(st.text(st.characters(codec="utf-8"), max_size=20))
    return SteeringVector(torch.tensor(values).reshape(rows, width), Site(site, layer), {"label": label, "n": [1, 2.5]})


@st.composite
def bundles(draw: st.DrawFn, rows: int) -> VectorBundle:
    site, width = draw(st.sampled_from(("resid_pre", "mlp_out"))), draw(st.integers(1, 9))
    layers = draw(st.sets(st.integers(2, 99), min_size=1, max_size=4))
    made = {layer: draw(vectors(site, layer, rows, width)) for layer in layers}
    return VectorBundle(made, {"label": draw(st.text(st.characters(codec="utf-8"), min_size=1))})


def same(one: SteeringVector, other: SteeringVector) -> bool:
    return (bits(one.values), one.site, dict(one.source)) == (bits(other.values), other.site, dict(other.source))


@SLOW
@given(data=st.data(), suffix=st.sampled_from((".safetensors", ".gguf")))
def test_a_vector_comes_back_bit_for_bit(data: st.DataObject, suffix: str, tmp_path: Path) -> None:
    rows = 1 if suffix == ".gguf" else data.draw(st.integers(1, 3))
    made = data.draw(vectors("resid_pre", data.draw(st.integers(2, 50)), rows, data.draw(st.integers(1, 40))))
    found = read_vector(made.save(tmp_path / f"v{suffix}"))
    assert isinstance(found, SteeringVector) and same(found, made)


@SLOW
@given(data=st.data(), suffix=st.sampled_from((".safetensors", ".gguf")))
def test_a_bundle_comes_back_bit_for_bit(data: st.DataObject, suffix: str, tmp_path: Path) -> None:
    made = data.draw(bundles(1 if suffix == ".gguf" else 2))
    found = read_vector(made.save(tmp_path / f"v{suffix}"))
    assert isinstance(found, VectorBundle) and list(found) == list(made) and found.source == made.source
    assert all(same(found[layer], made[layer]) for layer in made)


def test_one_layer_of_a_bundle_can_be_taken(tmp_path: Path) -> None:
    made = VectorBundle({n: SteeringVector(torch.tensor([[float(n)]]), Site("resid_pre", n)) for n in (2, 5)})
    path = made.save(tmp_path / "b.safetensors")
    found = read_vector(path, layer=5)
    assert isinstance(found, SteeringVector) and (found.site.layer, found.values.item()) == (5, 5.0)
    with pytest.raises(BadVector, match="holds vectors of layers 2, 5, got 3; expected one of them"):
        read_vector(path, layer=3)
    with pytest.raises(BadVector, match="holds several: use read_vector"):
        SteeringVector.load(path)


# GGUF, against the library of its authors.


def test_a_control_vector_is_what_other_programs_read(tmp_path: Path) -> None:
    """As repeng and EasySteer do: the architecture, a hint of the model, and one-dimensional float32 by block."""
    made = VectorBundle({n: SteeringVector(torch.randn(1, 7), Site("resid_pre", n)) for n in (2, 3, 9)})
    reader = gguf.GGUFReader(made.save(tmp_path / "c.gguf"))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert list(tensors) == ["direction.1", "direction.2", "direction.8"]
    for layer, name in zip(made, tensors, strict=True):
        assert tensors[name].tensor_type == gguf.GGMLQuantizationType.F32 and tensors[name].shape.tolist() == [7]
        assert tensors[name].data.tobytes() == bits(made[layer].values)
    arch, hint, count = (
        reader.get_field(key)
        for key in ("general.architecture", "controlvector.model_hint", "controlvector.layer_count")
    )
    assert arch is not None and hint is not None and count is not None
    assert (arch.contents(), hint.contents(), count.contents()) == ("controlvector", "unknown", 3)


def exported(path: Path, directions: dict[int, np.ndarray[Any, Any]], **more: Any) -> Path:
    """As repeng's `ControlVector.export_gguf` writes it."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(directions))
    writer.add_array("somebody.else", ["a", "b"])
    writer.add_array("numbers", [1, 2, 3])
    for layer, direction in directions.items():
        writer.add_tensor(f"direction.{layer}", direction)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def test_direction_n_is_added_behind_block_n(tmp_path: Path) -> None:
    """Which is where the next block reads: at `resid_pre` of layer N + 1, or in what block N's MLP writes."""
    made = {n: np.random.default_rng(n).normal(size=33).astype("f4") for n in (4, 0, 1)}
    path = exported(tmp_path / "c.gguf", made)
    found, beside = read_vector(path), read_vector(path, site="mlp_out")
    assert isinstance(found, VectorBundle) and isinstance(beside, VectorBundle)
    assert [str(v.site) for v in found.values()] == ["L1.resid_pre", "L2.resid_pre", "L5.resid_pre"]
    assert [str(v.site) for v in beside.values()] == ["L0.mlp_out", "L1.mlp_out", "L4.mlp_out"]
    for n, direction in made.items():
        assert bits(found[n + 1].values) == direction.tobytes() == bits(beside[n].values)


def test_half_precision_is_widened_exactly(tmp_path: Path) -> None:
    half = np.random.default_rng(0).normal(size=16).astype("f2")
    found = read_vector(exported(tmp_path / "c.gguf", {3: half}))
    assert isinstance(found, SteeringVector)
    assert (found.values[0].numpy() == half.astype("f4")).all()


def test_what_a_control_vector_has_no_place_for_is_refused(tmp_path: Path) -> None:
    for site, rows, what in (
        ("L5.resid_pre", 2, "takes one direction a layer, .* has 2 rows; expected one; save vector.row"),
        ("L1.resid_pre", 1, "has no place for a vector at L1.resid_pre: .*behind the second block or a later"),
        ("L0.mlp_out", 1, "no place for a vector at L0.mlp_out"),
        ("L5H1.z", 1, "no place for a vector at L5H1.z"),
    ):
        with pytest.raises(BadVector, match=what):
            SteeringVector(torch.ones(rows, 4), parse_site(site)).save(tmp_path / "v.gguf")
    with pytest.raises(BadVector, match="has the suffix '.pt'; expected .safetensors, .gguf; choose one"):
        SteeringVector(torch.ones(1, 4), Site("resid_pre", 5)).save(tmp_path / "v.pt")
    assert not list(tmp_path.iterdir())


def test_a_direction_behind_the_last_block_has_a_place_in_its_mlp(tiny: Model, tmp_path: Path) -> None:
    path = exported(tmp_path / "c.gguf", {1: np.ones(32, "f4")})
    with pytest.raises(BadVector, match="behind the last block of tiny, .*; expected site='mlp_out'"):
        read_vector(path, model=tiny)
    found = read_vector(path, model=tiny, site="mlp_out")
    assert isinstance(found, SteeringVector) and str(found.site) == "L1.mlp_out"
    with pytest.raises(BadVector, match="of width 3; tiny has 32 at L1.resid_pre"):
        read_vector(exported(tmp_path / "d.gguf", {0: np.ones(3, "f4")}), model=tiny)


# Arrays that say nothing of themselves.

STACK = torch.arange(24.0).reshape(2, 3, 4)


def saved(folder: Path, what: Any, suffix: str = ".pt") -> Path:
    path = folder / f"array{suffix}"
    if suffix == ".npy":
        np.save(path, what.numpy())
    elif suffix == ".safetensors":
        save_file(what if isinstance(what, dict) else {"x": what}, path)
    else:
        torch.save(what, path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".safetensors"])
@pytest.mark.parametrize(
    ("array", "told", "expected"),
    [
        (STACK[0, 0], {"site": "resid_post", "layer": 4}, {"L5.resid_pre": STACK[0, :1]}),
        (STACK[0, 0], {"site": "L4.resid_pre"}, {"L4.resid_pre": STACK[0, :1]}),
        (STACK[0, 0], {"site": "z", "layer": 4, "head": 2}, {"L4H2.z": STACK[0, :1]}),
        (STACK[:1, :1], {"site": "L4.attn_out"}, {"L4.attn_out": STACK[0, :1]}),
        (
            STACK[0],
            {"site": "resid_pre", "axes": "layers,width"},
            {f"L{n}.resid_pre": STACK[0, n : n + 1] for n in range(3)},
        ),
        (STACK[0], {"site": "hidden_states", "axes": "layers,width", "layer": 2}, {"L2.resid_pre": STACK[0, 2:]}),
        (STACK[0], {"site": "resid_post", "axes": "layers,width", "layer": 2}, {"L3.resid_pre": STACK[0, 2:]}),
        (STACK[0], {"site": "L3.resid_pre", "axes": "positions,width"}, {"L3.resid_pre": STACK[0]}),
        (STACK[0], {"site": "L3.resid_pre", "axes": "positions,width", "position": -1}, {"L3.resid_pre": STACK[0, 2:]}),
        (
            STACK,
            {"site": "resid_pre", "axes": "positions,layers,width"},
            {f"L{n}.resid_pre": STACK[:, n] for n in range(3)},
        ),
        (STACK, {"site": "resid_pre", "axes": "layers,positions,width", "layer": 1}, {"L1.resid_pre": STACK[1]}),
        (
            STACK,
            {"site": "resid_pre", "axes": "positions,layers,width", "layer": 1, "position": 0},
            {"L1.resid_pre": STACK[0, 1:2]},
        ),
        (STACK, {"site": "z", "axes": "layers,heads,width", "head": 2}, {f"L{n}H2.z": STACK[n, 2:] for n in range(2)}),
    ],
)
def test_arrays_are_read_as_they_are_told(
    array: torch.Tensor, told: dict[str, Any], expected: dict[str, torch.Tensor], suffix: str, tmp_path: Path
) -> None:
    found = read_vector(saved(tmp_path, array.contiguous(), suffix), **told)
    listed = list(found.values()) if isinstance(found, VectorBundle) else [found]
    assert {str(vector.site): vector.values.tolist() for vector in listed} == {
        k: x.tolist() for k, x in expected.items()
    }


@pytest.mark.parametrize(
    ("what", "told", "message"),
    [
        (STACK[0], {}, r"does not say where it was recorded; expected site: one of resid_pre, hidden_states"),
        (STACK[0], {"site": "resid_pre"}, r"holds an array of shape \[3, 4\]; expected to be told which axis is what"),
        (STACK[0], {"site": "resid_pre", "layer": 1}, r"of shape \[3, 4\]; expected to be told"),
        (STACK, {"site": "resid_pre", "axes": "layers,width"}, r"of shape \[2, 3, 4\], got axes='layers,width'"),
        (STACK[0], {"site": "resid_pre", "axes": "width,layers"}, "one name for each .* the last one width"),
        (STACK[0], {"site": "resid_pre", "axes": "positions,width"}, "of no layer; expected to be told its layer"),
        (STACK[0, 0], {"site": "resid_pre"}, r"of shape \[4\], of no layer"),
        (STACK[0], {"site": "resid_pre", "axes": "layers,width", "layer": 3}, "has layers 0, 1, 2, got layer=3"),
        (STACK[0, 0], {"site": "L1.resid_pre", "position": 0}, "has no axis of positions"),
        (STACK[0, 0], {"site": "L1.resid_pre", "layer": 2}, "no other layer or head beside it"),
        (STACK[0, 0], {"site": "L1.pattern"}, "L1.pattern.* has no heads|needs a head"),
        (STACK[0, 0], {"site": "z", "layer": 1}, "heads .* with the site z, and with it alone"),
        (STACK, {"site": "z", "axes": "layers,heads,width"}, "several heads; expected one head at a time"),
        (STACK[0, 0], {"site": "nowhere", "layer": 1}, "is no site"),
        (
            {"a": STACK[0, 0], "b": STACK[1, 0]},
            {"site": "resid_pre", "layer": 1},
            r"holds 2 arrays \(a \[4\], b \[4\]\)",
        ),
        ({"a": STACK[0, 0], "b": STACK[1, 0]}, {"site": "resid_pre", "axes": "layers,width"}, "not one a layer"),
        ({"a": STACK[0, 0]}, {"site": "resid_pre", "layer": 1, "key": "b"}, r"holds a \[4\], and nothing under 'b'"),
    ],
)
def test_nothing_is_guessed(what: Any, told: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((BadVector, BadNode), match=message):
        read_vector(saved(tmp_path, what), **told)


def test_a_dictionary_by_layer_keeps_the_numbers_of_its_layers(tmp_path: Path) -> None:
    path = saved(tmp_path, {12: STACK[0, 0], 10: STACK[0, 1]})
    found = read_vector(path, site="resid_post", axes="layers,width")
    assert isinstance(found, VectorBundle) and list(found) == [11, 13]
    assert found[11].values[0].tolist() == STACK[0, 1].tolist()
    one = read_vector(path, site="resid_post", axes="layers,width", layer=12)
    assert isinstance(one, SteeringVector) and one.site.layer == 13 and one.values[0].tolist() == STACK[0, 0].tolist()
    named = read_vector(saved(tmp_path, {"a": STACK[0, 0], "b": STACK[1]}), site="L1.resid_pre", key="a")
    assert isinstance(named, SteeringVector) and named.values[0].tolist() == STACK[0, 0].tolist()


# Bad files.


def header(tensors: int = 1, entries: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def listed(name: bytes, *shape: int, kind: int = 0, offset: int = 0) -> bytes:
    shaped = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return struct.pack("<Q", len(name)) + name + shaped + struct.pack("<IQ", kind, offset)


ONE = control_bytes({1: torch.ones(4)}, {})
HUGE = 2**62
CONTROLS: dict[str, tuple[bytes, str]] = {
    "no": (b"no", "GGUF"),
    "text": (b"hello world", "does not begin with GGUF"),
    "tensors": (header(HUGE), "tensors"),
    "cut": (header(1, 1), "ends after"),
    "array": (header(1, 1) + struct.pack("<QcIIQ", 1, b"a", 9, 4, HUGE), "entries"),
    "latin": (header(1, 1) + struct.pack("<QcI", 1, b"\xff", 4) + bytes(4), "no UTF-8"),
    "none": (header(0), "holds no directions"),
    "name": (header() + listed(b"token_embd.weight", 4, 4) + bytes(96), "of shape .4, 4.; .* is no control vector"),
    "zero": (header() + listed(b"direction.01", 4) + bytes(96), "expected direction.1"),
    "sign": (header() + listed(b"direction.-1", 4) + bytes(96), "expected one-dimensional tensors named"),
    "wide": (header() + listed(b"direction.1", HUGE), "is not whole in it"),
    "nothing": (header() + listed(b"direction.1", 0) + bytes(96), "got the shape"),
    "quantized": (header() + listed(b"direction.1", 32, kind=2) + bytes(96), "of the type Q4_0; expected F32"),
    "twice": (header(2) + listed(b"direction.1", 4) * 2 + bytes(96), "stands there twice"),
    "widths": (header(2) + listed(b"direction.1", 4) + listed(b"direction.2", 5) + bytes(96), "not all of one width"),
    "short": (ONE[:-20], "is not whole in it"),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_bad_control_vector_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    content, what = CONTROLS[name]
    path = tmp_path / "c.gguf"
    path.write_bytes(content)
    with pytest.raises(BadVector, match=what) as refused:
        read_vector(path)
    assert len(str(refused.value)) < 700 and str(path) in str(refused.value)


def test_what_changed_in_a_control_vector_of_ours_is_refused(tmp_path: Path) -> None:
    made = SteeringVector(torch.ones(1, 8), Site("resid_pre", 4), {"label": "ones"})
    path = made.save(tmp_path / "c.gguf")
    content = path.read_bytes()
    read = set()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        try:
            found = read_vector(path)
            assert isinstance(found, SteeringVector) and same(found, made)
            read.add(place)
        except BadVector:
            pass
    assert len(read) < 40  # padding, and the version before


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return print, ("run",)


def packed(path: Path) -> None:
    """A gigabyte of zeros in an archive of a megabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 28))


def old(path: Path) -> None:
    torch.save(torch.ones(4), path, _use_new_zipfile_serialization=False)


def object_array(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def claimed(path: Path) -> None:
    """An array that is said to be larger than its file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 1 << 20)})
    path.write_bytes(file.getvalue() + bytes(64))


def large(path: Path) -> None:
    torch.save(torch.ones(1).expand(1 << 20, 1 << 20), path)


BAD: dict[str, tuple[bytes | Callable[[Path], object], str]] = {
    "a.xyz": (b"", "has the suffix '.xyz'; expected one of .safetensors, .gguf, .pt"),
    "b": (b"", "has the suffix ''"),
    "c.pt": (b"", "is empty"),
    "d.pt": (b"hello", "no file of torch.save"),
    "e.pt": (packed, "its parts are compressed"),
    "f.pt": (old, "no file of torch.save"),
    "g.pt": (lambda path: torch.save(Evil(), path), "cannot be read without running what it holds"),
    "h.pt": (lambda path: torch.save({"a": "text"}, path), "holds str under 'a'; expected tensors of real numbers"),
    "i.pt": (lambda path: torch.save({}, path), "holds 0 arrays"),
    "j.pt": (lambda path: torch.save(torch.ones(2, dtype=torch.complex64), path), "a tensor of complex64"),
    "k.pt": (large, "a tensor of float32, of shape .1048576, 1048576."),
    "l.pt": (zeros, "holds over 1,073,741,824 bytes"),
    "m.pt": (Path.mkdir, "is a folder|Is a directory"),
    "n.pt": (lambda path: torch.save([[torch.ones(2)]], path), "holds list under '0'"),
    "o.npy": (b"hello", "is no array of numpy"),
    "p.npy": (object_array, "it holds object, not numbers"),
    "q.npy": (claimed, "does not fit its"),
    "r.npy": (lambda path: np.save(path, np.array(["a"])), "not numbers"),
    "s.npy": (zeros, "holds over"),
    "t.gguf": (zeros, "does not begin with GGUF"),
    "u.safetensors": (b"hello", "is no steering vector"),
    "v.safetensors": (zeros, "holds over"),
    "w.safetensors": (lambda path: save_file({"a": torch.ones(2)}, path), "does not say where it was recorded"),
    "x.gguf": (lambda path: None, "cannot be read .No such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    content, what = BAD[name]
    path = tmp_path / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    with pytest.raises(BadVector, match=what) as refused:
        read_vector(path)
    assert len(str(refused.value)) < 700 and str(refused.value).count("\n") == 0


def test_every_kind_of_file_is_tried() -> None:
    assert {Path(name).suffix for name in BAD} >= set(READERS) - {".pth", ".bin"}


def test_a_prompt_pair_is_a_control_vector_by_its_last_row(tiny: Model, tmp_path: Path) -> None:
    made = prompt_pair(tiny, " wedding", " ship", 1, site="mlp_out").row(-1)
    found = read_vector(made.save(tmp_path / "p.gguf"), model=tiny)
    assert isinstance(found, SteeringVector) and same(found, made)
    assert json.dumps(dict(found.source)) == json.dumps(dict(made.source))
