"""Messages as clients send them, made into what chat templates expect.

Runs before the chat template: content parts to text, tool calls' arguments to objects, reasoning
under each of its names. Knows no particular template, only which form of content one wants.
"""

from __future__ import annotations

from typing import Any, Literal

import jinja2
import jinja2.nodes
import msgspec

ContentForm = Literal["text", "parts", "either"]
"""What a template takes for content: only strings, only lists of parts, or both."""
CONTENT_FORMS: tuple[ContentForm, ...] = ("text", "parts", "either")

_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")


def content_form(environment: jinja2.Environment, source: str) -> ContentForm:
    """Read off the template: one that loops over a message's content takes parts."""
    tree = environment.parse(source)
    aliases = {"content"}
    for assignment in tree.find_all(jinja2.nodes.Assign):
        if isinstance(assignment.target, jinja2.nodes.Name) and _is_content(assignment.node, aliases):
            aliases.add(assignment.target.name)
    if not any(_is_content(loop.iter, aliases) for loop in tree.find_all(jinja2.nodes.For)):
        return "text"
    tests = {test.name for test in tree.find_all(jinja2.nodes.Test)}
    return "either" if "string" in tests else "parts"


def _is_content(node: jinja2.nodes.Node, aliases: set[str]) -> bool:
    if isinstance(node, jinja2.nodes.Name):
        return node.name in aliases
    if isinstance(node, jinja2.nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, jinja2.nodes.Getitem):
        return isinstance(node.arg, jinja2.nodes.Const) and node.arg.value == "content"
    return False


def prepare_messages(messages: list[dict[str, Any]], form: ContentForm) -> list[dict[str, Any]]:
    """New messages; the given ones are left as they are."""
    return [_prepare(message, form) for message in messages]


def _prepare(message: dict[str, Any], form: ContentForm) -> dict[str, Any]:
    prepared = dict(message)
    prepared["content"] = _content(message.get("content"), form)
    if "tool_calls" in prepared:
        if prepared["tool_calls"]:
            prepared["tool_calls"] = [_tool_call(call) for call in prepared["tool_calls"]]
        else:
            del prepared["tool_calls"]  # templates ask whether it is there
    reasoning = next((message[name] for name in _REASONING_NAMES if message.get(name) is not None), None)
    if reasoning is not None:
        prepared = {"thinking": reasoning, **prepared, "reasoning_content": reasoning}
    return prepared


def _content(content: Any, form: ContentForm) -> Any:
    if content is None:
        return [] if form == "parts" else ""
    if isinstance(content, str) and form == "parts":
        return [{"type": "text", "text": content}]
    if isinstance(content, list):
        parts = [_part(part) for part in content]
        return "\n".join(part.get("text", "") for part in parts) if form == "text" else parts
    return content


def _part(part: Any) -> dict[str, Any]:
    """A text part; the frontend has refused all others."""
    return {"type": "text", "text": part} if isinstance(part, str) else dict(part, type="text")


def _tool_call(call: Any) -> Any:
    """With its arguments as an object: clients send JSON in a string, templates want the object."""
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return call
    function = call["function"]
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        parsed = msgspec.json.decode(arguments) if arguments.strip() else {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        parsed = arguments  # cut off by max_tokens when the model wrote it: the template prints it as it is
    return {**call, "function": {**function, "arguments": parsed}}


def last_text(message: dict[str, Any]) -> str:
    """The text that continue_final_message continues."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return next((part["text"] for part in reversed(content) if isinstance(part.get("text"), str)), "")


def tag_last_text(message: dict[str, Any], tag: str) -> dict[str, Any]:
    """The message with `tag` after that text."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + tag}
    last = max(index for index, part in enumerate(content) if isinstance(part.get("text"), str))
    parts = [dict(part, text=part["text"] + tag) if index == last else part for index, part in enumerate(content)]
    return {**message, "content": parts}
