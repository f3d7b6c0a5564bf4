"""GGUF files: read as they are, dequantized to the same numbers, and refused in one sentence where they lie."""

import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers as hf
from architectures import _LLAMA, checkpoint
from small_gguf import WORDS, write_gguf
from torch.testing import assert_close

from steerscope.analysis.errors import ModelNotFound, SteerscopeError, UnsupportedModel
from steerscope.analysis.ggufs import read_gguf
from steerscope.analysis.loading.loading import load

TOKENS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 79, 32]])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = write_gguf(tmp_path_factory.mktemp("gguf") / "hf.gguf", checkpoint("llama"), words=WORDS)
    return path


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2"])
@torch.no_grad()
def test_a_file_is_the_model_that_it_was_made_of(tmp_path: Path, name: str) -> None:
    original = checkpoint(name)
    model = load(write_gguf(tmp_path / "x.gguf", original))
    assert_close(model.bridge(TOKENS), original(TOKENS).logits, rtol=0, atol=1e-5)
    assert model.name == "A Small Model" and model.notes == () and model.tokenizer is None
    assert model.source == str((tmp_path / "x.gguf").resolve())
    assert load(model.source, name="mine").name == "mine"


@torch.no_grad()
def test_quantized_weights_are_dequantized_and_said_to_be(tmp_path: Path) -> None:
    original = checkpoint("llama")
    path = write_gguf(tmp_path / "x.gguf", original, "Q8_0")
    model = load(path, dtype="float64")
    assert model.notes == ("quantized weights (Q8_0) were dequantized to float64",)
    assert model.describe()["notes"] == list(model.notes)
    for tensor in gguf.GGUFReader(path).tensors:  # by the reader of llama.cpp's package
        if tensor.name == "blk.1.ffn_up.weight":
            expected = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)).double()
    found = model.bridge.original_model.model.layers[1].mlp.up_proj.original_component.weight
    assert tuple(found.shape) == (48, 32) and torch.equal(found, expected)
    assert not torch.equal(found, original.model.layers[1].mlp.up_proj.weight.double())


def test_the_header_is_that_of_the_package(whole: Path) -> None:
    found, expected = read_gguf(whole, ModelNotFound), gguf.GGUFReader(whole)
    for name, field in found.fields.items():
        assert field.value == expected.fields[name].contents(), name
    for tensor, other in zip(found.tensors, expected.tensors, strict=True):
        assert tensor.name == other.name and tensor.shape == tuple(other.shape.tolist()[::-1])
        assert tensor.data.dtype == other.data.dtype and (tensor.data == other.data).all()


def test_its_tokenizer_reads_text(whole: Path) -> None:
    model = load(whole)
    assert model.tokens("abc") == [1, WORDS.index("ab"), WORDS.index("c")]
    assert load(whole, bos=False).tokens("c") == [WORDS.index("c")]


@torch.no_grad()
def test_factors_of_rotary_embeddings_are_used(tmp_path: Path) -> None:
    """As files of Llama 3.1 have them; transformers' own reader leaves them out."""
    scaled = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    scaled |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    torch.manual_seed(0)
    original: Any = hf.LlamaForCausalLM(hf.LlamaConfig(**_LLAMA | {"rope_parameters": scaled}))
    original.eval()
    plain = 10000.0 ** -(torch.arange(0, 8, 2) / 8)
    factors = plain / original.model.rotary_emb.inv_freq
    assert factors.max() > 2
    model = load(write_gguf(tmp_path / "x.gguf", original, tables={"rope_freqs.weight": factors}))
    assert_close(model.bridge(TOKENS), original(TOKENS).logits, rtol=0, atol=1e-5)
    path = write_gguf(tmp_path / "y.gguf", original, tables={"rope_factors_long.weight": factors})
    with pytest.raises(UnsupportedModel, match="has its own table of rotary embeddings"):
        load(path)


