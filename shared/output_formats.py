"""How models write reasoning and tool calls: a table of formats, as data.

The tokenizer chooses a format by the chat template; the frontend's one parser (output_parser.py) runs
its states. A family that writes differently is another entry here. Knows no text of any answer.
"""

from __future__ import annotations

import msgspec


class State(msgspec.Struct, frozen=True):
    """What the parser does with the text it reads, until a marker leads elsewhere."""

    sink: str
    """text | reasoning | nothing | lead (white space until something decides) | name | key | value (of one call's
    parameter) | arguments (a JSON value) | calls (JSON objects) | pythonic (a list of calls) | header (harmony's)."""
    exits: dict[str, str] = {}
    """Marker -> the next state, which reads the marker again if its name follows a "+". No marker begins another."""
    leads: dict[str, str] = {}
    """Of a lead: first character that is not white space -> the state that reads it; "" for any other."""
    then: str = ""
    """Where arguments, calls and pythonic lead when they are complete."""


class ParameterForm(msgspec.Struct, frozen=True):
    """How a call names its arguments one by one; text around the name, and behind the value."""

    before: str
    between: str
    after: str
    separator: str = ""
    is_python: bool = False
    """Values are literals of Python; else bare text where they are strings, and JSON."""


class ToolFormat(msgspec.Struct, frozen=True):
    signature: tuple[tuple[str, ...], ...]
    """Templates of this format hold all strings of one of these."""
    opens: dict[str, str] = {}
    """Marker in the answer's text -> the state of what it opens."""
    leads: dict[str, str] = {}
    """The same for the first character of an answer."""
    states: dict[str, State] = {}
    is_unmistakable: bool = False
    """An opening marker also ends reasoning: it is a special token that nobody writes in passing."""
    ids: str = "call"
    """call: call_ and 24 digits | short: 9 letters and digits | own: the model's, where it writes one."""
    call: tuple[str, str, str] = ("", "", "")
    """How a call is written that must be made: before its name, between name and arguments, after."""
    section: tuple[str, str, str] | None = ("", "", "")
    """Before the first of such calls, between two, after the last; None: an answer has one call at most."""
    parameter: ParameterForm | None = None
    """None: arguments are a JSON object."""
    is_numbered: bool = False
    """A colon and a number follow a call's name."""


class ReasoningFormat(msgspec.Struct, frozen=True):
    start: str
    end: str
    opening: str = ""
    """Of each stretch, where an answer may have several of them."""
    closings: tuple[str, ...] = ()
    """Special tokens of which each ends such a stretch."""


def _xml(opening: str) -> dict[str, State]:
    """Qwen3-Coder: <function=NAME> <parameter=KEY> value </parameter> </function>."""
    return {
        "section": State("nothing", {"<function=": "name", "</tool_call>": opening}),
        "name": State("name", {">": "parameters"}),
        "parameters": State("nothing", {"<parameter=": "key", "</function>": "section", "</tool_call>": opening}),
        "key": State("key", {">": "value"}),
        "value": State("value", {"</parameter>": "parameters", "<parameter=": "key", "</function>": "section"}),
    }


_HARMONY_ENDS = {"<|end|>": "between", "<|return|>": "between", "<|call|>": "between"}
_HARMONY_STARTS = {"<|start|>": "role", "<|channel|>": "header"}

