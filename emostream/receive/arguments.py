"""Arguments of the client → its options and settings, and the client with them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from emostream.process import run_script
from emostream.receive.client import ClientOptions, run

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
    args = parser.parse_intermixed_args(arguments)
    options = ClientOptions(
        events=args.events,
        interval_seconds=args.interval,
        send=not args.receive_only,
        receive=not args.send_only,
        wait=not args.no_wait,
        stream=args.stream,
        app_url=args.app,
    )
    run_script(parser.format_help(), lambda settings: run(settings, options), args.settings)
