"""The chat page in a real browser, against a real server. Skipped where there is no Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from running_server import RunningServer, serving

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving("--api-key", "the-key", "--kv-cache-memory", "64MiB") as running:
        yield running


@pytest.fixture
def page(browser: Browser, demo: RunningServer) -> Iterator[Page]:
    """The demo model's page; at the end nothing was asked of others and nothing went wrong in it."""
    yield from _opened(browser, demo.url)


@pytest.fixture(scope="module")
def still(browser: Browser, demo: RunningServer) -> Iterator[Page]:
    """A page that tests only call functions of."""
    yield from _opened(browser, demo.url)


def _opened(browser: Browser, url: str) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(30_000)
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


def _send(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_a_question_is_answered_as_the_api_answers_it(page: Page) -> None:
    page.get_by_label("Temperature").fill("0")
    _send(page, "What is the capital of France?")
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
        _send(page, text)
        expect(page.locator("article.assistant .facts").nth(number)).to_contain_text("prompt")
    assert [message["role"] for message in bodies[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert bodies[1]["messages"][2]["content"] != ""
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("article")).to_have_count(0)
    _send(page, "Once more")
    expect(page.locator("article.assistant .facts")).to_contain_text("prompt")
    assert [message["role"] for message in bodies[2]["messages"]] == ["system", "user"]


def test_stop_takes_the_request_back_and_keeps_what_was_said(page: Page) -> None:
    chunk = 'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
    page.evaluate(
        """(chunk) => { window.fetch = async (url, options) => new Response(new ReadableStream({
            start(controller) {
                controller.enqueue(new TextEncoder().encode(chunk));
                options.signal.addEventListener("abort", () => {
                    window.wasAborted = true;
                    controller.error(new DOMException("aborted", "AbortError"));
                });
            }})); }""",
        chunk,
    )
    _send(page, "Tell a long story")
    expect(page.locator("article.assistant")).to_contain_text("word")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("article.assistant .facts")).to_contain_text("stopped")
    assert page.evaluate("window.wasAborted")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_a_refusal_is_shown_and_the_question_kept(page: Page) -> None:
    _send(page, "word " * 20_000)
    expect(page.locator("article.assistant .error")).to_contain_text("maximum context length")
    assert page.get_by_label("Message").input_value().startswith("word word")


def test_a_number_out_of_its_range_is_not_sent(page: Page) -> None:
    page.get_by_label("Temperature").fill("7")
    _send(page, "Hello")
    expect(page.locator("article")).to_have_count(0)


def test_a_lost_server_is_told_of(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda route: route.abort())
    _send(page, "Hello")
    expect(page.locator("article.assistant .error")).to_contain_text("connection to the server was lost")


def test_without_the_key_nothing_is_answered_and_with_it_all_is(browser: Browser, server: RunningServer) -> None:
    for page in _opened(browser, server.url):
        expect(page.locator("#notice")).to_contain_text("API key is required")
        _send(page, "Hello")
        expect(page.locator("article.assistant .error")).to_contain_text("API key is required")
        page.get_by_label("API key").fill("wrong")
        page.get_by_label("API key").blur()
        expect(page.locator("#notice")).to_contain_text("not one of this server's keys")
        page.get_by_label("API key").fill("the-key")
        page.get_by_label("API key").blur()
        expect(page.get_by_label("Model").locator("option")).to_have_count(1)
        _send(page, "Hello")
        expect(page.locator("article.assistant .facts").last).to_contain_text("tokens/s")
        assert page.evaluate("JSON.stringify(localStorage)").find("the-key") < 0


def _rendered(still: Page, text: str) -> str:
    script = """(text) => { const box = document.createElement("div"); box.append(...markdown(text));
        box.querySelectorAll("pre button").forEach((button) => button.remove()); return box.innerHTML; }"""
    return still.evaluate(script, text)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a **bold** and *slanted* `x*y*z`", "<p>a <strong>bold</strong> and <em>slanted</em> <code>x*y*z</code></p>"),
        ("# Title\ntext", "<h3>Title</h3><p>text</p>"),
        ("- one\n- two\n  - inner", "<ul><li>one</li><li>two<ul><li>inner</li></ul></li></ul>"),
        ("3. three\n4. four", '<ol start="3"><li>three</li><li>four</li></ol>'),
        ("```python\nprint(1 < 2)\n```", '<pre><code data-language="python">print(1 &lt; 2)</code></pre>'),
        ("```\nnot closed", "<pre><code>not closed</code></pre>"),
        ("> quoted", "<blockquote><p>quoted</p></blockquote>"),
        ("| a |\n|---|\n| 1 |", "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>"),
        ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
        ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
    ],
)  # fmt: skip
def test_markdown_becomes_nodes(still: Page, text: str, html: str) -> None:
    assert _rendered(still, text) == html


@pytest.mark.parametrize(
    "text",
    [
        "<script>window.isBroken = 1</script>",
        "<img src=x onerror='window.isBroken = 1'>",
        "[click](javascript:window.isBroken=1)",
        "[click](data:text/html,<script>window.isBroken=1</script>)",
        "**<b onclick=1>x</b>**",
        "```\n</code></pre><script>window.isBroken = 1</script>\n```",
        "| <i>a</i> | b |\n|---|---|\n| <img src=x onerror=alert(1)> | 2 |",
    ],
)
def test_what_a_model_writes_is_never_html(still: Page, text: str) -> None:
    script = """(text) => { const box = document.createElement("div"); box.append(...markdown(text));
        document.body.append(box);
        const names = [...box.querySelectorAll("*")].map((one) => one.tagName.toLowerCase());
        const links = [...box.querySelectorAll("a")].map((one) => one.protocol);
        const attributes = [...box.querySelectorAll("*")].flatMap((one) => [...one.attributes].map((a) => a.name));
        return { names, links, attributes }; }"""
    found = still.evaluate(script, text)
    assert not {"script", "img", "b", "i", "iframe"} & set(found["names"])
    assert not [name for name in found["attributes"] if name.startswith("on")]
    assert set(found["links"]) <= {"http:", "https:"}
    assert still.evaluate("window.isBroken") is None


@pytest.mark.parametrize(
    "unit", ["**a ", "[", "[a](", "`a``", "_a *b ", "- a\n  - b\n", "> ", "|a|b|\n|-|-|\n", "~~~\n", "\\"]
)
def test_long_answers_take_linear_steps(still: Page, unit: str) -> None:
    # Counted by looks at the text, not by a clock.
    script = """(text) => { let looks = 0; const whole = String.prototype.indexOf;
        String.prototype.indexOf = function (what, from) {
            const found = whole.call(this, what, from);
            looks += (found < 0 ? this.length : found) - (from || 0);
            return found;
        };
        try { markdown(text); } finally { String.prototype.indexOf = whole; }
        return looks; }"""
    few, many = (still.evaluate(script, unit * count) for count in (500, 1000))
    assert many <= 2.5 * few + 1000


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
