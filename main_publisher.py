#!/usr/bin/env python3
"""Aggregate: EMOJI_TOPIC → one count per emoji per micro-batch on MAIN_TOPIC, with Spark.

usage: python3 main_publisher.py [KEY=VALUE ...]
       spark-submit --packages org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0 main_publisher.py [KEY=VALUE ...]
"""

import sys

from emostream.aggregate.run import run
from emostream.process import run_script

if __name__ == "__main__":
    run_script(__doc__, run, sys.argv[1:])
