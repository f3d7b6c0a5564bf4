"""A circuit of the small random models: of two layers of four heads, with MLPs."""

from pathlib import Path

FILE = Path(__file__).parent / "circuits" / "small.yaml"
