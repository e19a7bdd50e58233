"""Request body → records for the producer, and the answer. What both the Flask routes and the fast path say."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import msgspec

from emostream.http.messages import Answer, refusal, retry
from emostream.ingest.admission import Gate, TooMany
from emostream.ingest.producer import BoundedProducer, BufferFull, Receipt
from emostream.metrics.counters import Metrics
from emostream.records import Event, InvalidRecord, encode, normalised, parse_merged_request, parse_request, split_batch
from emostream.settings import Settings

OF_TAPS = ("invalid", "rate", "full", "busy")  # why they are refused
# With ACK=broker somebody waits for the broker's answer.
ACK_SECONDS = 10.0
NDJSON = "application/x-ndjson"
OPENAPI = (Path(__file__).parent / "openapi.json").read_bytes()


TAKEN = Answer(200, msgspec.json.encode({"status": "success", "message": "Emoji sent to Kafka"}))
LIVE = Answer(200, b'{"status":"live"}')
READY = Answer(200, b'{"status":"ready"}')
NOT_READY = retry(503, "not ready: the broker takes no events")
UNACKNOWLEDGED = retry(
    503, f"unknown whether it counts: the broker has not acknowledged the event in {ACK_SECONDS:g} s"
)


class Intake:
    """Takes taps, one or many at a time, for one producer."""

    def __init__(self, settings: Settings, producer: BoundedProducer, counters: Metrics) -> None:
        self.gate = Gate(settings)
        self.counters = counters
        self.broker_away = False
        self._producer = producer
        self.waits = settings.ack == "broker"
        self._spellings = {normalised(emoji): emoji for emoji in settings.allowed_emojis}
        self._choice = " ".join(settings.allowed_emojis)

    def ready(self) -> Answer:
        """Whether events that are taken now will go out soon."""
        return NOT_READY if self.broker_away else READY

    def received(self) -> int:
        """Taps that came. A request that was refused unread is one; what is no tap, such as a wrong path, is none."""
        counts = self.counters.snapshot()
        return sum(counts.get(fate, 0) for fate in ("accepted", *(f"refused_{reason}" for reason in OF_TAPS)))

    def tap(self, body: bytes, address: str) -> tuple[Answer, Future[None] | None]:
        """The answer to POST /send-emoji; where it comes with a future, it holds once that is done."""
        receipt = Receipt() if self.waits else None
        taken = self._take(body, parse_request, address, receipt)
        if not isinstance(taken, int):
            return taken, None
        self.counters.add("accepted", taken)
        return TAKEN, receipt.closed() if receipt else None

    def batch(self, body: bytes, lines: bool, address: str) -> tuple[Answer, Future[None] | None]:
        """The answer to POST /send-emojis, of which the good events are taken and the others named."""
        try:
            parts = split_batch(body, lines)
        except InvalidRecord as error:
            self.counters.add("refused_invalid")
            return refusal(400, str(error)), None
        receipt = Receipt() if self.waits else None
        refused: list[tuple[int, Answer]] = []
        taps = 0
        for index, part in enumerate(parts):
            taken = self._take(part, parse_merged_request, address, receipt)
            if isinstance(taken, int):
                taps += taken
            else:
                refused.append((index, taken))
        accepted = len(parts) - len(refused)
        self.counters.add("accepted", taps)
        done = receipt.closed() if receipt else None
        rejected = [{"index": index, "error": refusal.error} for index, refusal in refused]
        if accepted:
            shown = {"status": "success", "accepted": accepted, "rejected": rejected}
            return Answer(200, msgspec.json.encode(shown)), done
        # None was good: as the first that may become so, else as the first.
        worst = max((refusal for _, refusal in refused), key=lambda refusal: refusal.status)
        shown = {"error": f"expected at least one good event, got {len(parts)} bad", "rejected": rejected}
        return Answer(worst.status, msgspec.json.encode(shown), worst.headers), None

    def _take(
        self, data: bytes, parse: Callable[[bytes], Event], address: str, receipt: Receipt | None
    ) -> int | Answer:
        """Hand one event to the producer and return how many taps it stands for, or say why not."""
        try:
            event = parse(data)
            if self._spellings:
                event = self._spelled(event)
            if self.gate.limited:
                self.gate.take_address(address, event.count)
                self.gate.take_user(event)
            self._producer.send(encode(event), receipt)
        except InvalidRecord as error:
            self.counters.add("refused_invalid")
            return refusal(400, str(error))
        except TooMany as error:
            self.counters.add("refused_rate")
            return retry(429, str(error), error.retry_after_seconds)
        except BufferFull as error:
            self.counters.add("refused_full")
            return retry(503, f"try again: {error}")
        return event.count

    def _spelled(self, event: Event) -> Event:
        spelling = self._spellings.get(normalised(event.emoji))
        if spelling is None:
            raise InvalidRecord(f"emoji_type: expected one of {self._choice}, got {event.emoji}")
        return msgspec.structs.replace(event, emoji=spelling)
