"""What the chat page makes of Markdown: nodes by name, never HTML, in linear steps.."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chat_page import chromium, needs_chromium, opened
from playwright.sync_api import Page
from running_server import RunningServer

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def still(demo: RunningServer) -> Iterator[Page]:
    """A page that tests only call functions of."""
    for browser in chromium():
        yield from opened(browser, demo.url)


def _rendered(still: Page, text: str) -> str:
    script = """(text) => { const box = document.createElement("div"); box.append(...markdown(text));
        box.querySelectorAll(".code button").forEach((button) => button.remove()); return box.innerHTML; }"""
    return still.evaluate(script, text)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a **bold** and *slanted* `x*y*z`", "<p>a <strong>bold</strong> and <em>slanted</em> <code>x*y*z</code></p>"),
        ("# Title\ntext", "<h3>Title</h3><p>text</p>"),
        ("- one\n- two\n  - inner", "<ul><li>one</li><li>two<ul><li>inner</li></ul></li></ul>"),
        ("3. three\n4. four", '<ol start="3"><li>three</li><li>four</li></ol>'),
        (
            "```python\nprint(1 < 2)\n```",
            '<div class="code"><pre data-language="python"><code>print(1 &lt; 2)</code></pre></div>',
        ),
        ("```\nnot closed", '<div class="code"><pre><code>not closed</code></pre></div>'),
        (
            "1. do:\n   ```sh\n   a\n     b\n   ```\n\n2. done",
            '<ol start="1"><li>do:<div class="code"><pre data-language="sh"><code>a\n  b</code></pre></div></li>'
            "<li>done</li></ol>",
        ),
        ("- one\n\n  more\n- two\nlazy\n\ntext", "<ul><li>one<p>more</p></li><li>two<br>lazy</li></ul><p>text</p>"),
        ("1. a\n- b", '<ol start="1"><li>a</li></ol><ul><li>b</li></ul>'),
        ("- a\n\n```\nx\n```", '<ul><li>a</li></ul><div class="code"><pre><code>x</code></pre></div>'),
        ("text:\n| a |\n|---|\n| 1 |\n---", "<p>text:</p><table><tr><th>a</th></tr><tr><td>1</td></tr></table><hr>"),
        ("***both*** **x**", "<p><strong><em>both</em></strong> <strong>x</strong></p>"),
        ("> quoted", "<blockquote><p>quoted</p></blockquote>"),
        ("| a |\n|---|\n| 1 |", "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>"),
        ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
        (
            "see https://a.example/x?y=1.",
            '<p>see <a href="https://a.example/x?y=1" target="_blank" rel="noopener noreferrer nofollow">'
            "https://a.example/x?y=1</a>.</p>",
        ),
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
