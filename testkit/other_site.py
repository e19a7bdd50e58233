"""Somebody else's web page with the element in it, under a strict policy. It is of another origin than the app."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from testkit.http_servers import Answer, Asked, http_server

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A match</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/page.css">
<script type="module" src="/page.js"></script><script type="module" src="{app}/emo-reactions.js"></script></head>
<body><main><h1>A match</h1><video id="player"></video>
<emo-reactions src="{app}" {attributes}></emo-reactions></main></body></html>"""
_STYLE = """main { position: relative; height: 90vh } h1 { margin: 0 }
emo-reactions { position: absolute; top: 0; right: 0; bottom: 0; left: 0 }"""
_SCRIPT = """window.totals = {}; window.shown = []; window.state = "";
document.addEventListener("emo-batch", ({detail}) => {
  shown.push([detail.batch_id, Date.now()]);
  for (const {emoji, events} of detail.counts) totals[emoji] = (totals[emoji] || 0) + events;
});
document.addEventListener("emo-state", ({detail}) => { state = detail.state; });"""


@contextmanager
def other_site(app_url: str, attributes: str = "") -> Iterator[str]:
    """The page's URL. Its policy is `default-src 'self'`, and what docs/element.md names."""
    policy = (
        f"default-src 'self'; img-src 'self' data:; script-src 'self' {app_url}; "
        f"connect-src 'self' {app_url} http://127.0.0.1:*"
    )
    files = {
        "/": ("text/html", _PAGE.format(app=app_url, attributes=attributes)),
        "/page.css": ("text/css", _STYLE),
        "/page.js": ("text/javascript", _SCRIPT),
    }

    def answer(asked: Asked) -> Answer:
        if asked.path not in files:
            return Answer(404)
        kind, text = files[asked.path]
        return Answer(200, text.encode(), {"Content-Type": kind, "Content-Security-Policy": policy})

    with http_server(answer) as server:
        yield server.url.replace("127.0.0.1", "localhost")
