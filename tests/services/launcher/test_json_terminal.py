"""Tests of the launcher's output as JSON lines."""

from __future__ import annotations

import io
import json

from quire.services.launcher.json_terminal import JsonTerminal
from quire.shared.log_lines import json_line


def test_every_line_is_an_object_and_those_of_children_stay_as_they_are():
    stream = io.StringIO()
    terminal = JsonTerminal(stream)
    child = json_line("warning", "engine-0", "careful", fields={"step": 3})
    for text in ("  ready in 2 s ", "", child, "Traceback:", '{"not": "ours"}', terminal.bold("bold")):
        terminal.line(text)
    terminal.status("loading")
    lines = stream.getvalue().splitlines()
    assert lines[1] == child
    objects = [json.loads(line) for line in lines]
    assert [one["message"] for one in objects] == ["ready in 2 s", "careful", "Traceback:", '{"not": "ours"}', "bold"]
    assert {one["service"] for one in objects} == {"launcher", "engine-0"}