TOOL_FORMATS: dict[str, ToolFormat] = {
    "harmony": ToolFormat(
        signature=(("<|channel|>", "<|message|>"),),
        states={
            "start": State("lead", _HARMONY_STARTS, {"t": "role", "": "text"}),
            "role": State("header", {"<|channel|>": "header", "<|message|>": "body"}),
            "header": State("header", {"<|constrain|>": "header", "<|message|>": "body"}),
            "text": State("text", _HARMONY_ENDS | _HARMONY_STARTS),
            "reasoning": State("reasoning", _HARMONY_ENDS | _HARMONY_STARTS),
            "arguments": State("arguments", _HARMONY_ENDS | _HARMONY_STARTS, then="between"),
            "between": State("nothing", _HARMONY_STARTS),
        },
        call=("<|channel|>commentary to=functions.", " <|constrain|>json<|message|>", ""),
        section=None,
    ),
    "kimi_k2": ToolFormat(
        signature=(("<|tool_calls_section_begin|>",),),
        opens={"<|tool_calls_section_begin|>": "section"},
        states={
            "section": State("nothing", {"<|tool_call_begin|>": "name", "<|tool_calls_section_end|>": "answer"}),
            "name": State("name", {"<|tool_call_argument_begin|>": "arguments", "<|tool_call_end|>": "section"}),
            "arguments": State("arguments", {"<|tool_call_end|>": "section"}, then="section"),
        },
        is_unmistakable=True,
        ids="own",
        call=("<|tool_call_begin|>functions.", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
        section=("<|tool_calls_section_begin|>", "", "<|tool_calls_section_end|>"),
        is_numbered=True,
    ),
    "deepseek_v3": ToolFormat(
        signature=(("<｜tool▁calls▁begin｜>", "```json"),),
        opens={"<｜tool▁calls▁begin｜>": "section"},
        states={
            "section": State("nothing", {"<｜tool▁call▁begin｜>": "kind", "<｜tool▁calls▁end｜>": "answer"}),
            "kind": State("nothing", {"<｜tool▁sep｜>": "name"}),
            "name": State("name", {"\n": "fence", "<｜tool▁call▁end｜>": "section"}),
            "fence": State("nothing", {"```json": "arguments", "<｜tool▁call▁end｜>": "section"}),
            "arguments": State("arguments", {"<｜tool▁call▁end｜>": "section"}, then="section"),
        },
        is_unmistakable=True,
        call=("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n", "\n```<｜tool▁call▁end｜>"),
        section=("<｜tool▁calls▁begin｜>", "\n", "<｜tool▁calls▁end｜>"),
    ),
    "deepseek_v31": ToolFormat(
        signature=(("<｜tool▁calls▁begin｜>",),),
        opens={"<｜tool▁calls▁begin｜>": "section"},
        states={
            "section": State("nothing", {"<｜tool▁call▁begin｜>": "name", "<｜tool▁calls▁end｜>": "answer"}),
            "name": State("name", {"<｜tool▁sep｜>": "arguments", "<｜tool▁call▁end｜>": "section"}),
            "arguments": State("arguments", {"<｜tool▁call▁end｜>": "section"}, then="section"),
        },
        is_unmistakable=True,
        call=("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
        section=("<｜tool▁calls▁begin｜>", "", "<｜tool▁calls▁end｜>"),
    ),
    "mistral": ToolFormat(
        signature=(("[TOOL_CALLS]",),),
        opens={"[TOOL_CALLS]": "section"},
        states={
            "section": State("lead", {}, {"[": "calls", "{": "calls", "": "name"}),
            "calls": State("calls", then="answer"),
            "name": State("name", {"[ARGS]": "arguments", "[CALL_ID]": "id", "{": "+arguments"}),
            "id": State("nothing", {"[ARGS]": "arguments"}),
            "arguments": State("arguments", then="answer"),
        },
        is_unmistakable=True,
        ids="short",
        call=("[TOOL_CALLS]", "[ARGS]", ""),
    ),
    "granite": ToolFormat(
        signature=(("<|tool_call|>",),),
        opens={"<|tool_call|>": "calls"},
        states={"calls": State("calls", {"<|tool_call|>": "calls"}, then="answer")},
        call=('{"name": "', '", "arguments": ', "}"),
        section=("<|tool_call|>[", ", ", "]"),
    ),
    "glm": ToolFormat(
        signature=(("<arg_key>", "<tool_call>"),),
        opens={"<tool_call>": "name"},
        states={
            "name": State("name", {"\n": "parameters", "<arg_key>": "key", "</tool_call>": "answer"}),
            "parameters": State("nothing", {"<arg_key>": "key", "</tool_call>": "answer"}),
            "key": State("key", {"</arg_key>": "middle"}),
            "middle": State("nothing", {"<arg_value>": "value", "</tool_call>": "answer"}),
            "value": State("value", {"</arg_value>": "parameters"}),
        },
        call=("<tool_call>", "\n", "</tool_call>"),
        section=("", "\n", ""),
        parameter=ParameterForm("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
    ),
    "qwen3_coder": ToolFormat(
        signature=(("<function=", "<parameter="),),
        opens={"<tool_call>": "section", "<function=": "name"},
        states=_xml("answer"),
        call=("<tool_call>\n<function=", ">\n", "</function>\n</tool_call>"),
        section=("", "\n", ""),
        parameter=ParameterForm("<parameter=", ">\n", "\n</parameter>\n"),
    ),
    "hermes": ToolFormat(
        signature=(("<tool_call>",),),
        opens={"<tool_call>": "calls"},
        states={
            "calls": State("calls", {"</tool_call>": "answer"}, then="end"),
            "end": State("nothing", {"</tool_call>": "answer", "<tool_call>": "calls"}),
        },
        call=('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>"),
        section=("", "\n", ""),
    ),
    "pythonic": ToolFormat(
        signature=(("<|python_start|>",), ("[func_name1(params_name1",)),
        opens={"<|python_start|>": "pythonic"},
        leads={"[": "pythonic"},
        states={
            "pythonic": State("pythonic", {"<|python_end|>": "answer"}, then="end"),
            "end": State("lead", {"<|python_end|>": "answer", "<|python_start|>": "pythonic"}, {"": "text"}),
        },
        call=("", "(", ")"),
        section=("[", ", ", "]"),
        parameter=ParameterForm("", "=", "", separator=", ", is_python=True),
    ),
    "llama3_json": ToolFormat(
        signature=(("<|python_tag|>",), ('{"name": function name, "parameters"',)),
        opens={"<|python_tag|>": "calls"},
        leads={"{": "calls"},
        states={
            "calls": State("calls", then="end"),
            "end": State("lead", {";": "end", "<|python_tag|>": "calls"}, {"{": "calls", "": "text"}),
        },
        call=('{"name": "', '", "parameters": ', "}"),
        section=("", "; ", ""),
    ),
}
"""In the order in which a template is tried: the more particular signature first."""

REASONING_FORMATS: dict[str, ReasoningFormat] = {
    "think": ReasoningFormat("<think>", "</think>"),
    "mistral": ReasoningFormat("[THINK]", "[/THINK]"),
    "seed": ReasoningFormat("<seed:think>", "</seed:think>"),
    "kimi_vl": ReasoningFormat("◁think▷", "◁/think▷"),
    "granite": ReasoningFormat("Here is my thought process:", "Here is my response:"),
    "harmony": ReasoningFormat("", "", "<|channel|>analysis", ("<|end|>", "<|start|>", "<|return|>", "<|call|>")),
}
"""Harmony's is a channel: its tool format reads both."""


def tool_format_of(template: str) -> str:
    """The name of the format that a chat template asks its model for; "" for none that is known."""
    for name, tools in TOOL_FORMATS.items():
        if any(all(part in template for part in parts) for parts in tools.signature):
            return name
    return ""


def reasoning_format_of(template: str) -> str:
    """The same for reasoning."""
    if tool_format_of(template) == "harmony":
        return "harmony"
    for name, reasoning in REASONING_FORMATS.items():
        if reasoning.end and reasoning.end in template:
            return name
    return ""


def starts_in_reasoning(prompt: str, reasoning_format: str) -> bool:
    """Whether the prompt's own end has begun the reasoning, so that the answer starts inside it."""
    reasoning = REASONING_FORMATS.get(reasoning_format)
    return reasoning is not None and bool(reasoning.start) and prompt.rstrip().endswith(reasoning.start)
