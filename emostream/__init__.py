"""EmoStream: live crowd reactions over Kafka and Spark. The modules, in the order of the data:
ingest, aggregate, route, deliver (with its registry), receive; beneath them settings, records, broker, runtime.
"""
