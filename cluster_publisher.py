#!/usr/bin/env python3
"""Route: MAIN_TOPIC → one cluster's topic, exactly once.

usage: python3 cluster_publisher.py CLUSTER-TOPIC=cluster1-emoji-topic [KEY=VALUE ...]
"""

import sys

from emostream.process import run_script
from emostream.route import run

if __name__ == "__main__":
    run_script(__doc__, run, sys.argv[1:])
