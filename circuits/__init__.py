"""Circuits: known ones, tasks for them, and what steering does to them.

The package can be called: `steerscope.circuits()` lists the shipped circuits, whether or not a file of it was imported
before (which makes `steerscope.circuits` this package).
"""

import sys
from types import ModuleType
from typing import Any


class _Circuits(ModuleType):
    __gated__ = True  # it takes nothing

    def __call__(self) -> Any:
        """One row for each shipped circuit, see `library.circuits`."""
        from .library import circuits

        return circuits()


sys.modules[__name__].__class__ = _Circuits
circuits = sys.modules[__name__]
