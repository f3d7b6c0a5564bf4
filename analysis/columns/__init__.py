"""Every column of every frame of every kind of result: its meaning, and its unit ("" for none).

`{metric}` stands for the unit of the metric that the result was measured in. The report's legend, the
docs and a test read this.
"""

from .frames import Frames
from .localize import LOCALIZE
from .screen import SCREEN
from .sweep import SWEEP
from .trace import TRACE

COLUMNS: dict[str, Frames] = {
    "localize": LOCALIZE,
    "screen": SCREEN,
    "sweep": SWEEP,
    "trace": TRACE,
}
