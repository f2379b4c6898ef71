"""The error of a plan that breaks the contract of messages.Plan."""

from __future__ import annotations


class PlanError(ValueError):
    """A plan that cannot be carried out; the sentence says which row and how."""
