"""The helper process: evil programs end in time, within memory, and with nothing but a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from quire.services.tokenizer.byte_lru import ByteLru
from quire.services.tokenizer.chat_template import ChatRequest, needs_helper
from quire.services.tokenizer.model import load_model
from quire.services.tokenizer.tokenizer import TextTokenizer
from quire.services.tokenizer.tokenizer_files import TokenizerFilesError
from quire.services.tokenizer.untrusted import Untrusted
from quire.shared.config import TokenizerConfig
from quire.shared.messages import ChatPrompt, Outcome, Program

HARMLESS = Program("template", "{{ name | upper }}", b'{"name": "quire"}')
EVIL_TEMPLATES = {
    "nested loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", {"time"}),
    "power": ("{% set x = 9 ** 999999999 %}", {"error"}),
    "repetition": ("{{ 'a' * 10000000000 }}", {"error"}),
    "list repetition": ("{{ [0] * 10000000000 }}", {"error"}),
    "wide format": ("{{ '%1000000000d' % 1 }}", {"error"}),
    "wide format method": ("{{ '{:1000000000}'.format(1) }}", {"memory", "error", "lost"}),
    "center": ("{{ 'a' | center(1000000000) }}", {"memory"}),
    "doubling": (
        "{% set ns = namespace(a='x') %}{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}{{ ns.a }}",
        {"memory", "time"},
    ),
    "long output": ("{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", {"error", "memory", "time"}),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", {"error"}),
    "nested brackets": ("{{ " + "(" * 5000 + ")" * 5000 + " }}", {"error"}),
    "classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", {"error"}),
    "globals": ("{{ cycler.__init__.__globals__.os.system('true') }}", {"error"}),
    "self": ("{{ self._TemplateReference__context.environment.from_string('x') }}", {"error"}),
    "include": ("{% include '/etc/passwd' %}", {"error"}),
    "import": ("{% import 'os' as os %}", {"error"}),
    "not Jinja": ("{% if %}", {"error"}),
    "lipsum": ("{{ lipsum(99999999) }}", {"time", "memory"}),
}
EVIL_REGEXES = [
    "(" * 3000 + ")" * 3000, "(a+", "(((((x{0,999}){0,999}){0,999}){0,999}){0,999})", "(?=a)", "\\1", "(.*a){999}"
]  # fmt: skip
EVIL_SCHEMAS = [
    '{"allOf":[' * 3000 + "{}" + "]}" * 3000,
    '{"$ref": "file:///etc/passwd"}',
    '{"$ref": "http://127.0.0.1:1/x"}',
    '{"type": "object", "not": {}}',
    '{"type": "string", "pattern": "' + "(a|b)*" * 500 + '"}',
    '{"type": "array", "minItems": 1000000000, "items": {"type": "array", "minItems": 1000000000}}',
    "[]", "", "nothing", '{"type": 7}',
]  # fmt: skip
EVIL_GRAMMARS = ['start: start start | "a"', "start: /(a|b)*a(a|b){5000}/", "start: nothing", "", "start: start"]


@pytest.fixture(scope="module")
def untrusted() -> Iterator[Untrusted]:
    one = Untrusted()
    yield one
    one.close()


@pytest.mark.parametrize("name", EVIL_TEMPLATES)
def test_an_evil_template_ends_with_a_sentence_and_the_next_one_is_rendered(untrusted: Untrusted, name: str) -> None:
    source, expected = EVIL_TEMPLATES[name]
    outcome = untrusted.run(Program("template", source, b"{}"))
    assert outcome.result in expected, outcome
    assert outcome.text and "Traceback" not in outcome.text and "/" not in outcome.text
    assert untrusted.run(HARMLESS) == Outcome("ok", "QUIRE")


@pytest.mark.parametrize("regex", EVIL_REGEXES, ids=range(len(EVIL_REGEXES)))
def test_an_evil_regex_ends(untrusted: Untrusted, regex: str) -> None:
    assert untrusted.check_regex(regex).result in ("ok", "error", "time", "memory", "lost")
    assert untrusted.check_regex("[a-z]{1,5}") == Outcome("ok")


@pytest.mark.parametrize("schema", EVIL_SCHEMAS, ids=range(len(EVIL_SCHEMAS)))
def test_an_evil_schema_ends(untrusted: Untrusted, schema: str) -> None:
    outcome = untrusted.check_schema(schema)
    assert outcome.result in ("ok", "error", "time", "memory", "lost")
    assert "root:" not in outcome.text
    assert untrusted.check_schema('{"type": "object", "properties": {"a": {"type": "integer"}}}') == Outcome("ok")


@pytest.mark.parametrize("grammar", EVIL_GRAMMARS, ids=range(len(EVIL_GRAMMARS)))
def test_an_evil_grammar_ends(untrusted: Untrusted, grammar: str) -> None:
    assert untrusted.check_grammar(grammar).result in ("ok", "error", "time", "memory", "lost")
    assert untrusted.check_grammar('start: "a" | "b"') == Outcome("ok")


def test_a_complaint_names_what_is_wrong_with_the_clients_program(untrusted: Untrusted) -> None:
    assert "not" in untrusted.check_schema('{"not": {}}').text
    assert "unclosed group" in untrusted.check_regex("(a").text


def test_a_program_over_its_time_is_killed_and_its_second_coming_is_answered_from_the_cache() -> None:
    untrusted = Untrusted(limit_seconds=0.3)
    loop = Program("template", EVIL_TEMPLATES["nested loops"][0], b"{}")
    assert untrusted.run(HARMLESS).result == "ok"
    first = untrusted.pid
    assert untrusted.run(loop).result == "time"
    assert untrusted.num_killed == 1 and untrusted.pid != first
    assert untrusted.run(loop).result == "time"
    assert untrusted.num_killed == 1
    assert first is not None and not Path(f"/proc/{first}").exists()
    untrusted.close()


def test_a_helper_that_somebody_kills_is_replaced(untrusted: Untrusted) -> None:
    untrusted.run(HARMLESS)
    assert untrusted.pid is not None
    os.kill(untrusted.pid, signal.SIGKILL)
    until_gone(untrusted.pid)
    assert untrusted.run(HARMLESS) == Outcome("ok", "QUIRE")


def test_a_program_is_not_blamed_for_a_helper_that_somebody_kills_while_it_runs() -> None:
    untrusted = Untrusted(limit_seconds=30)
    untrusted.run(HARMLESS)
    first = untrusted.pid
    assert first is not None
    slow = "{% for a in range(99999) %}{% for b in range(9) %}{% endfor %}{% endfor %}done"
    killer = threading.Timer(0.02, os.kill, (first, signal.SIGKILL))
    killer.start()
    assert untrusted.run(Program("template", slow, b"{}")) == Outcome("ok", "done")
    killer.join()
    untrusted.close()


def test_a_helper_that_does_not_start_is_our_fault_and_not_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.services.tokenizer.untrusted._PROGRAM", "quire.no.such.module")
    untrusted = Untrusted()
    assert untrusted.check_regex("a").result == "unavailable"
    monkeypatch.undo()
    assert untrusted.check_regex("a") == Outcome("ok")
    untrusted.close()


def until_gone(pid: int) -> None:
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"{pid} is still there")


def test_the_helper_can_open_nothing_and_has_no_rights(untrusted: Untrusted) -> None:
    untrusted.run(HARMLESS)
    limits = Path(f"/proc/{untrusted.pid}/limits").read_text()
    soft_and_hard = {line[:25].strip(): line[26:].split()[:2] for line in limits.splitlines()}
    assert soft_and_hard["Max open files"] == ["3", "3"]
    assert soft_and_hard["Max processes"] == ["0", "0"]
    assert soft_and_hard["Max file size"] == ["0", "0"]
    assert soft_and_hard["Max address space"] == [str(256 << 20)] * 2
    status = Path(f"/proc/{untrusted.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status and "CapEff:\t0000000000000000" in status
    if os.geteuid() == 0:
        assert "Uid:\t65534\t65534\t65534\t65534" in status
        return
    assert sorted(os.listdir(f"/proc/{untrusted.pid}/fd")) == ["0", "1", "2"]


def test_the_helper_has_none_of_our_secrets(untrusted: Untrusted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_API_KEY", "sesame")
    monkeypatch.setenv("HF_TOKEN", "sesame")
    fresh = Untrusted()
    fresh.run(HARMLESS)
    try:
        environment = Path(f"/proc/{fresh.pid}/environ").read_bytes()
    except PermissionError:
        environment = b""  # of another user, which is the point
    assert b"sesame" not in environment
    fresh.close()


def test_the_helper_dies_with_its_parent() -> None:
    script = (
        "from quire.services.tokenizer.untrusted import Untrusted\n"
        "from quire.shared.messages import Program\n"
        "import sys, time\n"
        "one = Untrusted(limit_seconds=60)\n"
        "one.check_regex('a')\n"
        "print(one.pid, flush=True)\n"
        f"one.run(Program('template', {EVIL_TEMPLATES['nested loops'][0]!r}, b'{{}}'))\n"
    )
    root = Path(__file__).parents[3]
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until_gone(pid)


def test_a_checkpoint_whose_template_never_ends_is_refused_at_start(tmp_path: Path) -> None:
    evil = tmp_path / "evil.jinja"
    evil.write_text(EVIL_TEMPLATES["nested loops"][0])
    with pytest.raises(TokenizerFilesError, match="evil.jinja cannot be used: it takes longer than 1 s"):
        load_model(TokenizerConfig(chat_template=str(evil)))


@pytest.mark.parametrize(
    ("kwargs", "is_needed"),
    [
        (b"", False),
        (b'{"enable_thinking": false, "effort": "low", "x": null}', False),
        (b'{"budget": 100000000}', True),
        (b'{"values": [1]}', True),
        (b'{"values": {}}', True),
        (b'{"text": "' + b"x" * 65 + b'"}', True),
        (b'{"text": "' + b"x" * 2000 + b'"}', True),
        (b"{", True),
    ],
)
def test_only_what_is_more_than_a_switch_goes_to_the_helper(kwargs: bytes, is_needed: bool) -> None:
    assert needs_helper(ChatPrompt(b"[]", template_kwargs_json=kwargs)) == is_needed
    assert needs_helper(ChatPrompt(b"[]", template_kwargs_json=kwargs, chat_template="x"))


def test_the_helper_renders_a_chat_as_the_tokenizer_does(demo: TextTokenizer) -> None:
    template = load_model(TokenizerConfig()).template
    chat = ChatRequest([{"role": "user", "content": "Say <|im_end|> to é 日本"}], template_kwargs={"thinking": [1]})
    here = template.render(chat)
    there = template.render(msgspec.structs.replace(chat, is_untrusted=True))
    assert here == there
    own = "{% for m in messages %}[{{ m.content }}]{% for p in m.content %}{% endfor %}{% endfor %}"
    rendered = template.render(msgspec.structs.replace(chat, is_untrusted=True, chat_template=own))
    assert "Say <|im_end|> to" in rendered.text
    (ids,) = demo.encode_rendered([rendered], add_special_tokens=False)
    assert not demo.special_ids.intersection(ids)
    template.close()


def test_large_values_go_through_the_pipe_whole(untrusted: Untrusted) -> None:
    text = "é" * (1 << 20)
    variables = msgspec.json.encode({"name": text})
    assert untrusted.run(Program("template", "{{ name }}!", variables)) == Outcome("ok", text + "!")


def test_a_frame_that_is_no_program_ends_the_helper_and_nothing_else(untrusted: Untrusted) -> None:
    assert untrusted.run(Program("nonsense", "x")).result == "error"
    assert untrusted.run(Program("template", "x", b"{")).result == "error"
    assert untrusted.run(HARMLESS).result == "ok"


def test_a_cache_bounded_in_bytes_drops_the_least_recently_used() -> None:
    cache: ByteLru[str] = ByteLru(100)
    for key in (b"a", b"b", b"c"):
        cache.put(key, key.decode(), 30)
    assert cache.get(b"a") == "a"
    cache.put(b"d", "d", 30)
    assert cache.get(b"b") is None and cache.get(b"a") == "a" and len(cache) == 3
    cache.put(b"e", "e", 1000)
    assert cache.get(b"e") is None and cache.size_bytes <= 100
    cache.put(b"a", "A", 90)
    assert cache.get(b"a") == "A" and len(cache) == 1 and cache.size_bytes == 91
