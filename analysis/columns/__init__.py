"""Every column of every frame of every kind of result: its meaning, and its unit ("" for none).

`{metric}` stands for the unit of the metric that the result was measured in. The report's legend, the
docs and a test read this.
"""

from .attention import ATTENTION
from .attribute import ATTRIBUTE
from .frames import Frames
from .localize import LOCALIZE
from .screen import SCREEN
from .sweep import SWEEP
from .trace import TRACE
from .writers import WRITERS

COLUMNS: dict[str, Frames] = {
    "attention": ATTENTION,
    "attribute": ATTRIBUTE,
    "localize": LOCALIZE,
    "screen": SCREEN,
    "sweep": SWEEP,
    "trace": TRACE,
    "writers": WRITERS,
}
