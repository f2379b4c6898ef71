"""The chat page in Debian's Chromium, and a server's side of a conversation played to it, for the tests of the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium")
expect.set_options(timeout=60_000)  # a bound for what never comes, on a busy machine too


def chromium() -> Iterator[Browser]:
    """The body of a fixture of a module: while it runs, no test of the process can have an event loop of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Browser, url: str) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(url + "/")
    yield page
    assert [other for other in asked if not other.startswith((url + "/", "data:"))] == []
    # A browser notes by itself what fails to load; those tests look at what the page made of it.
    assert [text for text in complaints if not text.startswith("Failed to load")] == []
    context.close()


def send(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def script(page: Page) -> None:
    """Answers are from now on what `say` says, until `end`."""
    page.evaluate(
        """() => { window.asked = []; window.fetch = async (url, options) => {
            window.asked.push(JSON.parse(options.body));
            return new Response(new ReadableStream({ start(controller) {
                window.answer = controller;
                options.signal.addEventListener("abort", () => {
                    window.wasAborted = true;
                    controller.error(new DOMException("aborted", "AbortError"));
                });
            }})); } }"""
    )


def say(page: Page, **delta: str) -> None:
    event = {"choices": [{"index": 0, "delta": delta}]}
    page.evaluate("(event) => window.answer.enqueue(new TextEncoder().encode(event))", f"data: {json.dumps(event)}\n\n")


def end(page: Page) -> None:
    page.evaluate("() => window.answer.enqueue(new TextEncoder().encode('data: [DONE]\\n\\n'))")


def asked(page: Page) -> list[list[str]]:
    """Of each request the roles and texts."""
    return page.evaluate("asked.map((body) => body.messages.map(({ role, content }) => `${role}: ${content}`))")
