"""The chat page in headless Chromium: types, sees streaming, stops, reloads, finds everything again.

    python3 -m venv v && v/bin/pip install -r tests/clients/requirements.txt
    v/bin/python tools/page_test.py target/debug/alula [FOLDER FOR SCREENSHOTS]

Needs Debian's chromium (or another one, named by CHROMIUM).
"""

import json
import os
import pathlib
import re
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "clients"))
from server import serving  # noqa: E402

from playwright.sync_api import expect, sync_playwright  # noqa: E402

NASTY = """# Heading

**bold** and *italic* and `code <b>` and [a link](https://example.org/a_(b)) and [bad](javascript:alert(1))

<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>

- one
  - inner
- two

3. three
4. four

| a | b |
|---|---|
| 1 | 2 |

> quoted

```rust
fn main() { println!("<b>&amp;</b>"); }
```
"""

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
SOME = re.compile(".{6}", re.DOTALL)


class Page:
    """The page, and what went wrong in it."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(base_url=url, permissions=["clipboard-read", "clipboard-write"], **options)
        self.page = self.context.new_page()
        self.wrong, self.url = [], url
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.wrong.append(str(e)))
        self.page.on("request", lambda r: self.wrong.append(f"asks {r.url}") if not r.url.startswith(url) else None)
        self.page.goto("/")

    def slow(self, bytes_per_second):
        """A slow line, so that streaming can be seen; 0 ends it."""
        session = self.context.new_cdp_session(self.page)
        session.send("Network.enable")
        rate = bytes_per_second or -1
        session.send("Network.emulateNetworkConditions",
                     {"offline": False, "latency": 0, "downloadThroughput": rate, "uploadThroughput": -1})

    def ask(self, text):
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def idle(self):
        expect(self.page.locator("#stop")).to_be_hidden(timeout=60_000)

    def answers(self):
        return self.page.locator("article.assistant .text")

    def done(self, *allowed):
        """Nothing went wrong but what a test wanted."""
        wrong = [w for w in self.wrong if not any(a in w for a in allowed)]
        assert not wrong, wrong
        self.context.close()


def streams_stops_and_keeps(browser, url):
    p = Page(browser, url, viewport=DESKTOP)
    page = p.page
    expect(page.locator("#model option")).to_have_count(1)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Settings").click()
    p.slow(6000)
    p.ask("Tell me a story about a bird")
    seen = set()
    answer = p.answers().last
    for _ in range(600):
        seen.add(len(answer.inner_text()))
        if len(seen) > 4:
            break
        page.wait_for_timeout(50)
    assert len(seen) > 4, f"no streaming: lengths {seen}"
    expect(page.locator("#send")).to_be_hidden()
    page.keyboard.press("Escape")
    p.idle()
    expect(page.locator("article.assistant .stats")).to_contain_text("stopped")
    p.slow(0)
    stopped = answer.inner_text()
    page.wait_for_timeout(300)
    assert answer.inner_text() == stopped and stopped, "it goes on after it was stopped"
    # The stop button does the same as the key.
    p.slow(6000)
    page.get_by_role("button", name="Write another answer").click()
    expect(page.locator("#stop")).to_be_visible()
    expect(p.answers().last).to_have_text(SOME)
    page.get_by_role("button", name="Stop", exact=True).click()
    p.idle()
    p.slow(0)
    # Whole, twice, with the same seed.
    texts = []
    for _ in range(2):
        page.get_by_role("button", name="Write another answer").click()
        p.idle()
        texts.append(p.answers().last.inner_text())
    assert texts[0] == texts[1] and texts[0].startswith(stopped[: len(stopped) // 2]), texts
    expect(page.locator("article.assistant .stats")).to_contain_text("tokens/s")
    expect(page.locator("article.assistant .stats")).to_contain_text("prompt ")
    page.reload()
    assert p.answers().last.inner_text() == texts[0], "the conversation is lost"
    expect(page.locator("article.user .text")).to_have_text("Tell me a story about a bird")
    expect(page.get_by_label("Seed")).to_have_value("7")
    expect(page.locator("article.assistant .stats")).to_contain_text("tokens/s")
    # A reload in the middle keeps what was there.
    p.slow(6000)
    p.ask("And then?")
    expect(p.answers()).to_have_count(2)
    expect(p.answers().last).to_have_text(SOME)
    page.wait_for_timeout(700)
    page.reload()
    p.slow(0)
    assert p.answers().count() == 2 and p.answers().last.inner_text(), "what was written before the reload is lost"
    # Copy.
    page.get_by_role("button", name="Copy").nth(1).click()
    assert page.evaluate("navigator.clipboard.readText()").split() == texts[0].split()
    p.done()


def keeps_conversations_apart(browser, url):
    p = Page(browser, url, viewport=DESKTOP)
    page = p.page
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Max tokens").fill("12")
    page.get_by_label("System prompt").fill("You are a bird.")
    for text in ["first story", "second story"]:
        page.get_by_role("button", name="New conversation").click()
        with page.expect_request("**/v1/chat/completions") as asked:
            p.ask(text)
        body = asked.value.post_data_json
        assert body["messages"] == [{"role": "system", "content": "You are a bird."}, {"role": "user", "content": text}]
        assert body["max_tokens"] == 12 and "seed" not in body and "temperature" not in body, body
        p.idle()
    expect(page.locator("#chats .open")).to_have_text(["second story", "first story"])
    page.locator("#chats .open", has_text="first story").click()
    expect(page.locator("article.user .text")).to_have_text("first story")
    # Editing sends the conversation again from there.
    page.get_by_role("button", name="Edit and send again").click()
    expect(page.get_by_label("Message", exact=True)).to_have_value("first story")
    p.ask("another story")
    p.idle()
    expect(page.locator("article.user .text")).to_have_text("another story")
    page.on("dialog", lambda d: d.accept())
    page.get_by_role("button", name="Delete “second story”").click()
    expect(page.locator("#chats .open")).to_have_count(1)
    page.reload()
    expect(page.locator("#chats .open")).to_have_text(["another story"])
    p.done()


def shows_errors_in_the_servers_words(browser, url):
    p = Page(browser, url, viewport=DESKTOP)
    page = p.page
    with page.expect_response("**/v1/chat/completions") as refused:
        p.ask("many words " * 600)
    words = refused.value.json()["error"]["message"]
    assert "512" in words, words
    expect(page.get_by_role("alert").locator("span")).to_have_text(words)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    # A connection that breaks keeps what came.
    page.route("**/v1/chat/completions", lambda r: r.fulfill(
        content_type="text/event-stream",
        body='data: {"choices":[{"index":0,"delta":{"content":"half"}}]}\n\n'))
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_contain_text("The connection broke")
    expect(p.answers().last).to_have_text("half")
    page.unroute("**/v1/chat/completions")
    p.done("400 (Bad Request)")


def asks_for_a_key(browser, url):
    p = Page(browser, url, viewport=DESKTOP)
    page = p.page

    def door(route):
        if route.request.headers.get("authorization") == "Bearer open-sesame":
            return route.continue_()
        body = {"error": {"message": "give a key", "type": "authentication_error", "param": None, "code": None}}
        return route.fulfill(status=401, content_type="application/json", body=json.dumps(body))

    page.route("**/v1/**", door)
    page.reload()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("give a key")
    dialog.get_by_label("Key").fill("open-sesame")
    dialog.get_by_role("button", name="Use it").click()
    expect(page.locator("#model option")).to_have_count(1)
    p.ask("Hello")
    p.idle()
    expect(page.get_by_role("alert")).to_have_count(0)
    kept = page.evaluate("[sessionStorage.getItem('alula.key'), JSON.stringify(localStorage)]")
    assert kept[0] == "open-sesame" and "sesame" not in kept[1], "a key belongs to the session alone"
    page.reload()
    expect(page.locator("#model option")).to_have_count(1)
    expect(dialog).to_be_hidden()
    p.done("401 (Unauthorized)")


def markdown_is_safe(browser, url):
    p = Page(browser, url, viewport=DESKTOP)
    page = p.page
    show(page, NASTY)
    text = p.answers().first
    assert page.evaluate("window.hacked") is None
    for tag, count in {"h1": 1, "strong": 1, "em": 1, "pre": 1, "table": 1, "blockquote": 1, "ul ul": 1, "ol": 1, "a": 1,
                       "img": 0, "script": 0}.items():
        expect(text.locator(tag)).to_have_count(count)
    link = text.locator("a")
    assert link.get_attribute("href") == "https://example.org/a_(b)" and "noopener" in link.get_attribute("rel")
    assert text.locator("ol").get_attribute("start") == "3"
    expect(text.locator("pre")).to_have_text('fn main() { println!("<b>&amp;</b>"); }')
    page.locator(".code button").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("fn main()")
    # Long and odd texts end in time.
    for odd in ["*" * 20000, "`" * 5000 + "a", "> " * 3000, "[" * 20000, "- " * 3000, "| " * 9000, "_a" * 9000]:
        spent = page.evaluate(
            """async (odd) => { const { render } = await import('/page/markdown.js'); const at = performance.now();
            render(odd, document.createElement('div')); return performance.now() - at; }""", odd)
        assert spent < 2000, f"{odd[:10]!r}: {spent} ms"
    p.done()


def show(page, text):
    """Puts a conversation into the browser's store and opens it."""
    page.evaluate(
        """(text) => { const stats = '182 tokens · 96.4 tokens/s · first after 0.05 s · prompt 31';
        const messages = [{role: 'user', content: 'Show me what you can do'}, {role: 'assistant', content: text, stats}];
        localStorage.setItem('alula.chat.x', JSON.stringify({id: 'x', title: '', settings: {}, messages}));
        localStorage.setItem('alula.chats', JSON.stringify([{id: 'x', title: 'Show me what you can do', updated: 1}]));
        localStorage.setItem('alula.here', '"x"'); }""", text)
    page.reload()


