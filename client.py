#!/usr/bin/env python3
"""Receive: print the emojis that a subscriber delivers, and send some. Type unsub to end."""

import argparse

from emostream.process import run_script
from emostream.receive.client import ClientOptions, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: PORT=8001 python3 client.py --events 10")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings, for example PORT=8001")
    parser.add_argument("--events", type=int, default=100, help="emojis to send (%(default)s)")
    parser.add_argument("--interval", type=float, default=0.1, help="seconds between two emojis (%(default)s)")
    parser.add_argument("--send-only", action="store_true", help="receive nothing; end when all are sent")
    parser.add_argument("--receive-only", action="store_true", help="send nothing")
    parser.add_argument("--stream", action="store_true", help="read a subscriber's stream instead of listening on PORT")
    parser.add_argument("--app", metavar="URL", help="address of the app, for example http://192.0.2.7:5000")
    parser.add_argument("--no-wait", action="store_true", help="exit with 1 when all subscribers are full")
    args = parser.parse_intermixed_args()
    wanted = (not args.receive_only, not args.send_only, not args.no_wait, args.stream, args.app)
    options = ClientOptions(args.events, args.interval, *wanted)
    run_script(parser.format_help(), lambda settings: run(settings, options), args.settings)
