"""The secants of a layer's heads: values under the mean pattern, and patterns by queries and by keys.

A head writes `W_O sum_j A_ij v_j`. What reads it by r sees

- ov<-j:  M A_ij (r W_O . D v_j): what is moved from j;
- q, k<-j: sum_j D A_ij (r W_O . M v_j), D A shared out between the query and each key by four softmaxes: with keys of
  either run the query goes from clean to steered, and with queries of either run the keys do (Shapley for two players).

Each of the four differences of patterns is linear in the difference of scores, and scores are linear in what moves.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .form import Attention
from .runs import Runs, keys, repeated
from .secants import NormSecant, logarithmic_mean, softmax_back

Index = Int[Tensor, " row"]
Heads = Float[Tensor, "prompt pos head d_head"]
Square = Float[Tensor, "prompt head pos pos"]


def by_head(x: Float[Tensor, "row a"], weight: Float[Tensor, "head a b"], h: Index) -> Float[Tensor, "row b"]:
    """Each row through the matrix of its own head."""
    found = x.new_empty(len(x), weight.shape[2])
    for head in torch.unique(h).tolist():
        mine = (h == head).nonzero(as_tuple=True)[0]
        found[mine] = x[mine] @ weight[head]
    return found


@dataclass(frozen=True, eq=False)
class Values:
    """What rows see of one head each, by channel; `_interaction` is that of values and pattern, clean first."""

    ov: Float[Tensor, "row pos"]
    k: Float[Tensor, "row pos"]
    q: Float[Tensor, " row"]
    ov_interaction: Float[Tensor, "row pos"]
    k_interaction: Float[Tensor, "row pos"]
    q_interaction: Float[Tensor, " row"]


@dataclass(frozen=True, eq=False)
class HeadSecants:
    """Of a batch of prompts; pairs are over the run in which the other factor is held.

    Attributes:
        Dz: how each head's z changes by itself, injections into z left out.
        by_query, by_key: logarithmic means of patterns when the query (keys) goes from clean to steered.
        Dscore_q, Dscore_k: the changes of the scores that go with them.
    """

    own: Attention
    norm: NormSecant
    q: tuple[Heads, Heads]
    k: tuple[Heads, Heads]
    v: tuple[Heads, Heads]
    q_norm: NormSecant | None
    k_norm: NormSecant | None
    MA: Square
    DA: Square
    by_query: tuple[Square, Square]
    by_key: tuple[Square, Square]
    Dscore_q: tuple[Square, Square]
    Dscore_k: tuple[Square, Square]
    Dz: Heads
    bias: Float[Tensor, "#prompt #head pos pos"]
    injected: bool

    @classmethod
    def of(
        cls, own: Attention, runs: Runs, layer: int, stream: Float[Tensor, "run prompt pos d_model"]
    ) -> "HeadSecants":
        raw = {site: runs.kept[site, layer] for site in ("q", "k", "v")}
        q, k, v = own.turned(raw["q"], own.q_norm), keys(own, raw["k"]), repeated(own, raw["v"])
        bias = runs.bias[layer]

        def pattern(a: int, b: int) -> Square:
            return (own.scale * torch.einsum("bihe,bjhe->bhij", q[a], k[b]) + bias).softmax(dim=-1)

        cc, sc, cs, ss = pattern(0, 0), pattern(1, 0), pattern(0, 1), pattern(1, 1)
        dq, dk, dv = q[1] - q[0], k[1] - k[0], v[1] - v[0]

        def scores(x: Heads, y: Heads) -> Square:
            return own.scale * torch.einsum("bihe,bjhe->bhij", x, y)

        MA, DA = (cc + ss) / 2, ss - cc
        Dz = torch.einsum("bhij,bjhe->bihe", MA, dv) + torch.einsum("bhij,bjhe->bihe", DA, (v[0] + v[1]) / 2)
        injected = any((site, layer) in runs.edited for site in ("q", "k", "v"))
        if not injected:  # what sees no change has none, not even by rounding
            moved = (stream[1] != stream[0]).any(dim=-1).cummax(dim=1).values
            Dz = torch.where(moved[..., None, None], Dz, 0.0)
        norms = [
            None if norm is None else NormSecant.of(norm, *(repeated(own, x) for x in raw[site]))
            for site, norm in (("q", own.q_norm), ("k", own.k_norm))
        ]
        return cls(
            own,
            NormSecant.of(own.norm, stream[0], stream[1]),
            (q[0], q[1]),
            (k[0], k[1]),
            (v[0], v[1]),
            norms[0],
            norms[1],
            MA,
            DA,
            (logarithmic_mean(cc, sc), logarithmic_mean(cs, ss)),
            (logarithmic_mean(cc, cs), logarithmic_mean(sc, ss)),
            (scores(dq, k[0]), scores(dq, k[1])),
            (scores(q[0], dk), scores(q[1], dk)),
            Dz,
            bias,
            injected,
        )

    @property
    def Mv(self) -> Heads:
        return (self.v[0] + self.v[1]) / 2

    @property
    def Dv(self) -> Heads:
        return self.v[1] - self.v[0]

    def values(self, r: Float[Tensor, "row d_head"], b: Index, i: Index, h: Index) -> Values:
        """What each row sees of a head.

        Args:
            r: what reads the head's z at position i of prompt b.
        """
        middle = torch.einsum("rje,re->rj", self.Mv[b, :, h], r)
        change = torch.einsum("rje,re->rj", self.Dv[b, :, h], r)
        (q, k), (q_more, k_more) = (self._pattern(above, b, i, h) for above in (middle, change))
        return Values(self.MA[b, h, i] * change, k, q, self.DA[b, h, i] * change, k_more, q_more)

    def _pattern(self, above: Float[Tensor, "row pos"], b: Index, i: Index, h: Index) -> tuple[Tensor, Tensor]:
        """What is seen of a pattern's change, through the query and through each key."""
        q, k = torch.zeros_like(above[:, 0]), torch.zeros_like(above)
        for n in (0, 1):
            q = q + (softmax_back(self.by_query[n][b, h, i], above) * self.Dscore_q[n][b, h, i]).sum(dim=-1) / 2
            k = k + softmax_back(self.by_key[n][b, h, i], above) * self.Dscore_k[n][b, h, i] / 2
        return q, k

    def through_value(self, r: Tensor, b: Index, i: Index, h: Index, j: Index) -> Float[Tensor, "row d_model"]:
        """What reads the stream at j through the value there."""
        return self._stream(self.MA[b, h, i, j][:, None] * r, self.own.W_V, h, b, j)

    def through_key(self, r: Tensor, b: Index, i: Index, h: Index, j: Index) -> Float[Tensor, "row d_model"]:
        """What reads the stream at j through the key there."""
        above = torch.einsum("rje,re->rj", self.Mv[b, :, h], r)
        row = torch.arange(len(r), device=r.device)
        found = torch.zeros_like(r)
        for n in (0, 1):
            score = softmax_back(self.by_key[n][b, h, i], above)[row, j]
            found = found + score[:, None] * self.q[n][b, i, h] / 2
        return self._stream(self._untie(found, self.k_norm, b, j, h), self.own.W_K, h, b, j)

    def through_query(self, r: Tensor, b: Index, i: Index, h: Index) -> Float[Tensor, "row d_model"]:
        """What reads the stream at i through the query there."""
        above = torch.einsum("rje,re->rj", self.Mv[b, :, h], r)
        found = torch.zeros_like(r)
        for n in (0, 1):
            scores = softmax_back(self.by_query[n][b, h, i], above)
            found = found + torch.einsum("rj,rje->re", scores, self.k[n][b, :, h]) / 2
        return self._stream(self._untie(found, self.q_norm, b, i, h), self.own.W_Q, h, b, i)

    def _untie(self, r: Tensor, norm: NormSecant | None, b: Index, at: Index, h: Index) -> Tensor:
        """From a turned and normalized query or key back to what the projection gives."""
        r = self.own.scale * r
        if self.own.rotary is not None:
            r = self.own.rotary(r[:, None], at, back=True)[:, 0]
        return r if norm is None else norm.at(b, at, h).back(r)

    def _stream(
        self, r: Tensor, weight: Float[Tensor, "head d_model d_head"], h: Index, b: Index, at: Index
    ) -> Float[Tensor, "row d_model"]:
        return self.norm.at(b, at).back(by_head(r, weight.transpose(1, 2), h))

    def channels(self, r: Float[Tensor, "row pos head d_head"], b: Index) -> tuple[Tensor, Tensor, Tensor]:
        """What reads all queries, keys and values, from what reads all z: each `[row, pos, head, d_head]`."""
        v = torch.einsum("rhij,rihe->rjhe", self.MA[b], r)
        above = torch.einsum("rihe,rjhe->rhij", r, self.Mv[b])
        q, k = torch.zeros_like(r), torch.zeros_like(r)
        for n in (0, 1):
            q = q + torch.einsum("rhij,rjhe->rihe", softmax_back(self.by_query[n][b], above), self.k[n][b]) / 2
            k = k + torch.einsum("rhij,rihe->rjhe", softmax_back(self.by_key[n][b], above), self.q[n][b]) / 2
        q, k = self.own.scale * q, self.own.scale * k
        if self.own.rotary is not None:
            q, k = (self.own.rotary(x, slice(0, x.shape[1]), back=True) for x in (q, k))
        q = q if self.q_norm is None else self.q_norm.at(b).back(q)
        k = k if self.k_norm is None else self.k_norm.at(b).back(k)
        return q, k, v

    def projected(self, normal: Float[Tensor, "part pos d_model"], b: Index) -> tuple[Tensor, Tensor]:
        """What parts of the normalized stream's change become in queries and keys as they meet in scores."""
        found = []
        for weight, norm in ((self.own.W_Q, self.q_norm), (self.own.W_K, self.k_norm)):
            x = torch.einsum("pid,hde->pihe", normal, weight)
            x = x if norm is None else norm.at(b).forward(x)
            found.append(x if self.own.rotary is None else self.own.rotary(x, slice(0, x.shape[1])))
        return found[0], found[1]

    def scores(self, moving: str, b: int, i: int, h: int) -> list[Float[Tensor, " pos"]]:
        """Scores of one query with what moves (`q` or `k`) clean, and the other factor of either run."""
        pairs = [(0, n) if moving == "q" else (n, 0) for n in (0, 1)]
        return [self.own.scale * (self.k[k][b, :, h] @ self.q[q][b, i, h]) + self._bias(b, h, i) for q, k in pairs]

    def _bias(self, b: int, h: int, i: int) -> Float[Tensor, " pos"]:
        """What the model adds to the scores of a query, up to a constant."""
        bias = self.bias.expand(len(self.MA), self.MA.shape[1], -1, -1)
        return bias[b, h, i]

    def back(self, r: Float[Tensor, "row pos d_model"], b: Index) -> Float[Tensor, "row pos d_model"]:
        """What reads the stream before all heads at every position, from what reads what they write."""
        q, k, v = self.channels(torch.einsum("rid,hed->rihe", r, self.own.W_O), b)
        normal = torch.einsum("rihe,hde->rid", q, self.own.W_Q)
        normal = (
            normal + torch.einsum("rihe,hde->rid", k, self.own.W_K) + torch.einsum("rihe,hde->rid", v, self.own.W_V)
        )
        return self.norm.at(b).back(normal)