def fits_a_phone(browser, url):
    p = Page(browser, url, viewport=PHONE, has_touch=True, is_mobile=True)
    page = p.page
    expect(page.locator("#side")).to_be_hidden()
    page.get_by_role("button", name="Conversations").click()
    expect(page.locator("#side")).to_be_visible()
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("#side")).to_be_hidden()
    show(page, NASTY)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it is wider than the screen"
    # Everything that can be pressed has a name.
    nameless = page.evaluate("""[...document.querySelectorAll('button, select, input, textarea')].filter((n) =>
        !(n.ariaLabel || n.textContent.trim() || n.labels?.length)).map((n) => n.outerHTML)""")
    assert not nameless, nameless
    p.done()


def shows_the_document(browser, url):
    p = Page(browser, url, viewport=DESKTOP)
    p.page.goto("/docs")
    expect(p.page.locator(".route", has_text="/v1/chat/completions").first).to_be_visible()
    p.page.locator(".route", has_text="/v1/chat/completions").locator("summary").first.click()
    expect(p.page.locator(".route[open]").get_by_text("temperature", exact=True)).to_be_visible()
    p.done()


def screenshots(browser, url, folder):
    """For people to look at."""
    folder.mkdir(parents=True, exist_ok=True)
    for size_name, size in [("desktop", DESKTOP), ("phone", PHONE)]:
        for scheme in ["light", "dark"]:
            p = Page(browser, url, viewport=size, color_scheme=scheme, device_scale_factor=2)
            name = f"{size_name}-{scheme}"
            expect(p.page.locator("#hint")).not_to_be_empty()
            p.page.screenshot(path=folder / f"empty-{name}.png")
            show(p.page, NASTY)
            p.page.wait_for_timeout(200)
            p.page.screenshot(path=folder / f"chat-{name}.png")
            if size_name == "phone":
                p.page.get_by_role("button", name="Conversations").click()
                p.page.wait_for_timeout(400)
            else:
                p.page.get_by_role("button", name="Settings").click()
                p.ask("Tell me a story " * 150)
                p.idle()
            p.page.screenshot(path=folder / f"more-{name}.png")
            if scheme == "light":
                p.page.goto("/docs")
                p.page.wait_for_timeout(500)
                p.page.screenshot(path=folder / f"docs-{name}.png")
            p.context.close()


CASES = [streams_stops_and_keeps, keeps_conversations_apart, shows_errors_in_the_servers_words, asks_for_a_key,
         markdown_is_safe, fits_a_phone, shows_the_document]


def main():
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        print("skipped: there is no chromium")
        return
    with serving(sys.argv[1]) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        only = os.environ.get("ONLY", "")
        for case in CASES:
            if only in case.__name__:
                case(browser, url)
                print(f"ok {case.__name__}", flush=True)
        if len(sys.argv) > 2:
            screenshots(browser, url, pathlib.Path(sys.argv[2]))
        browser.close()


if __name__ == "__main__":
    main()
