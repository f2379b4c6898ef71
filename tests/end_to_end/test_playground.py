"""The chat page in a real browser, against a real server. Skipped where there is no Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from chat_page import asked, chromium, end, needs_chromium, opened, say, script, send
from playwright.sync_api import Browser, Page, expect
from running_server import RunningServer, serving

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from chromium()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving("--api-key", "the-key", "--kv-cache-memory", "64MiB") as running:
        yield running


@pytest.fixture
def page(browser: Browser, demo: RunningServer) -> Iterator[Page]:
    """The demo model's page; at the end nothing was asked of others and nothing went wrong in it."""
    yield from opened(browser, demo.url)


def test_a_question_is_answered_as_the_api_answers_it(page: Page) -> None:
    page.get_by_label("Temperature").fill("0")
    send(page, "What is the capital of France?")
    expect(page.locator("article.assistant .facts")).to_contain_text("tokens/s")
    facts = page.locator("article.assistant .facts").inner_text()
    assert re.search(r"first token \d+\.\d\d s · \d+ tokens · [\d.]+ tokens/s · prompt \d+, cached \d+", facts)
    shown = page.locator("article.assistant p").first.inner_text()
    asked = """async () => (await (await fetch("v1/chat/completions", {method: "POST",
        headers: {"Content-Type": "application/json"},
        body: JSON.stringify({temperature: 0, messages: [{role: "user", content: "What is the capital of France?"}]})
    })).json()).choices[0].message.content"""
    assert shown.strip() and page.evaluate(asked).startswith(shown)


def test_a_conversation_goes_on_and_starts_anew(page: Page) -> None:
    bodies: list[dict] = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if request.method == "POST" else None)
    page.get_by_label("System prompt").fill("Be brief.")
    for number, text in enumerate(("Hello", "And again")):
        send(page, text)
        expect(page.locator("article.assistant .facts").nth(number)).to_contain_text("prompt")
    assert [message["role"] for message in bodies[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert bodies[1]["messages"][2]["content"] != ""
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("article")).to_have_count(0)
    send(page, "Once more")
    expect(page.locator("article.assistant .facts")).to_contain_text("prompt")
    assert [message["role"] for message in bodies[2]["messages"]] == ["system", "user"]


def test_stop_takes_the_request_back_and_keeps_what_was_said(page: Page) -> None:
    script(page)
    send(page, "Tell a long story")
    say(page, content="word ")
    expect(page.locator("article.assistant")).to_contain_text("word")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("article.assistant .facts")).to_contain_text("stopped")
    assert page.evaluate("window.wasAborted")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_what_was_stopped_before_its_first_word_is_asked_again_and_not_twice(page: Page) -> None:
    script(page)
    send(page, "One")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Message")).to_have_value("One")
    page.get_by_role("button", name="Send").click()
    say(page, content="two")
    end(page)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert asked(page) == [["user: One"], ["user: One"]]


def test_reasoning_is_open_while_it_is_all_there_is_and_folded_then(page: Page) -> None:
    script(page)
    send(page, "Think")
    say(page, reasoning_content="hm, so")
    expect(page.locator("details.thoughts")).to_have_attribute("open", "")
    expect(page.locator("details.thoughts summary")).to_have_text("Thinking …")
    say(page, content="Four.")
    expect(page.locator("article.assistant p")).to_have_text("Four.")
    expect(page.locator("details.thoughts")).not_to_have_attribute("open", "")
    page.locator("details.thoughts summary").click()
    say(page, content=" Sure.")
    expect(page.locator("article.assistant p")).to_have_text("Four. Sure.")
    expect(page.locator("details.thoughts")).to_have_attribute("open", "")  # as its reader left it
    end(page)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    send(page, "And now?")
    assert asked(page)[1] == ["user: Think", "assistant: Four. Sure.", "user: And now?"]
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_a_conversation_outlives_a_reload_and_the_last_answer_can_be_asked_for_again(page: Page) -> None:
    script(page)
    for question, answer in (("One", "**1**"), ("Two", "2")):
        send(page, question)
        say(page, content=answer)
        end(page)
        expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.reload()
    expect(page.locator("article")).to_have_count(4)
    expect(page.locator("article.assistant strong")).to_have_text("1")
    script(page)
    page.get_by_role("button", name="Again").click()
    say(page, content="other")
    end(page)
    expect(page.locator("article.assistant p").last).to_have_text("other")
    assert asked(page) == [["user: One", "assistant: **1**", "user: Two"]]
    expect(page.get_by_role("button", name="New chat")).to_be_enabled()
    page.get_by_role("button", name="New chat").click()
    page.reload()
    expect(page.get_by_text("Ask something.")).to_be_visible()


