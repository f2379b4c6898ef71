"""Tests of log lines: written as text or JSON, and read back by the launcher."""

from __future__ import annotations

import io
import json
import logging

import pytest

from quire.shared.log_lines import FORMATS, handler_of, json_line, read


def logged(log_format: str, level: int, message: str, *args, **extra) -> str:
    handler = handler_of(log_format, "engine-0")
    stream = handler.stream = io.StringIO()  # type: ignore[attr-defined]
    logger = logging.Logger("quire.test")
    logger.addHandler(handler)
    logger.log(level, message, *args, **extra)
    return stream.getvalue()


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("message", ["ready", 'a "b": {c}', "two\nlines", "é😀\u2028"])
def test_what_is_written_is_read_back(log_format, message):
    line = logged(log_format, logging.WARNING, "%s", message).removesuffix("\n")
    assert read(line) == ("WARNING", message)


def test_a_json_line_is_one_line_with_its_fields():
    line = logged("json", logging.INFO, "it ended after %d s", 3, extra={"fields": {"status": 200, "key": None}})
    assert line.count("\n") == 1
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "info", "service": "engine-0", "message": "it ended after 3 s", "status": 200, "key": None
    }  # fmt: skip


def test_an_exception_is_a_field_of_the_line():
    try:
        raise RuntimeError("broken\nin two")
    except RuntimeError:
        line = logged("json", logging.ERROR, "it failed", exc_info=True)
    assert line.count("\n") == 1
    assert "RuntimeError: broken" in json.loads(line)["exception"]


def test_fields_do_not_show_in_text():
    line = logged("text", logging.INFO, "ended", extra={"fields": {"status": 200}})
    assert line.endswith("INFO    engine-0: ended\n") and "200" not in line


@pytest.mark.parametrize("line", ["", "Traceback (most recent call last):", "{", "{}", '{"level": 3}', "quire: no"])
def test_other_lines_are_not_log_lines(line):
    assert read(line) is None


def test_a_line_made_by_hand_is_like_the_others():
    assert read(json_line("info", "launcher", "ready")) == ("INFO", "ready")
