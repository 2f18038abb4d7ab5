"""The offline world and the tiny models trained in it: a toy judge of a toy world, real code paths.

The reward path knows the folder of models only; nothing in it imports the world's checker.
"""

from pathlib import Path

MODELS = Path(__file__).parent / "models"
"""Holds the bundled models, a folder each: `grm` and `policy`."""
