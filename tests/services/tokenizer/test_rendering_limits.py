"""What a rendered chat may be, and how long it may take, is what the flags say, wherever it is rendered."""

from __future__ import annotations

import pytest

from quire.services.tokenizer.chat_template import ChatRequest, ChatTemplate
from quire.services.tokenizer.constraints import Constraints, max_bytes
from quire.services.tokenizer.special_text import SpecialText
from quire.services.tokenizer.untrusted import Untrusted
from quire.shared.errors import ApiError
from quire.shared.messages import Constraint, Outcome, Program

LONG = "{% for a in range(50) %}{{ '0123456789' }}{% endfor %}"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"


def test_the_checkpoints_own_template_may_make_so_many_characters() -> None:
    chat = ChatRequest([{"role": "user", "content": "x"}])
    for most, is_taken in ((500, True), (499, False)):
        template = ChatTemplate({"default": LONG}, {}, SpecialText([]), Untrusted(max_rendered_chars=most))
        if is_taken:
            assert len(template.render(chat).text) == 500
        else:
            with pytest.raises(ApiError, match=r"more than 499 characters \(--max-rendered-size\)"):
                template.render(chat)


def test_a_clients_template_may_make_as_many_in_the_helper() -> None:
    untrusted = Untrusted(limit_seconds=30, max_rendered_chars=499)
    assert "more than 499 characters" in untrusted.run(Program("template", LONG, b"{}")).text
    short = LONG.replace("50", "49")
    assert untrusted.run(Program("template", short, b"{}")) == Outcome("ok", "0123456789" * 49)
    untrusted.close()


def test_a_rendering_may_take_as_long_as_the_helper_not_a_second() -> None:
    chat = ChatRequest([{"role": "user", "content": "x"}])
    template = ChatTemplate({"default": ENDLESS}, {}, SpecialText([]), Untrusted(0.05, max_rendered_chars=1 << 28))
    with pytest.raises(ApiError, match=r"longer than 0\.05 s \(--helper-timeout\)"):
        template.render(chat)


@pytest.mark.parametrize(("kind", "flag"), [("regex", "--max-regex-size"), ("json", "--max-schema-size")])
def test_constraints_have_the_size_that_the_flags_say(kind: str, flag: str) -> None:
    constraints = Constraints({}, Untrusted(), max_bytes(schema=20, regex=20))
    body = "a" * 21 if kind == "regex" else '{"title": "' + "a" * 9 + '"}'
    assert len(body) > 20
    with pytest.raises(ApiError, match=rf"1 to 20 are allowed \({flag}\)"):
        constraints.grammar(Constraint(kind, body, "field"))
