"""Peer: FastAPI with aiokafka, on 2 uvicorn workers. usage: fastapi_aiokafka.py PORT BROKERS TOPIC"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import Annotated

import uvicorn
from aiokafka import AIOKafkaProducer
from fastapi import FastAPI
from pydantic import BaseModel, StringConstraints

Text = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Tap(BaseModel):
    """The body of POST /send-emoji."""

    user_id: Text
    emoji_type: Text
    timestamp: datetime


class Event(BaseModel):
    """A record on the topic."""

    user_id: str
    emoji: str
    timestamp: datetime


class Answer(BaseModel):
    """The body of a 200."""

    status: str
    message: str


@asynccontextmanager
async def with_producer(_: FastAPI) -> AsyncIterator[None]:
    """One producer a worker, flushed at its end."""
    global producer
    producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["BROKERS"],
        acks="all",
        enable_idempotence=True,
        linger_ms=500,
        max_batch_size=512 * 1024,  # as ours: a batch ends by its age, not by its size
        compression_type="lz4",
    )
    await producer.start()
    yield
    await producer.stop()


app = FastAPI(lifespan=with_producer)


@app.post("/send-emoji")
async def send_emoji(tap: Tap) -> Answer:
    """What app.py does."""
    event = Event(user_id=tap.user_id, emoji=tap.emoji_type, timestamp=tap.timestamp.astimezone(timezone.utc))
    await producer.send(os.environ["TOPIC"], event.model_dump_json().encode())
    return Answer(status="success", message="Emoji sent to Kafka")


if __name__ == "__main__":
    port, os.environ["BROKERS"], os.environ["TOPIC"] = sys.argv[1:]
    uvicorn.run(
        "fastapi_aiokafka:app", port=int(port), workers=2, loop="uvloop", http="httptools", access_log=False,
        log_level="warning",
    )  # fmt: skip
