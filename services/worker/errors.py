"""The errors a worker ends with, each with a sentence that says it all."""

from __future__ import annotations


class PlanError(ValueError):
    """A plan that breaks the contract of messages.Plan; the sentence says which row and how."""


class DeviceError(ValueError):
    """A device or memory that is not there; the sentence says which flag to change."""


class GroupError(RuntimeError):
    """Another rank of the group is lost or elsewhere; nothing can be computed without it."""


class StepAbandoned(Exception):
    """The rest of a step is not wanted any more; no failure."""
