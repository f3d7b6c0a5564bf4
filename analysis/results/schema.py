"""`Frames`: tables by name -> columns by name -> (meaning, unit)."""

Frames = dict[str, dict[str, tuple[str, str]]]
