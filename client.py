#!/usr/bin/env python3
"""Receive: register with a subscriber, or read its stream; send emojis, print those that come. Type unsub to end."""

import sys

from emostream.receive.arguments import run_client

if __name__ == "__main__":
    run_client("client.py", sys.argv[1:])
