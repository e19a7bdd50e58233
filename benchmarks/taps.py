"""Taps that are sent by the clock, each with an emoji of its own, and clients that know when its count came."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from emostream.settings import Settings

SENDERS = 16
REQUEST_HEAD = "POST /send-emoji HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
Arrival = tuple[float, float, float]  # Unix seconds: on emoji-topic, counted, at the client


def send_open_loop(
    settings: Settings, emojis: Iterator[str], rate: float, seconds: float
) -> tuple[dict[str, float], int]:
    """Send `rate` taps a second over kept-alive connections; `({emoji: when it was due, Unix seconds}, refused)`.

    Each is due at a random moment of its 1/rate s. Always at the same one, a run's taps would all come at the same few
    moments of a micro-batch, and its median would be off by up to half of 1/rate.
    """
    due: dict[str, float] = {}
    refused = 0
    lock = threading.Lock()
    total = int(rate * seconds)
    began = time.time() + 0.2

    def send(sender: int) -> None:
        nonlocal refused
        # Bare sockets: http.client costs the generator more than a tap costs the app, on the same two cores.
        connection = socket.create_connection((settings.client_host, settings.app_port), timeout=10)
        answers = connection.makefile("rb")
        for number in range(sender, total, SENDERS):
            when = began + (number + random.random()) / rate
            with lock:
                emoji = next(emojis)
                due.setdefault(emoji, when)
            body = json.dumps({"user_id": "benchmark", "emoji_type": emoji, "timestamp": "2026-01-01T00:00:00Z"})
            request = f"{REQUEST_HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode()
            time.sleep(max(0.0, when - time.time()))
            connection.sendall(request)
            taken = answers.readline().startswith(b"HTTP/1.1 200")
            length = 0
            while (line := answers.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            answers.read(length)
            if not taken:
                with lock:
                    refused += 1

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return due, refused


def receiving_client(settings: Settings, cluster_topic: str, came: dict[str, Arrival]) -> ThreadingHTTPServer:
    """A client registered with a subscriber of this cluster; `came` gets emoji → when."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            count = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            when = (count["last_accepted_ms"] / 1000, count["batched_ms"] / 1000, time.time())
            came.setdefault(count["emoji"], when)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((settings.client_host, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    call_subscriber(settings, cluster_topic, "/register", server)
    return server


def call_subscriber(settings: Settings, cluster_topic: str, path: str, client: ThreadingHTTPServer) -> None:
    """POST a client's URL to the first subscriber of a cluster."""
    port = settings.subscriber_port(cluster_topic, 1)
    connection = http.client.HTTPConnection(settings.client_host, port, timeout=10)
    url = f"http://{settings.client_host}:{client.server_port}/"
    connection.request("POST", path, json.dumps({"client_url": url}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"{path} at port {port}: {answer.status} {answer.read().decode()}")