def test_nothing_beside_the_file_is_read(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(whole.read_bytes())
    for name in ("config.json", "adapter_config.json", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).write_text('{"auto_map": {"AutoConfig": "x.Y"}, "base_model_name_or_path": "x/y"}')
    assert load(tmp_path / "x.gguf").n_layers == 3


# Files that lie.

Change = Callable[[bytes], bytes]


def number(key: str, value: int) -> Change:
    """A whole number of the header is another."""

    def change(whole: bytes) -> bytes:
        start = whole.index(key.encode()) + len(key)
        assert whole[start : start + 4] == struct.pack("<I", 4)
        return whole[: start + 4] + struct.pack("<I", value) + whole[start + 8 :]

    return change


def at(place: int, form: str, value: int) -> Change:
    return lambda whole: whole[:place] + struct.pack(form, value) + whole[place + struct.calcsize(form) :]


def after(key: str, skip: int, form: str, value: int) -> Change:
    """Something that stands so many bytes behind a name is another."""
    return lambda whole: at(whole.index(key.encode()) + len(key) + skip, form, value)(whole)


def renamed(old: str, new: str) -> Change:
    assert len(old) == len(new)
    return lambda whole: whole.replace(old.encode(), new.encode("latin-1"))


TENSOR = "blk.1.ffn_up.weight"  # then axes (4 bytes), two sizes (8 each), the type (4), the offset (8)
LIES: dict[str, Change] = {
    "nothing": lambda whole: b"",
    "only its first bytes": lambda whole: whole[:4],
    "something else": lambda whole: b"\x89PNG" + whole[4:],
    "a header that ends": lambda whole: whole[:300],
    "weights that end": lambda whole: whole[: len(whole) // 2],
    "one byte too few": lambda whole: whole.rstrip(b"\0")[:-1],
    "an old version": at(4, "<I", 1),
    "the other byte order": at(4, ">I", 3),
    "entries without end": at(16, "<Q", 2**63),
    "tensors without end": at(8, "<Q", 2**62),
    "more tensors than there are": at(8, "<Q", 90_000),
    "fewer entries than there are": at(16, "<Q", 3),
    "a name without end": at(24, "<Q", 2**64 - 1),
    "a text without end": after("general.name", 4, "<Q", 2**40),
    "a list without end": after("tokenizer.ggml.tokens", 8, "<Q", 2**40),
    "a list longer than any": after("tokenizer.ggml.token_type", 8, "<Q", 2**23),
    "lists in lists": after("tokenizer.ggml.token_type", 4, "<I", 9),
    "a value of no type": after("llama.block_count", 0, "<I", 77),
    "an entry twice": renamed("llama.embedding_length", "llama.attention.head_c"),
    "axes without end": after(TENSOR, 0, "<I", 2**31),
    "a size without end": after(TENSOR, 4, "<Q", 2**62),
    "two sizes without end": lambda w: after(TENSOR, 4, "<Q", 2**62)(after(TENSOR, 12, "<Q", 2**62)(w)),
    "a size that another is": after(TENSOR, 4, "<Q", 16),
    "no numbers": after(TENSOR, 4, "<Q", 0),
    "a kind that nobody knows": after(TENSOR, 20, "<I", 200),
    "a kind of another size": after(TENSOR, 20, "<I", 1),
    "an offset behind the end": after(TENSOR, 24, "<Q", 2**40),
    "an offset without end": after(TENSOR, 24, "<Q", 2**64 - 32),
    "an offset between": after(TENSOR, 24, "<Q", 33),
    "a tensor twice": renamed("blk.1.ffn_up.weight", "blk.0.ffn_up.weight"),
    "a tensor of another name": renamed("blk.1.ffn_up.weight", "blk.1.ffn_xx.weight"),
    "a name that is no text": renamed("blk.1.ffn_up.weight", "blk.1.ffn_\xff\xfe.weight"),
    "layers without end": number("llama.block_count", 10**9),
    "more layers than tensors": number("llama.block_count", 1000),
    "fewer layers than there are": number("llama.block_count", 2),
    "no layers": number("llama.block_count", 0),
    "a width without end": number("llama.embedding_length", 2**32 - 1),
    "another width": number("llama.embedding_length", 64),
    "no width": number("llama.embedding_length", 0),
    "an MLP without end": number("llama.feed_forward_length", 2**31 - 1),
    "no heads": number("llama.attention.head_count", 0),
    "heads without end": number("llama.attention.head_count", 2**31 - 1),
    "words without end": number("llama.vocab_size", 2**31 - 1),
    "a BOS that is no word": number("tokenizer.ggml.bos_token_id", 10**6),
    "no architecture": renamed("general.architecture", "general.architecturx"),
    "an architecture that nobody knows": renamed("llama", "lxama"),
    "an architecture of experts": renamed("llama", "grok1"),
    "a tokenizer that nobody knows": renamed("tokenizer.ggml.model", "tokenizer.ggml.modex"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_file_that_lies_is_refused_in_a_sentence(
    name: str, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changed = LIES[name](whole.read_bytes())
    assert changed != whole.read_bytes()
    (tmp_path / "x.gguf").write_bytes(changed)
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ModelNotFound, UnsupportedModel)) as refused:
        load(tmp_path / "x.gguf")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    said = str(refused.value)
    assert said.count("; ") >= 2 and "expected" in said and "\n" not in said, said
    assert time.perf_counter() - start < 20
    assert capfd.readouterr() == ("", "")


def test_random_bytes_are_refused_or_read(whole: Path, tmp_path: Path) -> None:
    """Whatever bytes of the header are changed, the reader refuses, or gives what lies inside of the file."""
    content = whole.read_bytes()
    generator = torch.Generator().manual_seed(0)
    end = content.index(b"blk.2.") + 500
    for _ in range(100):
        changed = bytearray(content)
        for place in torch.randint(4, end, (3,), generator=generator).tolist():
            changed[place] = int(torch.randint(256, (1,), generator=generator))
        (tmp_path / "x.gguf").write_bytes(changed)
        try:
            found = read_gguf(tmp_path / "x.gguf", ModelNotFound)
        except SteerscopeError:
            continue
        assert sum(tensor.data.nbytes for tensor in found.tensors) <= len(changed) * len(found.tensors)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"split.count": 3}, "is one of 3 parts of a model"),
        ({"llama.expert_count": 8, "llama.expert_used_count": 2}, "routes each token to some of 8 experts"),
    ],
)
def test_what_is_no_whole_model_is_refused(tmp_path: Path, entries: dict[str, Any], sentence: str) -> None:
    path = write_gguf(tmp_path / "x.gguf", checkpoint("llama"), entries=entries)
    with pytest.raises(SteerscopeError, match=sentence):
        load(path)


def test_a_control_vector_is_no_model(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "controlvector")
    writer.add_tensor("direction.1", torch.zeros(32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelNotFound, match="is a control vector; expected a GGUF file of a language model"):
        load(tmp_path / "x.gguf")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()
    for name in ("folder.gguf", "missing.gguf"):
        with pytest.raises(ModelNotFound, match=r"no config.json in|^no folder"):
            load(tmp_path / name)
    with pytest.raises(ModelNotFound, match="^no folder 'missing.gguf'"):  # not asked of the hub
        load("missing.gguf")


def test_weights_of_transformer_lens_are_refused_with_the_way(tmp_path: Path) -> None:
    torch.save({"embed.W_E": torch.zeros(2, 2)}, tmp_path / "toy.pt")
    with pytest.raises(ModelNotFound, match=r"make a bridge of it first \(convert_tl_checkpoint; see docs/models.md\)"):
        load(tmp_path / "toy.pt")
