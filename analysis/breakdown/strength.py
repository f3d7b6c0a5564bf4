"""An experiment's injection at other strengths: any coefficient, plus and minus infinity among them."""

from collections.abc import Sequence
from math import isinf

from jaxtyping import Float
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, added
from steerscope.analysis.errors import BadInjection
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.experiment import Edits, Experiment
from steerscope.analysis.question.size import largest

from .limit import WRITES, limit


def at(experiment: Experiment, coefficient: float, vector: int = 0) -> Edits:
    """The injections with the first one's coefficient set, the others in proportion; `vector` 1: first reference.

    Raises:
        BadInjection: a finite coefficient that the model's numbers do not hold.
    """
    factor = coefficient / reference(experiment)
    if overflows(experiment, coefficient):
        raise BadInjection(
            f"the coefficient {coefficient:.3g} is more than the numbers of {experiment.model.name} hold; expected at "
            f"most {_most(experiment):.3g}; choose a smaller one"
        )
    if isinf(coefficient):
        lengths = [len(ids) for ids in experiment.prompts.ids]
        return limit(experiment.model, experiment.edits(vector), lengths, 1 if factor > 0 else -1)
    return experiment.edits(vector, factor)


def overflows(experiment: Experiment, coefficient: float) -> bool:
    """Whether a finite coefficient is more than the model's numbers hold (see `question.size`)."""
    return not isinf(coefficient) and abs(coefficient) > _most(experiment)


def _most(experiment: Experiment) -> float:
    """The largest of the first injection's coefficients, the others in proportion."""
    whole = max(abs(one.coefficient) for one in experiment.injections)
    return largest(experiment.model, experiment.injections) * abs(reference(experiment)) / whole


def reference(experiment: Experiment) -> float:
    """The coefficient that the experiment's metric was prepared at.

    Raises:
        BadInjection: it is 0.
    """
    coefficient = experiment.injections[0].coefficient
    if coefficient == 0:
        raise BadInjection(
            "the injection has coefficient 0; expected another, which gives the direction of the effect; 1 is usual"
        )
    return coefficient


def site(experiment: Experiment) -> Site:
    """The one site where the injections write into the stream.

    Raises:
        BadInjection: several sites, or one inside of attention.
    """
    sites = {injection.site for injection in experiment.injections}
    found = next(iter(sites))
    if len(sites) > 1 or found.name not in WRITES:
        raise BadInjection(
            f"injections at {', '.join(sorted(map(str, sites)))}; expected one site of {', '.join(WRITES)}; "
            "look at one at a time"
        )
    return found


def rows(
    experiment: Experiment, coefficient: float, vector: int = 0
) -> list[tuple[tuple[int, ...], Float[Tensor, "pos d_model"]]]:
    """By prompt, the positions where something is added (rows of zeros left out), and what, all injections together."""
    found = []
    for own, ids in zip(at(experiment, coefficient, vector), experiment.prompts.full, strict=True):
        total = added(own, len(ids), experiment.model.d_model)
        where = tuple(total.any(dim=1).nonzero()[:, 0].tolist())
        found.append((where, total[list(where)]))
    return found


def streams(experiment: Experiment) -> list[Float[Tensor, "pos d_model"]]:
    """By prompt, the clean stream that the injection is added to."""
    place = site(experiment)
    before = ("resid_pre", place.layer)
    others = [
        (name, place.layer)
        for name in WRITES[1 : WRITES.index(place.name) + 1]
        if name != "mlp_out" or experiment.model.has_mlp
    ]
    found = experiment.activations(None, [before, *others])
    return [sum((kept[o] for o in others), kept[before]).double().cpu() for kept in found]


def put(experiment: Experiment, changes: Sequence[tuple[tuple[int, ...], Float[Tensor, "pos d_model"]]]) -> Edits:
    """Edits that add rows to the stream where the injection stands."""
    place, dtype = site(experiment), experiment.model.dtype
    return tuple((Edit(place, "add", value.to(dtype), where),) if where else () for where, value in changes)
