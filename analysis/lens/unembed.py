"""The end of a model as tuned-lens wants it: the final norm and the unembedding, copied.

tuned-lens 0.2 asks whether a model is a `HookedTransformer`, which transformer-lens 4 no longer has, and fails for
every model; a test says when that is mended. So its `Unembed` gets its two parts from us.
"""

from jaxtyping import Float
from torch import Tensor, nn
from tuned_lens.nn.unembed import Unembed

from steerscope.analysis.model.models import Model
from steerscope.analysis.model.norms import Norm, norm_of


class FinalNorm(nn.Module):
    """A norm of the model as a module."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        return self.norm(x)


class ModelUnembed(Unembed):  # type: ignore[misc]  # tuned-lens ships no types
    """Logits of a final stream, as the model gives them."""

    def __init__(self, model: Model) -> None:
        nn.Module.__init__(self)
        norm = norm_of(model, getattr(model.bridge, "ln_final", None))
        self.final_norm = nn.Identity() if norm is None else FinalNorm(norm)
        matrix = model.bridge.unembed.W_U.detach().T.contiguous()
        bias = getattr(model.bridge.unembed, "b_U", None)
        kept = bias is not None and bool(bias.any())
        vocabulary, width = matrix.shape
        self.unembedding = nn.Linear(width, vocabulary, bias=kept, device="meta")
        self.unembedding.weight = nn.Parameter(matrix, requires_grad=False)
        if kept:
            assert bias is not None
            self.unembedding.bias = nn.Parameter(bias.detach(), requires_grad=False)
        self.capped = model.capped
        self.requires_grad_(False)

    def forward(self, h: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows vocab"]:
        return self.capped(super().forward(h))
