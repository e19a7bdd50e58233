"""EmoStream: live crowd reactions over Kafka and Spark. One folder per stage, in the order of the data:
ingest, aggregate, route, deliver, receive.
"""

__version__ = "0.1.0"
