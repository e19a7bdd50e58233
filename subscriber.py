#!/usr/bin/env python3
"""Deliver: one cluster's topic → the clients registered with this subscriber.

usage: CLUSTER_TOPIC=cluster1-emoji-topic SUBSCRIBER=1 python3 subscriber.py
       python3 subscriber.py CLUSTER-TOPIC=cluster1-emoji-topic SUBSCRIBER=1 [KEY=VALUE ...]
"""

import sys

from emostream.deliver.subscriber import run
from emostream.process import run_script

if __name__ == "__main__":
    run_script(__doc__, run, sys.argv[1:])
