"""Peer: Flask's development server with kafka-python. usage: flask_dev.py PORT BROKERS TOPIC"""

import json
import logging
import sys
from datetime import datetime, timezone

from flask import Flask, jsonify, request
from kafka import KafkaProducer

port, brokers, topic = sys.argv[1:]
app = Flask(__name__)
producer = KafkaProducer(
    bootstrap_servers=brokers,
    acks="all",
    linger_ms=500,
    compression_type="lz4",
    value_serializer=lambda value: json.dumps(value).encode(),
)


@app.post("/send-emoji")
def send_emoji():
    """What app.py does, as a tutorial would write it."""
    body = request.get_json()
    try:
        user_id, emoji, timestamp = body["user_id"], body["emoji_type"], datetime.fromisoformat(body["timestamp"])
    except (KeyError, TypeError, ValueError) as error:
        return jsonify(error=str(error)), 400
    if not (0 < len(user_id) <= 64 and 0 < len(emoji) <= 64):
        return jsonify(error="user_id, emoji_type: expected 1 to 64 characters"), 400
    utc = timestamp.astimezone(timezone.utc).isoformat()
    producer.send(topic, {"user_id": user_id, "emoji": emoji, "timestamp": utc})
    return jsonify(status="success", message="Emoji sent to Kafka")


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app.run(port=int(port))
