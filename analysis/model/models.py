"""`Model`: a `TransformerBridge`, what it is made of, and how it reads text.

Weights of a checkpoint stay raw: nothing is folded or centred, so streams and norms are those that the model was
trained with. A bridge is taken as it is, and what was done to it is said (`weights.processing`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.brief import brief, counted
from steerscope.analysis.errors import BadMetric, BadNode, BadPrompt
from steerscope.analysis.gate import gated, shown

from .context import Following, following, inner, puts_space
from .nodes import PER_HEAD, SCALES, Node, Site
from .positions import Layout
from .weights import processing

# Activations that one edits or reads, by the name of the hook in a block; `mlp_in` is normalized already.
HOOKS = {
    "resid_pre": "hook_resid_pre",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_in": "mlp.hook_in",
    "mlp_out": "hook_mlp_out",
    "z": "attn.hook_z",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "pattern": "attn.hook_pattern",
}


@gated
@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A loaded model; make one with `steerscope.load`.

    Attributes:
        bridge: the `TransformerBridge` that runs.
        name: as the user named it.
        architecture: class name of the checkpoint.
        source: what it can be loaded from again (folder or hub name); None for a bridge in memory.
        tokenizer: None where prompts are token ids.
        bos: the id put before every prompt; None for none.
        bos_token: the id that counts as BOS where a prompt begins with it, put there or not; None where there is none.
        n_kv_heads: heads of keys and values; fewer than n_heads where query heads share them.
        n_ctx: the longest prompt, in tokens (for GPT-Neo with local layers: the window).
        has_mlp: false for attention-only models.
        parallel: attention and MLP read the same stream (GPT-J, NeoX).
        post_norm: a norm stands between a node and the stream (Gemma): heads add up before it.
        notes: what was changed on load and what cannot be analysed, in sentences.
    """

    bridge: Any
    name: str
    architecture: str
    source: str | None
    tokenizer: Any
    bos: int | None
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_vocab: int
    n_ctx: int
    norm: str
    has_mlp: bool
    parallel: bool
    post_norm: bool
    softcap: bool
    notes: tuple[str, ...] = field(default=())
    bos_token: int | None = None

    def __repr__(self) -> str:
        size = f"{counted(self.n_layers, 'layer')} x {counted(self.n_heads, 'head')}, width {self.d_model}"
        return f"<Model {brief(self.name, 40)}: {size}, {self.architecture} on {self.device}>"

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All heads and MLPs, layer by layer."""
        heads: list[int | None] = list(range(self.n_heads))
        kinds = heads + [None] if self.has_mlp else heads
        return tuple(Node(layer, head) for layer in range(self.n_layers) for head in kinds)

    @property
    def device(self) -> torch.device:
        return self._weights[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self._weights[0].dtype

    @cached_property
    def _weights(self) -> list[Tensor]:
        return [next(p for p in self.bridge.parameters() if p.is_floating_point())]

    @cached_property
    def d_vocab_out(self) -> int:
        """How many logits there are: fewer than `d_vocab`, where a toy answers with fewer tokens than it reads."""
        return int(self.bridge.unembed.W_U.shape[-1])

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over names, shapes and bytes of all weights."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.bridge.state_dict().items()):
            digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    @gated(error=BadNode)
    def hook(self, site: str, layer: int) -> str:
        """Name of the hook point of a site.

        Raises:
            BadNode: no such site.
        """
        if site in SCALES:
            norm = site.removesuffix("_scale")
            return "ln_final.hook_scale" if norm == "final" else f"blocks.{layer}.{norm}.hook_scale"
        if site not in HOOKS:
            raise BadNode(f"unknown site {shown(site)}; expected one of {', '.join((*HOOKS, *SCALES))}; choose one")
        return f"blocks.{layer}.{HOOKS[site]}"

    @gated(error=BadNode)
    def width(self, site: Site) -> int:
        """Size of the last axis of the activation at a site (`n_ctx` for a pattern)."""
        if site.name == "pattern":
            return self.n_ctx
        if site.name in SCALES:
            return 1
        return self.d_head if site.name in PER_HEAD else self.d_model

    @gated(error=BadNode)
    def heads(self, site: str) -> int:
        """How many heads a site has: those of keys and values, or those of queries."""
        return self.n_kv_heads if site in ("k", "v") else self.n_heads

    @gated
    def capped(self, logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
        """Logits of the unembedding as the model gives them (Gemma caps them)."""
        cap = float(getattr(self.bridge.cfg, "output_logits_soft_cap", -1.0) or -1.0)
        return cap * torch.tanh(logits / cap) if self.softcap else logits

    @gated(error=BadNode)
    def check(self, site: Site) -> Site:
        """`site`, if this model has it.

        Raises:
            BadNode: layer or head out of range, or an MLP where there is none.
        """
        if not 0 <= site.layer < self.n_layers:
            raise BadNode(
                f"{site} is outside of {self.name}, which has layers 0 to {self.n_layers - 1}; expected one of "
                "them; choose it"
            )
        if site.head is not None and not 0 <= site.head < self.heads(site.name):
            raise BadNode(
                f"{site} is outside of {self.name}, which has heads 0 to {self.heads(site.name) - 1} there; "
                "expected one of them; choose it"
            )
        if site.name == "mlp_out" and not self.has_mlp:
            raise BadNode(f"{site} does not exist: {self.name} has attention only; expected a head; choose one")
        if site.name in SCALES and (
            self.hook(site.name, site.layer) not in self.bridge.hook_dict
            or (site.name == "final_scale" and site.layer < self.n_layers - 1)
        ):
            raise BadNode(
                f"{site} does not exist: {self.name} has no norm there; expected ln1_scale, ln2_scale, or final_scale "
                "of the last layer; choose a norm that it has"
            )
        return site

    @gated(error=BadPrompt)
    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without BOS.

        Raises:
            BadPrompt: the model has no tokenizer, or one with more tokens than it knows.
        """
        if self.tokenizer is None:
            raise BadPrompt(
                f"{self.name} has no tokenizer, got the text {shown(text)}; give token ids, such as [12, 7, 3]"
            )
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        self._known(ids)
        return ids

    @gated(error=BadPrompt)
    def encode_inner(self, text: str) -> list[int]:
        """Token ids of a text inside of another one: as `encode`, without the space that SentencePiece puts first.

        Raises:
            BadPrompt: as `encode`.
        """
        return inner(self.encode, self._puts_space, text)

    @gated(error=BadPrompt)
    def following(self, ids: Sequence[int], text: str) -> Following:
        """Token ids of a text that goes on after token ids, and whether the tokenizer parts both together so.

        Raises:
            BadPrompt: as `encode`.
        """
        if self.tokenizer is None:
            self.encode(text)  # says so
        body = ids[1:] if self.has_bos(ids) else ids
        return following(self.encode, self._puts_space, self.text(body), body, text)

    @cached_property
    def _puts_space(self) -> bool:
        return self.tokenizer is not None and puts_space(self.encode)

    def _known(self, ids: Sequence[int]) -> None:
        for token in (min(ids, default=0), max(ids, default=0)):
            if not 0 <= token < self.d_vocab:
                raise BadPrompt(
                    f"token id {token} is outside of the vocabulary of {self.name}; expected 0 to {self.d_vocab - 1}; "
                    "give ids of its own tokenizer"
                )

    @gated(error=BadPrompt)
    def tokens(self, text: str) -> list[int]:
        """Token ids of a prompt, with the BOS that the model is given; a BOS in the text is not doubled."""
        return self.begun(self.encode(text))

    @gated(error=BadPrompt)
    def begun(self, ids: Sequence[int]) -> list[int]:
        """Token ids behind the BOS that the model is given; one that is there already is not doubled."""
        return list(ids) if self.bos is None or self.has_bos(ids) else [self.bos, *ids]

    @gated(error=BadPrompt)
    def has_bos(self, ids: Sequence[int]) -> bool:
        """Whether token ids begin with BOS, whoever has put it there."""
        return len(ids) > 0 and ids[0] in (self.bos, self.bos_token)

    @gated(error=BadPrompt)
    def layout(self, ids: Sequence[int]) -> Layout:
        """What positions are found by in a prompt of these token ids."""
        return Layout(len(ids), self.has_bos(ids))

    @gated(error=BadPrompt)
    def text(self, ids: Sequence[int]) -> str:
        """Text of token ids (the ids themselves where there is no tokenizer).

        Raises:
            BadPrompt: an id that the model does not know.
        """
        self._known(ids)
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    @gated(error=BadPrompt)
    def text_after(self, ids: Sequence[int], more: Sequence[int]) -> str:
        """Text of token ids that follow others, its leading space kept.

        Raises:
            BadPrompt: an id that the model does not know.
        """
        before, whole = self.text(ids), self.text([*ids, *more])
        return whole.removeprefix(before) if self.tokenizer and whole.startswith(before) else self.text(more)

    @gated(error=BadPrompt)
    def token_text(self, token: int) -> str:
        """One token as a reader would see it inside a text, its leading space kept.

        Raises:
            BadPrompt: an id that the model does not know.
        """
        self._known([token])
        if self.tokenizer is None:
            return str(token)
        piece = self.tokenizer.convert_ids_to_tokens(token)
        if isinstance(piece, str) and piece.startswith("▁"):  # SentencePiece drops the space when it decodes
            return " " + piece[1:]
        return self._between + self.text([token])

    @cached_property
    def _between(self) -> str:
        """What a text has between two tokens although neither holds it: the space of a vocabulary of words."""
        *_, token = self.encode_inner("a") or [0]
        one, two = self.text([token]), self.text([token, token])
        return " " if one and two == f"{one} {one}" else ""

    @gated(error=BadMetric)
    def single_token(self, text: str | int) -> int:
        """The id of a text that is one token inside of a text: a leading space counts, with SentencePiece, too.

        Raises:
            BadMetric: it is several tokens, or unknown to the tokenizer.
        """
        if isinstance(text, int):
            if not 0 <= text < self.d_vocab:
                raise BadMetric(
                    f"token id {text} is outside of the vocabulary; expected 0 to {self.d_vocab - 1}; give one of these"
                )
            return text
        ids = self.encode_inner(text)
        if len(ids) != 1 or ids[0] == getattr(self.tokenizer, "unk_token_id", None):
            pieces = ", ".join(repr(self.token_text(i)) for i in ids[:12]) or "nothing"
            pieces += f" and {len(ids) - 12:,} more" if len(ids) > 12 else ""
            spaced = len(self.encode_inner(f" {text}")) == 1
            raise BadMetric(
                f"{shown(text)} is not a single token of {self.name}: it becomes {pieces}; expected targets of one "
                "token each, mostly with a leading space; choose other words or one of the pieces"
                + (f" (' {brief(text, 40)}' is one)" if spaced else "")
            )
        return ids[0]

    @gated(error=BadMetric)
    def target(self, text: str | int) -> int:
        """The id of a single token that the model can answer with.

        Raises:
            BadMetric: as `single_token`; or it has no logit.
        """
        token = self.single_token(text)
        if token >= self.d_vocab_out:
            raise BadMetric(
                f"{shown(text)} is the token {token}, and {self.name} has logits of the tokens 0 to "
                f"{self.d_vocab_out - 1}; expected one of these; choose another target"
            )
        return token

    def describe(self) -> dict[str, Any]:
        """What the manifest says of the model."""
        keys = (
            "name",
            "architecture",
            "source",
            "n_layers",
            "n_heads",
            "n_kv_heads",
            "d_model",
            "d_head",
            "d_vocab",
            "d_vocab_out",
            "n_ctx",
            "norm",
            "has_mlp",
            "parallel",
            "post_norm",
            "bos",
            "bos_token",
        )
        return {key: getattr(self, key) for key in keys} | {
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "weights": processing(self.bridge),
            "weights_hash": self.weights_hash,
            "notes": list(self.notes),
        }
