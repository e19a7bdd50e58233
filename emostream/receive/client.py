"""Pushes from a subscriber, or its stream → emojis in a terminal. The client also sends taps."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from emostream import roles
from emostream.http.wsgi import serve_wsgi
from emostream.process import Log, bound_socket, run_script, stop_on_signals
from emostream.receive.membership import Membership
from emostream.receive.routes import create_app
from emostream.receive.screen import Screen, say, stop_when_told
from emostream.receive.sender import TapSender
from emostream.receive.stream_reader import StreamReader
from emostream.receive.subscription import Subscription
from emostream.settings import Settings

ABOUT = "Receive: print the emojis that a subscriber delivers, and send some. Type unsub to end."


def run_client(command: str, arguments: Sequence[str]) -> NoReturn:
    """Run the client and end the process with its status. `command` is how the user called it."""
    parser = argparse.ArgumentParser(command, description=ABOUT, epilog=f"example: PORT=8001 {command} --events 10")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings, for example PORT=8001")
    parser.add_argument("--events", type=int, default=100, help="emojis to send (%(default)s)")
    parser.add_argument("--interval", type=float, default=0.1, help="seconds between two emojis (%(default)s)")
    parser.add_argument("--send-only", action="store_true", help="receive nothing; end when all are sent")
    parser.add_argument("--receive-only", action="store_true", help="send nothing")
    parser.add_argument("--stream", action="store_true", help="read a subscriber's stream instead of listening on PORT")
    parser.add_argument("--app", metavar="URL", help="address of the app, for example http://192.0.2.7:5000")
    parser.add_argument("--no-wait", action="store_true", help="exit with 1 when all subscribers are full")
    options = parser.parse_intermixed_args(arguments)
    run_script(parser.format_help(), lambda settings: run(settings, options), options.settings)


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Send and receive until `unsub`, SIGINT or SIGTERM. Return the exit status."""
    stop = stop_on_signals()
    app_url = (options.app or f"{roles.local_url(settings)}:{settings.app_port}").rstrip("/")
    user_id = f"client-{settings.port}"
    sender = TapSender(app_url, user_id, options.events, options.interval, stop, settings.room)
    if options.send_only:
        sender.run()
        return 1 if sender.failed else 0
    screen = Screen(sys.stdout, stop)
    subscription: Subscription
    if options.stream:
        subscription = StreamReader(settings, app_url, stop, screen.show)
    else:
        subscription = Membership(settings, app_url, stop)
        listener = bound_socket(settings.bind_host, settings.port, setting="PORT")
        serve_wsgi(create_app(screen, subscription), listener, Log("receive"), settings)
    threading.Thread(target=stop_when_told, args=(stop,), name="terminal", daemon=True).start()
    if not subscription.find(wait=not options.no_wait):
        if stop.requested:
            return 0
        say(f"no subscriber has a free {subscription.needs}")
        return 1
    if not options.receive_only:
        threading.Thread(target=sender.run, name="sender", daemon=True).start()
    subscription.keep()
    subscription.leave()
    return 0 if stop.requested else 1
