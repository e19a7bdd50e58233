"""Clients and streams that come to a running system and go again, in every way there is; and witnesses, who stay.

Written against the contract alone: HTTP, and what docs/api.md says of it.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import requests

from emostream import roles
from emostream.broker import consumer
from emostream.consumers import partitions
from emostream.settings import Settings
from testkit.http_calls import call
from testkit.http_servers import HttpClient, http_client

CLIENT_STAYS = (2.0, 45.0)  # seconds
STREAM_STAYS = (1.0, 30.0)
READ_TIMEOUT_SECONDS = 40.0  # a living stream says something every 15 s
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: the connection ends with a RST
STREAM_REQUEST = b"GET /stream HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"


class Clients:
    """Visitors that register with a subscriber, stay a while, and leave."""

    def __init__(self, settings: Settings, visitors: int, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._come_and_go, args=(random.Random(seed + number),), daemon=True)
            for number in range(visitors)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """All leave, each in its way."""
        self._done.set()
        for thread in self._threads:
            thread.join(30)

    def _come_and_go(self, chance: random.Random) -> None:
        while not self._done.is_set():
            port = chance.choice(roles.subscribers(self._settings)).port
            url = f"http://{self._settings.client_host}:{port}"
            with http_client() as client:
                try:
                    registered = call(f"{url}/register", {"client_url": client.url})[0] == 200
                except (OSError, ValueError):  # requests' own errors are OSErrors
                    registered = False
                if not registered:
                    self._count("clients that found no slot")
                    self._done.wait(chance.uniform(0.5, 2.0))
                    continue
                self._done.wait(chance.uniform(*CLIENT_STAYS))
                self._leave(client, url, chance)

    def _leave(self, client: HttpClient, url: str, chance: random.Random) -> None:
        way = chance.choices(["deregistered", "answered 410", "vanished"], [6, 2, 2])[0]
        if way == "deregistered":
            with suppress(OSError, ValueError):
                call(f"{url}/deregister", {"client_url": client.url})
        elif way == "answered 410":
            client.status = 410
            self._done.wait(5.0)  # for the next push
        else:
            client.status = 500  # on the connection that there is; no other can be made
        self._count(f"clients that {way}")
        self._count("counts pushed to them", len(client.received))

    def _count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] += number


class Streams:
    """So many event streams at a time, each open for a while; one thread."""

    def __init__(self, settings: Settings, open_at_once: int, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._chance = random.Random(seed)
        self._done = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(open_at_once),), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """All leave."""
        self._done.set()
        self._thread.join(30)

    async def _run(self, open_at_once: int) -> None:
        visitors = [asyncio.create_task(self._come_and_go()) for _ in range(open_at_once)]
        while not self._done.is_set():
            await asyncio.sleep(0.1)
        for visitor in visitors:
            visitor.cancel()
        await asyncio.gather(*visitors, return_exceptions=True)

    async def _come_and_go(self) -> None:
        while True:
            port = self._chance.choice(roles.subscribers(self._settings)).addresses[1].port
            try:
                reader, writer = await asyncio.open_connection(self._settings.client_host, port)
            except OSError:
                self.counts["streams that could not connect"] += 1
                await asyncio.sleep(0.5)
                continue
            writer.write(STREAM_REQUEST)
            self.counts["streams that came"] += 1
            try:
                await asyncio.wait_for(self._read(reader), self._chance.uniform(*STREAM_STAYS))
                self.counts["streams that the server ended"] += 1
            except asyncio.TimeoutError:
                pass  # it has stayed for as long as it wanted
            finally:
                if self._chance.random() < 0.5:
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.counts["bytes streamed"] += len(data)


class StreamWitness:
    """One stream of a subscriber from its beginning to its end: the counts that it was sent, and when each came."""

    def __init__(self, url: str, authority: str = "") -> None:
        """`authority`: the file with the authority that has signed the certificate of an https:// URL."""
        self.received: list[dict[str, Any]] = []
        self.times: list[float] = []  # Unix seconds
        self._url, self._authority = url, authority
        self._last_id = ""
        self._done = threading.Event()
        self.open = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def events(self) -> int:
        """Events that the counts stand for."""
        return sum(count["events"] for count in self.received)

    def stop(self) -> None:
        """Read no more."""
        self._done.set()

    def _run(self) -> None:
        while not self._done.is_set():
            with suppress(OSError, http.client.HTTPException):
                self._follow()
            self._done.wait(1.0)

    def _follow(self) -> None:
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        trust = self._authority or True
        with requests.get(
            self._url, headers=headers, stream=True, timeout=READ_TIMEOUT_SECONDS, verify=trust
        ) as answer:
            answer.raise_for_status()
            event: dict[bytes, bytes] = {}
            for line in answer.iter_lines(chunk_size=1):
                if self._done.is_set():
                    return
                if line:
                    name, _, value = line.partition(b": ")
                    event[name] = value
                else:  # the event is whole
                    self._take(event)
                    event = {}

    def _take(self, event: dict[bytes, bytes]) -> None:
        if b"id" in event:
            self._last_id = event[b"id"].decode()
            self.open.set()
        if counts := json.loads(event.get(b"data", b"{}")).get("counts"):
            self.received += counts
            self.times.append(time.time())


class TopicWitness:
    """Events in the counts on a topic from now on, and when (Unix seconds) the last of them came."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.events = 0
        self.last = 0.0
        self._reader = consumer(settings, None)
        assigned = partitions(self._reader, topic)
        self._reader.assign(assigned)
        self._reader.seek_to_end()
        for tp in assigned:
            self._reader.position(tp)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def forget(self, quiet_seconds: float) -> None:
        """Begin at 0, once nothing has come for so long: what was sent before is no part of it."""
        before = -1
        while before != self.events:
            before = self.events
            time.sleep(quiet_seconds)
        self.events = 0

    def close(self) -> None:
        """Read no more."""
        self._done.set()
        self._thread.join()
        self._reader.close()

    def _count(self) -> None:
        while not self._done.is_set():
            for records in self._reader.poll(timeout_ms=100).values():
                self.events += sum(json.loads(record.value)["events"] for record in records)
                self.last = time.time()
