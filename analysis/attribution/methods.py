"""`METHODS`: every way to say which nodes carry an effect, by name; each takes an `Experiment` and gives a `Result`."""

from collections.abc import Callable
from functools import partial

from steerscope.analysis.results import Result

from .attribute import attribute
from .localize import localize_experiment
from .screen import screen
from .shapley import shapley

METHODS: dict[str, Callable[..., Result]] = {
    "exact": localize_experiment,
    "screen": screen,
    "gradient": partial(attribute, method="gradient"),
    "relp": partial(attribute, method="relp"),
    "atp": partial(attribute, method="atp*"),
    "ig": partial(attribute, method="ig"),
    "shapley": shapley,
}
