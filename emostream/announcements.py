"""What subscribers write of themselves to REGISTRY_TOPIC → where each of them is, on whatever host.

A subscriber writes its Place when it starts and every ANNOUNCE_SECONDS, and a tombstone (null) when it stops. The key
is `subscriber/<cluster>/<subscriber>`; whoever reads registrations passes over it.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import msgspec
from kafka.errors import KafkaError

from emostream.consumers import AssignedConsumer, Polled
from emostream.process import Log
from emostream.roles import Place
from emostream.settings import REGISTRY_TOPIC, Settings

ANNOUNCE_SECONDS = 5.0
FORGET_SECONDS = 30.0
POLL_MS = 1_000
RETRY_SECONDS = 2.0
PREFIX = b"subscriber/"


def key_of(place: Place) -> bytes:
    """Return the key of a subscriber's announcement."""
    return PREFIX + f"{place.cluster}/{place.subscriber}".encode()


class Announcements:
    """The subscribers that have announced themselves; any thread may ask.

    A subscriber that says nothing for FORGET_SECONDS, while others do, is forgotten. While the broker is away nobody
    can say anything, so the last known list holds.
    """

    def __init__(self) -> None:
        self._heard: dict[bytes, tuple[Place, float]] = {}
        # Seconds in which the topic was heard. No other clock would do: those of two hosts differ, and our own goes on
        # while the broker is away.
        self._clock = 0.0
        self._heard_at = 0.0

    def now(self) -> list[Place]:
        """Return where the subscribers are."""
        return [place for place, _ in list(self._heard.values())]

    def keep_reading(self, settings: Settings, log: Log) -> None:
        """Begin to read the topic in a thread, for as long as this process runs."""
        threading.Thread(target=self._keep_reading, args=(settings, log), name="announcements", daemon=True).start()

    def note(self, polled: Polled, now: float) -> None:
        """Note what was read at `now`, in monotonic seconds."""
        if polled:
            self._clock += min(now - self._heard_at, ANNOUNCE_SECONDS)
            self._heard_at = now
        for record in (record for records in polled.values() for record in records):
            key = record.key or b""
            if not key.startswith(PREFIX):
                continue
            self._heard.pop(key, None)
            with suppress(msgspec.MsgspecError):  # a tombstone, or something that we did not write
                self._heard[key] = msgspec.json.decode(record.value or b"", type=Place), self._clock
        for key, (_, heard) in list(self._heard.items()):
            if self._clock - heard > FORGET_SECONDS:
                del self._heard[key]

    def _keep_reading(self, settings: Settings, log: Log) -> None:
        told = ""
        while True:
            reader = None
            try:
                reader = AssignedConsumer(settings, REGISTRY_TOPIC, None, log)
                reader.client.seek_to_beginning()
                while True:
                    self.note(reader.poll(POLL_MS), time.monotonic())
                    told = ""
            except KafkaError as error:
                if told != (told := type(error).__name__):
                    log.warning(
                        "cannot read where subscribers on other hosts are, so those that are known stay; this needs "
                        "the topic and the right to READ it",
                        topic=REGISTRY_TOPIC, reason=repr(error),
                    )  # fmt: skip
            finally:
                if reader:
                    reader.close()
            time.sleep(RETRY_SECONDS)