def test_a_selection_and_the_readers_place_outlast_what_comes_after(page: Page) -> None:
    script(page)
    send(page, "Story")
    say(page, content="The first paragraph.\n\n" + "\n\n".join(["more"] * 60))
    expect(page.locator("article.assistant p")).to_have_count(61)
    page.evaluate("""() => { document.getElementById("log").scrollTop = 0;
        getSelection().selectAllChildren(document.querySelector("article.assistant p")); }""")
    say(page, content="\n\nthe end")
    expect(page.locator("article.assistant p")).to_have_count(62)
    assert page.evaluate("getSelection().toString()") == "The first paragraph."
    assert page.evaluate("document.getElementById('log').scrollTop") == 0
    end(page)
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_it_is_used_by_keys_alone(page: Page) -> None:
    script(page)
    expect(page.get_by_label("Message")).to_be_focused()
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    say(page, content="Yes.")
    end(page)
    expect(page.locator("article.assistant p")).to_have_text("Yes.")
    assert asked(page) == [["user: One\ntwo"]]
    expect(page.get_by_label("Message")).to_be_focused()


def test_what_is_copied_is_what_was_written_with_a_clipboard_and_without(page: Page) -> None:
    script(page)
    send(page, "Code")
    say(page, content="So:\n```py\nx = 1\n```")
    end(page)
    expect(page.get_by_role("button", name="Copy")).to_have_count(2)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "x = 1"
    page.evaluate("""() => { Object.defineProperty(navigator, "clipboard", { value: undefined });
        document.execCommand = (name) => { window.copied = getSelection().toString()
            || document.activeElement.value; return name === "copy"; }; }""")
    page.get_by_role("button", name="Copy").last.click()
    expect(page.get_by_role("button", name="Copied").last).to_be_visible()
    assert page.evaluate("window.copied") == "So:\n```py\nx = 1\n```"


def test_a_page_opened_while_the_server_loads_finds_its_model_later(browser: Browser, demo: RunningServer) -> None:
    context = browser.new_context()
    page = context.new_page()
    refusals = [{"error": {"message": "The model is loading."}}]
    page.route(
        "**/v1/models",
        lambda route: route.fulfill(status=503, json=refusals.pop()) if refusals else route.continue_(),
    )
    page.goto(demo.url + "/")
    expect(page.get_by_label("Model").locator("option")).to_have_count(1)
    expect(page.locator("#notice")).to_be_empty()
    context.close()


def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, demo: RunningServer) -> None:
    context = browser.new_context(viewport={"width": 340, "height": 640}, is_mobile=True, color_scheme="dark")
    page = context.new_page()
    page.goto(demo.url + "/")
    script(page)
    send(page, "wide " + "w" * 400)
    say(
        page,
        content="```\n" + "long " * 100 + "\n```\n\n| a | b |\n|---|---|\n| " + "x" * 200 + " | 2 |\n\n" + "y" * 300,
    )
    end(page)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 340
    assert page.evaluate("document.getElementById('log').scrollWidth") <= 340
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Temperature")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 340
    context.close()


def test_a_refusal_is_shown_and_the_question_kept(page: Page) -> None:
    send(page, "word " * 20_000)
    expect(page.locator("article.assistant .error")).to_contain_text("maximum context length")
    assert page.get_by_label("Message").input_value().startswith("word word")


def test_a_number_out_of_its_range_is_not_sent(page: Page) -> None:
    for label, wrong in (("Temperature", "7"), ("Seed", "1.5")):
        page.get_by_label(label).fill(wrong)
        send(page, "Hello")
        expect(page.locator("article")).to_have_count(0)
        page.get_by_label(label).fill("")


def test_a_number_between_the_steps_of_its_arrows_is_sent(page: Page) -> None:
    script(page)
    page.get_by_label("Top p").fill("0.93")
    send(page, "Hello")
    end(page)
    assert page.evaluate("asked[0].top_p") == 0.93


def test_a_lost_server_is_told_of(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda route: route.abort())
    send(page, "Hello")
    expect(page.locator("article.assistant .error")).to_contain_text("connection to the server was lost")


def test_without_the_key_nothing_is_answered_and_with_it_all_is(browser: Browser, server: RunningServer) -> None:
    for page in opened(browser, server.url):
        expect(page.locator("#notice")).to_contain_text("API key is required")
        send(page, "Hello")
        expect(page.locator("article.assistant .error")).to_contain_text("API key is required")
        page.get_by_label("API key").fill("wrong")
        page.get_by_label("API key").blur()
        expect(page.locator("#notice")).to_contain_text("not one of this server's keys")
        page.get_by_label("API key").fill("the-key")
        page.get_by_label("API key").blur()
        expect(page.get_by_label("Model").locator("option")).to_have_count(1)
        send(page, "Hello")
        expect(page.locator("article.assistant .facts").last).to_contain_text("tokens/s")
        assert page.evaluate("JSON.stringify(localStorage)").find("the-key") < 0


def test_the_page_is_small_and_lets_nothing_else_run(demo: RunningServer) -> None:
    import urllib.request

    with urllib.request.urlopen(demo.url + "/") as response:
        policy = response.headers["content-security-policy"]
        body = response.read()
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert len(re.findall(r"'sha256-[^']+'", policy)) == 2
    assert len(body) < 40_000 and b"http://" not in body.replace(b"https?://", b"")


def test_the_page_can_be_left_out() -> None:
    import urllib.error
    import urllib.request

    with serving("--no-ui", "--kv-cache-memory", "64MiB") as running:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(running.url + "/")
        with refused.value as error:
            assert error.code == 404 and b"--no-ui" in error.read()
