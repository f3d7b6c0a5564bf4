"""Parcels: what comes out is what went in, bit for bit."""

from dataclasses import dataclass
from multiprocessing.connection import Client
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.executors.parcels import EVEN, pack, unpack
from steerscope.analysis.executors.post import Post, Shelf


def sent(value: Any, **known: Any) -> Any:
    return unpack(pack(value, {id(own): name for name, own in known.items()}), known)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]
)
def test_a_tensor_keeps_its_bits_its_strides_and_its_place(dtype: torch.dtype) -> None:
    whole = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    for x in (whole, whole.T, whole[:, :7], whole[2:3], whole[1, 3:5], whole[0, 0], whole[:0], whole[:1].expand(4, 8)):
        found = sent(x)
        assert found.dtype == x.dtype and torch.equal(found, x) and found.data_ptr() % EVEN == x.data_ptr() % EVEN
    for x in (whole.T, whole[:, :7]):
        assert sent(x).stride() == x.stride()


def test_a_part_of_a_large_tensor_goes_without_the_rest() -> None:
    assert len(pack(torch.zeros(1000, 1000)[3])) < 10_000


def test_tensors_that_share_memory_go_on_sharing_it_and_parameters_stay_parameters() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    layer = nn.Linear(4, 4, bias=False)
    layer.weight = weight
    found, view, (own, frozen) = sent(
        [layer, weight.detach(), (weight, nn.Parameter(torch.ones(2), requires_grad=False))]
    )
    assert found.weight is own and own.requires_grad and not frozen.requires_grad and type(view) is Tensor
    with torch.no_grad():
        found.weight[0, 0] = 5
    assert view[0, 0] == 5 and weight[0, 0] == 1


@dataclass(frozen=True)
class Holding:
    heavy: Any
    more: Any


def test_what_the_other_side_has_goes_as_its_name() -> None:
    heavy = nn.Linear(500, 500)
    found = sent(Holding(heavy, [heavy, 3]), heavy=heavy)
    assert found.heavy is heavy and found.more == [heavy, 3]
    assert len(pack(Holding(heavy, 3), {id(heavy): "heavy"})) < 1000


def test_a_function_goes_by_value_and_what_is_open_does_not() -> None:
    number = 3
    assert sent(lambda x: x + number)(4) == 7
    with pytest.raises(BadArgument, match="cannot go to another process"):
        pack(x for x in range(3))
    with pytest.raises(BadArgument, match="cannot open what it was sent"):
        unpack(pack(torch.ones(3))[:-9])


def test_parcels_are_handed_out_as_long_as_they_are_held_and_opened_once() -> None:
    post, shelf, opened = Post(), Shelf(2), list[bytes]()

    def open_(data: Any) -> bytes:
        opened.append(bytes(data))
        return opened[-1]

    try:
        with post.holding("a", b"first") as a, post.holding("b", b"x" * 3_000_000) as b:
            assert [shelf.take(one, open_)[:1] for one in (a, b, a, b)] == [b"f", b"x", b"f", b"x"]
            assert len(opened) == 2
        with pytest.raises((OSError, EOFError)):
            a.get()
    finally:
        post.close()
    with pytest.raises(OSError):
        a.get()


def test_a_post_goes_on_behind_a_caller_who_talks_nonsense_and_closes_though_its_thread_has_ended() -> None:
    post = Post()
    with post.holding("a", b"first") as letter:
        for said in (b"nonsense", b"x" * 1000, b""):
            with Client(letter.address) as caller:
                caller.send_bytes(said)
        assert letter.get() == b"first"
        post._open = False
        Client(letter.address).close()
        post._thread.join(5)
        closing = Thread(target=post.close, daemon=True)
        closing.start()
        closing.join(5)
        assert not post._thread.is_alive() and not closing.is_alive()
