"""A request as its endpoint's protocol leaves it: checked, and made into prompts.

Made by each protocol file, used by generation.py. Knows neither model nor connection.
"""

from __future__ import annotations

import msgspec

from quire.shared.messages import ModelCard, Prompt

from .call_constraints import is_json_format, written_format
from .chat_protocol import ChatRequest
from .chat_tools import ToolUse
from .choice_output import Parsing
from .completion_protocol import CompletionRequest

Request = ChatRequest | CompletionRequest


class ParsedRequest(msgspec.Struct, frozen=True):
    request: Request
    prompts: list[Prompt]
    tools: ToolUse = ToolUse()

    def parsing(self, card: ModelCard) -> Parsing | None:
        """How its answers are told apart into reasoning, text and calls; None: they are text."""
        request = self.request
        if not isinstance(request, ChatRequest):
            return None
        # Harmony's channels are there with and without tools.
        has_calls = self.tools.choice != "none" or card.reasoning_format == "harmony"
        tool_format = written_format(card.tool_format, self.tools, is_json_format(request)) if has_calls else ""
        if not tool_format and not card.reasoning_format:
            return None
        return Parsing(
            tool_format,
            card.reasoning_format,
            card.reasoning_ids,
            self.tools.schemas if self.tools.choice != "none" else {},
            self.tools.is_parallel,
            self.tools.choice == "named",
            request.include_reasoning is not False,
        )
