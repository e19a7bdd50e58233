#!/usr/bin/env python3
"""Receive: print the emojis that a subscriber delivers, and send some. Type unsub to end."""

import sys

from emostream.receive.client import run_client

if __name__ == "__main__":
    run_client("client.py", sys.argv[1:])
