"""Answers as model families write them, in their public formats, and what each of them says.

Each entry: tool format, reasoning format, whether the answer starts inside reasoning, the text, then
what must come of it: reasoning, text, and calls as (name, arguments).
"""

# ruff: noqa: E501 (a transcript is read best as the model wrote it)

from __future__ import annotations

from typing import Any, NamedTuple

SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "units": {"enum": ["c", "f"]},
            "deep": {"type": "object"},
        },
    },
    "now": {"type": "object", "properties": {}},
}


class Transcript(NamedTuple):
    tools: str
    reasoning: str
    starts_inside: bool
    written: str
    thought: str
    text: str
    calls: list[tuple[str, Any]]


PARIS = {"city": "Paris", "days": 3}
TRICKY = {"city": 'a "</tool_call>" \\ [TOOL_CALLS] é😀', "deep": {"list": [1, {"x": "}"}, []], "no": None}}
TRICKY_JSON = (
    '{"city": "a \\"</tool_call>\\" \\\\ [TOOL_CALLS] \\u00e9\\ud83d\\ude00",'
    ' "deep": {"list": [1, {"x": "}"}, []], "no": null}}'
)

CORPUS: dict[str, Transcript] = {
    "plain text": Transcript("hermes", "think", False, " Just text.\n\nWith < and {braces}. \n", "", " Just text.\n\nWith < and {braces}. \n", []),
    "only white space": Transcript("hermes", "think", False, " \n ", "", " \n ", []),
    "nothing": Transcript("hermes", "think", False, "", "", "", []),
    "thinking": Transcript("", "think", False, "<think>\nLet me see.\n\nYes.\n</think>\n\nIt is 4.\n", "Let me see.\n\nYes.", "It is 4.\n", []),
    "thinking begun by the prompt": Transcript("", "think", True, "\nSo.\n</think>\n\nDone", "So.", "Done", []),
    "thinking that never ends": Transcript("hermes", "think", True, "a <tool_call> b </thin", "a <tool_call> b </thin", "", []),
    "a think tag within the text is text": Transcript("", "think", False, "Use <think> and </think>.", "", "Use <think> and </think>.", []),
    "magistral": Transcript("mistral", "mistral", False, "[THINK]hm[/THINK]It is [so].", "hm", "It is [so].", []),
    "hermes": Transcript("hermes", "", False,
        'I will look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>',
        "", "I will look.", [("weather", PARIS)]),
    "hermes, two calls, after thinking": Transcript("hermes", "think", False,
        '<think>\ntwo\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": ' + TRICKY_JSON + "}\n</tool_call>\n"
        '<tool_call>\n{"arguments": {}, "name": "now"}\n</tool_call>\n', "two", "", [("weather", TRICKY), ("now", {})]),
    "hermes without an end": Transcript("hermes", "", False, '<tool_call>{"name":"now","arguments":{}}', "", "", [("now", {})]),
    "hermes, arguments as JSON in a string": Transcript("hermes", "", False,
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\", \\"days\\": 3}"}</tool_call>', "", "", [("weather", PARIS)]),
    "hermes, no arguments": Transcript("hermes", "", False, '<tool_call>\n{"name": "now"}\n</tool_call>', "", "", [("now", {})]),
    "hermes, text after a call": Transcript("hermes", "", False, '<tool_call>{"name": "now", "arguments": null}</tool_call>\nDone.', "", "Done.", [("now", {})]),
    "what is no call is text": Transcript("hermes", "", False, "See <tool_call>nothing</tool_call> there", "", "See <tool_call>nothing</tool_call> there", []),
    "an object that is no call is text": Transcript("hermes", "", False, '<tool_call>{"answer": 4}</tool_call>', "", '<tool_call>{"answer": 4}</tool_call>', []),
    "qwen3_coder": Transcript("qwen3_coder", "", False,
        "Right.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "<parameter=deep>\n{\"a\": [1, 2]}\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=now>\n</function>\n</tool_call>", "", "Right.",
        [("weather", PARIS | {"deep": {"a": [1, 2]}}), ("now", {})]),
    "qwen3_coder, many lines and no tool_call": Transcript("qwen3_coder", "", False,
        "<function=weather>\n<parameter=city>\nline 1\n  <b>line</b> 2\n\n</parameter>\n</function>", "", "",
        [("weather", {"city": "line 1\n  <b>line</b> 2\n"})]),
    "qwen3_coder, markers within strings of JSON": Transcript("qwen3_coder", "", False,
        '<tool_call>\n<function=weather>\n<parameter=deep>\n{"a": "</parameter> \\" </function>", "b": ["<parameter=x>\\\\"]}\n</parameter>\n'
        '<parameter=city>\n"a" {"b\n</parameter>\n<parameter=days>\n{"a": "\n</parameter>\n</function>\n</tool_call>', "", "",
        [("weather", {"deep": {"a": '</parameter> " </function>', "b": ["<parameter=x>\\"]}, "city": '"a" {"b', "days": '{"a": "'})]),
    "glm": Transcript("glm", "think", True,
        "ok</think>\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>", "ok", "", [("weather", PARIS), ("now", {})]),
    "mistral, a list": Transcript("mistral", "", False,
        '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris", "days": 3}}, {"name": "now", "arguments": {}, "id": "abc"}]',
        "", "", [("weather", PARIS), ("now", {})]),
    "mistral, names before arguments": Transcript("mistral", "", False,
        "One moment [please]. [TOOL_CALLS]weather[ARGS]" + TRICKY_JSON + "[TOOL_CALLS]now{}", "",
        "One moment [please].", [("weather", TRICKY), ("now", {})]),
    "mistral with call ids": Transcript("mistral", "", False, '[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{"a": [1]}', "", "", [("now", {"a": [1]})]),
    "deepseek_v3": Transcript("deepseek_v3", "think", False,
        "Checking.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        '{"city": "Paris", "days": 3}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "", "Checking.", [("weather", PARIS), ("now", {})]),
    "deepseek_v31": Transcript("deepseek_v31", "think", True,
        "hm</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>" + TRICKY_JSON + "<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜><｜tool▁call▁end｜><｜tool▁calls▁end｜>", "hm", "", [("weather", TRICKY), ("now", {})]),
    "kimi_k2, thinking not closed": Transcript("kimi_k2", "think", True,
        "let me<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
        '{"city": "Paris", "days": 3}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}'
        "<|tool_call_end|><|tool_calls_section_end|>", "let me", "", [("weather", PARIS), ("now", {})]),
    "granite": Transcript("granite", "granite", False,
        'Here is my thought process: easy. Here is my response: <|tool_call|>[{"name": "weather", "arguments": {"city": "Paris", "days": 3}}]',
        "easy.", "", [("weather", PARIS)]),
    "harmony": Transcript("harmony", "harmony", False,
        "<|channel|>analysis<|message|>Need it.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>" + TRICKY_JSON + "<|call|>",
        "Need it.", "I look.", [("weather", TRICKY)]),
    "harmony, recipient first": Transcript("harmony", "harmony", False,
        " to=functions.now<|channel|>commentary json<|message|>{}", "", "", [("now", {})]),
    "harmony, an answer": Transcript("harmony", "harmony", False,
        "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>It is < 4.\n", "Easy.", "It is < 4.\n", []),
    "harmony without channels": Transcript("harmony", "harmony", False, "It is 4.", "", "It is 4.", []),
    "llama3_json": Transcript("llama3_json", "", False, '{"name": "weather", "parameters": {"city": "Paris", "days": 3}}', "", "", [("weather", PARIS)]),
    "llama3_json, two calls": Transcript("llama3_json", "", False,
        '<|python_tag|>{"type": "function", "name": "now", "parameters": {}}; {"name": "weather", "parameters": {"city": "Paris", "days": 3}}',
        "", "", [("now", {}), ("weather", PARIS)]),
    "llama3_json, a JSON answer": Transcript("llama3_json", "", False, '{"answer": {"name": "x"}}', "", '{"answer": {"name": "x"}}', []),
    "pythonic": Transcript("pythonic", "", False,
        "[weather(city='Paris', days=3), weather(city=\"a, (b) ] \\\" =\", deep={'k': [1, None, True], \"t\": (1.5, -2)}), now()]",
        "", "", [("weather", PARIS), ("weather", {"city": 'a, (b) ] " =', "deep": {"k": [1, None, True], "t": [1.5, -2]}}), ("now", {})]),
    "pythonic, llama 4": Transcript("pythonic", "", False, "<|python_start|>[now()]<|python_end|>", "", "", [("now", {})]),
    "pythonic, a list that is no call": Transcript("pythonic", "", False, "[1, 2] and [a](b)", "", "[1, 2] and [a](b)", []),
    "pythonic, a link": Transcript("pythonic", "", False, " [name](http://x.y/?q=1)", "", " [name](http://x.y/?q=1)", []),
}  # fmt: skip
"""By what each shows."""
