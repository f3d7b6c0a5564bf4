"""`beginning`: what a run begins with where it does not begin anew: weights and tokenizer of a model trained here."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from steerscope.analysis.brief import quoted
from steerscope.analysis.errors import BadArgument, DamagedRun
from steerscope.analysis.seals import check_folder_seal
from steerscope.analysis.tensors import read_tensors

from .checkpoint import TOKENIZER, WEIGHTS
from .zoo import CARD, shipped


@dataclass(frozen=True, eq=False)
class Beginning:
    """What a run begins with.

    Attributes:
        weights: by the names of the model's parameters.
    """

    name: str
    weights: dict[str, Tensor]
    tokenizer: Tokenizer

    @torch.no_grad()
    def into(self, model: nn.Module) -> None:
        """Overwrites the model's weights.

        Raises:
            BadArgument: the model has others.
        """
        own = dict(model.named_parameters())
        here, there = ({name: tuple(w.shape) for name, w in one.items()} for one in (own, self.weights))
        if here != there:
            name = next(n for n in sorted({*here, *there}) if here.get(n) != there.get(n))
            raise BadArgument(
                f"start={quoted(self.name)}: its {name} is {there.get(name, 'not there')}, and "
                f"{here.get(name, 'not there')} in the model that is asked for; expected a model of the same sizes and "
                "form; give its width, layers, heads, context and form"
            )
        for name, weight in own.items():
            weight.copy_(self.weights[name])


def beginning(start: str) -> Beginning:
    """Reads a shipped model by name, or a folder that `train` has written.

    Raises:
        BadArgument: there is none.
        DamagedRun: a file of it has changed since it was written.
    """
    folder = shipped().get(start) or Path(start)
    try:
        there = (folder / CARD).is_file()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    if not there:
        raise BadArgument(
            f"start={quoted(start)}; expected a shipped model ({', '.join(shipped())}) or a folder that was trained "
            "here; give one"
        )
    check_folder_seal(folder, DamagedRun, "model")
    weights, _ = read_tensors(folder / WEIGHTS, DamagedRun, "weights of a model", needed=False)
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # of no narrower type
        raise DamagedRun(
            f"{quoted(folder / TOKENIZER)} cannot be read ({str(error)[:200]}); expected a tokenizer; train the model "
            "anew"
        ) from error
    return Beginning(start, {name: weight.float() for name, weight in weights.items()}, tokenizer)
