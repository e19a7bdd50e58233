#!/usr/bin/env python3
"""Ingest: POST /send-emoji → EMOJI_TOPIC.

usage: python3 app.py [KEY=VALUE ...]        for example APP_PORT=5000 LINGER_MS=500
"""

import sys

from emostream.ingest.workers import serve
from emostream.process import run_script

if __name__ == "__main__":
    run_script(__doc__, serve, sys.argv[1:])
