"""Sekisho (関所): the checkpoint every trading model must pass."""

__version__ = "0.1.0"
