"""Every exception a user can meet.

    SteerscopeError             the root: the command line prints it as one sentence and exits with 2
    ├── ModelNotFound           no such shipped name, folder or hub model
    ├── UnsupportedModel        a model that breaks an assumption of the analysis; names the assumption
    ├── BadNode                 a node or site that cannot be parsed or that the model does not have
    ├── BadVector               a steering vector that cannot be made, read or combined
    ├── BadInjection            a coefficient, layer or position that does not fit
    ├── BadPrompt               a prompt or prompts file that cannot be used
    ├── BadMetric               an unknown metric, or targets that do not fit the tokenizer
    ├── BadCorpus               a training text that cannot be used
    ├── BadLens                 a lens that cannot be read, or one of another model
    ├── BadCircuit              a circuit, or a task for one, that cannot be read or does not fit the model
    ├── BadArgument             any other argument out of its range
    ├── Overflow                a run whose numbers are beyond what the model's dtype holds
    ├── CannotWrite             a place that the system does not let us write to
    ├── DiskFull                no room left for what was computed; what is written stays good
    ├── OutputExists            a folder with results in it, without permission to overwrite
    ├── DamagedRun              a saved result that cannot be read back whole
    └── BrokenInvariant         something that must hold exactly did not: a bug here or in a library

Each message has three parts: what was wrong (with the value), what was expected, what to do.
"""


class SteerscopeError(Exception):
    """The root of all errors that steerscope raises on purpose."""


class ModelNotFound(SteerscopeError):
    """No such shipped name, folder or hub model."""


class UnsupportedModel(SteerscopeError):
    """A model that breaks an assumption of the analysis; the message names the assumption."""


class BadNode(SteerscopeError):
    """A node or site that cannot be parsed or that the model does not have."""


class BadVector(SteerscopeError):
    """A steering vector that cannot be made, read or combined."""


class BadInjection(SteerscopeError):
    """A coefficient, layer or position that does not fit."""


class BadPrompt(SteerscopeError):
    """A prompt or prompts file that cannot be used."""


class BadMetric(SteerscopeError):
    """An unknown metric, or targets that do not fit the tokenizer."""


class BadCorpus(SteerscopeError):
    """A training text that cannot be used."""


class BadLens(SteerscopeError):
    """A lens that cannot be read, or one of another model."""


class BadCircuit(SteerscopeError):
    """A circuit, or a task for one, that cannot be read or does not fit the model."""


class BadArgument(SteerscopeError):
    """Any other argument out of its range."""


class Overflow(SteerscopeError):
    """A run whose numbers are beyond what the model's dtype holds: nothing is concluded from it."""


class CannotWrite(SteerscopeError):
    """A place that the system does not let us write to: read-only, no such device, a name that is too long."""


class DiskFull(SteerscopeError):
    """No room left for what was computed; what is written stays good."""


class OutputExists(SteerscopeError):
    """A folder with results in it, without permission to overwrite."""


class DamagedRun(SteerscopeError):
    """A saved result that cannot be read back whole."""


class BrokenInvariant(SteerscopeError):
    """Something that must hold exactly did not: a bug here or in a library."""
