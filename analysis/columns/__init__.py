"""Every column of every frame of every kind of result: its meaning, and its unit ("" for none).

`{metric}` stands for the unit of the metric that the result was measured in. The report's legend, the
docs and a test read this.
"""

from steerscope.analysis.results.schema import Frames
from steerscope.analysis.sweeps.rows import TRIALS
from steerscope.analysis.sweeps.summary import COLUMNS as SWEEP

COLUMNS: dict[str, Frames] = {"sweep": {"trials": TRIALS} | SWEEP}
