"""Quire: serves large language models from a chain of small processes.

The import root. `LLM`, `AsyncLLM` and `SamplingParams` are the offline API (see services/launcher/llm.py);
they are loaded when first used, so that importing quire costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .services.launcher.async_llm import AsyncLLM as AsyncLLM
    from .services.launcher.llm import LLM as LLM
    from .services.launcher.llm import BeamSearchParams as BeamSearchParams
    from .services.launcher.llm import Completion as Completion
    from .services.launcher.llm import Delta as Delta
    from .services.launcher.llm import LLMError as LLMError
    from .services.launcher.llm import Output as Output
    from .services.launcher.llm import SamplingParams as SamplingParams
    from .services.launcher.llm import StructuredOutputs as StructuredOutputs
    from .services.launcher.llm import TokenLogprob as TokenLogprob

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "AsyncLLM",
    "BeamSearchParams",
    "Completion",
    "Delta",
    "LLMError",
    "Output",
    "SamplingParams",
    "StructuredOutputs",
    "TokenLogprob",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncLLM":
        from .services.launcher.async_llm import AsyncLLM

        return AsyncLLM
    if name in __all__:
        from .services.launcher import llm

        return getattr(llm, name)
    raise AttributeError(f"module 'quire' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
