"""Structural tags: text, markers and constrained parts put together, as one grammar.

Two forms that clients send: `structures` with `triggers`, and the tree under `format`, whose nodes may
be nested. Tool calls in a format's markers are written in it too. Called by constraints.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from quire.shared.errors import INVALID_VALUE, UNSUPPORTED_VALUE, ApiError, echo

from .lark import literal_with_specials, regex_rule

MAX_DEPTH = 32
MAX_NODES = 4096
_ANY_TEXT = r"/(.|\n)*/"
Node = Mapping[str, Any]


def structural_grammar(body: str, is_whitespace_flexible: bool, special_ids: Mapping[str, int], field: str) -> str:
    """llguidance's form of a structural tag's JSON. Raises ApiError."""
    try:
        tree = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        raise ApiError(INVALID_VALUE, f"{field}: the structural tag must be a JSON object", field) from None
    return _Writer(is_whitespace_flexible, special_ids, field).grammar(_format_of(tree, field))


def _format_of(tree: Node, field: str) -> Node:
    """The tree; `structures` and `triggers` are free text with triggered tags in it."""
    if "format" in tree:
        return tree["format"]
    structures, triggers = tree.get("structures"), tree.get("triggers")
    if not isinstance(structures, list) or not isinstance(triggers, list):
        message = f"{field}: a structural tag has `format`, or `structures` and `triggers`"
        raise ApiError(INVALID_VALUE, message, field)
    tags = [
        {
            "type": "tag",
            "begin": part.get("begin"),
            "content": {"type": "json_schema", "json_schema": part.get("schema")},
            "end": part.get("end"),
        }
        for part in structures
        if isinstance(part, dict)
    ]
    return {"type": "triggered_tags", "triggers": triggers, "tags": tags}


class _Writer:
    """Writes each node as a rule of its own; `_rules` are the lines so far."""

    def __init__(self, is_whitespace_flexible: bool, special_ids: Mapping[str, int], field: str) -> None:
        self._is_whitespace_flexible = is_whitespace_flexible
        self._special_ids = special_ids
        self._field = field
        self._rules: list[str] = []
        self._side_grammars: list[dict[str, Any]] = []
        self._num_nodes = 0

    def grammar(self, node: Node) -> str:
        start = self._write(node, 0)
        lark = "\n".join(["%llguidance {}", f"start: {start}", *self._rules])
        grammars = [{"name": "structural_tag", "lark_grammar": lark}, *self._side_grammars]
        return msgspec.json.encode({"grammars": grammars}).decode()

    def _write(self, node: Any, depth: int) -> str:
        """A node as an expression; "" for one that is only empty text."""
        self._num_nodes += 1
        if not isinstance(node, dict) or depth > MAX_DEPTH or self._num_nodes > MAX_NODES:
            raise self._wrong(f"must be objects, at most {MAX_NODES}, nested {MAX_DEPTH} deep")
        kind = node.get("type")
        write: Callable[[Node, int], str] | None = {
            "const_string": self._const_string,
            "json_schema": self._json_schema,
            "regex": self._regex,
            "grammar": self._grammar,
            "any_text": self._any_text,
            "sequence": self._sequence,
            "or": self._or,
            "optional": lambda node, depth: self._repeated(node, depth, "?"),
            "star": lambda node, depth: self._repeated(node, depth, "*"),
            "plus": lambda node, depth: self._repeated(node, depth, "+"),
            "tag": self._tag,
            "triggered_tags": self._triggered_tags,
            "tags_with_separator": self._tags_with_separator,
        }.get(str(kind))
        if write is None:
            message = f"{self._field}: a structural tag of the type {echo(str(kind))} is not supported"
            raise ApiError(UNSUPPORTED_VALUE, message, self._field)
        return write(node, depth)

    # --- leaves -----------------------------------------------------------------------------------------

    def _const_string(self, node: Node, depth: int) -> str:
        return "" if node.get("value") == "" else self._literal(self._text(node, "value"))

    def _json_schema(self, node: Node, depth: int) -> str:
        schema = node.get("json_schema")
        schema = {} if schema is True else schema
        if not isinstance(schema, dict):
            raise self._wrong("of the type json_schema need an object in json_schema")
        options = {"whitespace_flexible": self._is_whitespace_flexible, "lenient": False, "coerce_one_of": False}
        return self._rule("%json " + msgspec.json.encode({**schema, "x-guidance": options}).decode())

    def _regex(self, node: Node, depth: int) -> str:
        return self._without(regex_rule(self._text(node, "pattern")), self._excludes(node))

    def _grammar(self, node: Node, depth: int) -> str:
        name = f"grammar_{len(self._side_grammars)}"
        self._side_grammars.append({"name": name, "lark_grammar": self._text(node, "grammar")})
        return f"@{name}"

    def _any_text(self, node: Node, depth: int) -> str:
        return self._without(_ANY_TEXT, self._excludes(node))

    # --- several ----------------------------------------------------------------------------------------

    def _sequence(self, node: Node, depth: int) -> str:
        return _joined(self._write(element, depth + 1) for element in self._list(node, "elements"))

    def _or(self, node: Node, depth: int) -> str:
        alternatives = [self._write(element, depth + 1) or '""' for element in self._list(node, "elements")]
        return self._any_of(alternatives)

    def _repeated(self, node: Node, depth: int, sign: str) -> str:
        content = self._write(node.get("content"), depth + 1)
        return self._rule(f"({content}){sign}") if content else ""

    # --- tags -------------------------------------------------------------------------------------------

    def _tag(self, node: Node, depth: int, skip: int = 0) -> str:
        """begin (without its first `skip` characters), content, end."""
        begin = self._literal(self._text(node, "begin", may_be_empty=True)[skip:])
        content, end = node.get("content"), self._text(node, "end", may_be_empty=True)
        if isinstance(content, dict) and content.get("type") in ("any_text", "regex") and end:
            is_any = content["type"] == "any_text"
            pattern = _ANY_TEXT if is_any else regex_rule(f"(?:{self._text(content, 'pattern')})")
            if is_any or "excludes" in content:
                return _joined([begin, self._text_up_to(end, pattern, self._excludes(content))])
        return _joined([begin, self._write(content, depth + 1), self._literal(end)])

    def _text_up_to(self, end: str, text: str = _ANY_TEXT, excludes: Sequence[str] = ()) -> str:
        """Text without `excludes`, and then `end`, which ends it where it comes first."""
        at = min((end.find(name) for name in self._special_ids if name in end), default=None)
        if at is None:
            return self._without(text, excludes, _regex_of(end), is_lazy=True)
        # Text never holds a special token.
        return _joined([self._without(text, excludes, _regex_of(end[:at])), self._literal(end[at:])])

    def _triggered_tags(self, node: Node, depth: int) -> str:
        """Free text; a trigger in it begins one of the tags."""
        triggers = [self._text({"trigger": trigger}, "trigger") for trigger in self._list(node, "triggers")]
        excludes = self._excludes(node)
        by_trigger: dict[str, list[str]] = {trigger: [] for trigger in triggers}
        for tag in self._list(node, "tags"):
            begin = self._text(tag if isinstance(tag, dict) else {}, "begin")
            trigger = next((trigger for trigger in triggers if begin.startswith(trigger)), None)
            if trigger is None:
                raise self._wrong(f"begin with one of the triggers, which {echo(begin)} does not")
            by_trigger[trigger].append(self._tag(tag, depth + 1, skip=len(trigger)) or '""')
        calls = []
        for trigger, tags in by_trigger.items():
            others = [other for other in triggers if other != trigger]
            if tags:
                calls.append(_joined([self._text_up_to(trigger, excludes=[*others, *excludes]), self._any_of(tags)]))
        call = self._any_of(calls)
        # A trigger that no tag follows is none of free text.
        free = self._without(_ANY_TEXT, [*triggers, *excludes])
        if node.get("stop_after_first"):
            return call if node.get("at_least_one") else self._rule(f"{call} | {free}")
        repeated = f"({call})+" if node.get("at_least_one") else f"({call})*"
        return _joined([self._rule(repeated), free])

    def _tags_with_separator(self, node: Node, depth: int) -> str:
        tags = self._rule(" | ".join(self._tag(tag, depth + 1) or '""' for tag in self._tags(node)))
        separator = self._literal(self._text(node, "separator", may_be_empty=True))
        if node.get("stop_after_first"):
            return tags if node.get("at_least_one") else self._rule(f"({tags})?")
        several = _joined([tags, f"({_joined([separator, tags])})*"])
        return several if node.get("at_least_one") else self._rule(f"({several})?")

    def _any_of(self, expressions: Sequence[str]) -> str:
        return self._rule(" | ".join(expressions))

    # --- parts ------------------------------------------------------------------------------------------

    def _tags(self, node: Node) -> list[Node]:
        return [tag if isinstance(tag, dict) else {} for tag in self._list(node, "tags")]

    def _rule(self, expression: str) -> str:
        name = f"part_{len(self._rules)}"
        self._rules.append(f"{name}: {expression}")
        return name

    def _without(self, text: str, excludes: Sequence[str], end: str = "", is_lazy: bool = False) -> str:
        """A terminal: text (a regular expression in slashes) in which none of `excludes` is, then `end`, another one.

        is_lazy: it ends where `end` comes first.
        """
        name = f"PART_{len(self._rules)}"
        whole = f"{text[:-1]}{end}/"
        if excludes:
            # An end may hold what is excluded: it is forbidden where an end still follows.
            whole += f" & ~/(.|\\n)*({'|'.join(map(_regex_of, excludes))})(.|\\n)*{end}/"
        self._rules.append(f"{name}: {whole}")
        if is_lazy:  # an attribute of rules, not of terminals
            self._rules.append(f"{name.lower()}[lazy]: {name}")
            return name.lower()
        return name

    def _excludes(self, node: Node) -> list[str]:
        if not node.get("excludes"):
            return []
        return [self._text({"excludes": one}, "excludes") for one in self._list(node, "excludes")]

    def _literal(self, text: str) -> str:
        return literal_with_specials(text, self._special_ids)

    def _text(self, node: Node, name: str, may_be_empty: bool = False) -> str:
        value = node.get(name)
        if value is None and may_be_empty:
            return ""
        if not isinstance(value, str) or not (value or may_be_empty):
            raise self._wrong(f"need a text in {name}")
        return value

    def _list(self, node: Node, name: str) -> list[Any]:
        value = node.get(name)
        if not isinstance(value, list) or not value:
            raise self._wrong(f"need a list in {name} that is not empty")
        return value

    def _wrong(self, sentence: str) -> ApiError:
        return ApiError(INVALID_VALUE, f"{self._field}: parts of a structural tag {sentence}", self._field)


def _joined(parts: Any) -> str:
    return " ".join(part for part in parts if part)


def _regex_of(text: str) -> str:
    """A literal text in a regular expression. What has no meaning is not escaped: an escaped < would get one."""
    escaped = re.sub(r"([\\.+*?()|\[\]{}^$#&~/-])", r"\\\1", text)
    return escaped.replace("\n", r"\n").replace("\t", r"\t").replace("\r", r"\r")
