"""The error of everything that reads a checkpoint: a sentence for the operator."""

from __future__ import annotations


class ModelFilesError(ValueError):
    """A checkpoint that cannot be served, and why, in one line that can be shown as it is."""
