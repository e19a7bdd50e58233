"""Request body → records for the producer, and the answer. Takes one tap, or a batch of them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from emostream.http.messages import Answer, json_answer, refusal
from emostream.ingest import refusals
from emostream.ingest.admission import Admission, NotAdmitted
from emostream.ingest.producer import BoundedProducer, BufferFull
from emostream.ingest.receipts import Receipt, Receipts
from emostream.metrics.counters import Metrics
from emostream.records import Event, InvalidRecord, encode, normalised, parse_merged_request, parse_request, split_batch
from emostream.settings import Settings

REASONS = ("invalid", "rate", "full", "busy")  # why taps are refused
ACCEPTED = json_answer(200, {"status": "success", "message": "Emoji sent to Kafka"})
# The answer, and with ACK=broker the receipt that it must wait for.
Outcome = tuple[Answer, Receipt | None]


class RoomNotOpen(Exception):
    """The room with this name is not in ROOMS."""


class TapHandler:
    """Gives taps to the producer, if they are valid and admitted."""

    def __init__(self, settings: Settings, producer: BoundedProducer, admission: Admission, counters: Metrics) -> None:
        self.receipts = Receipts() if settings.ack == "broker" else None
        self._producer = producer
        self._admission = admission
        self._counters = counters
        self._allowed = settings.allowed_emojis
        self._rooms = dict.fromkeys(settings.open_rooms)
        self._spellings = {normalised(emoji): emoji for emoji in settings.allowed_emojis}

    def received(self) -> int:
        """Return how many taps came. A request that was refused because the server was busy counts as one."""
        counts = self._counters.snapshot()
        return sum(counts.get(fate, 0) for fate in ("accepted", *(f"refused_{reason}" for reason in REASONS)))

    def one(self, body: bytes, room: str, address: str) -> Outcome:
        """Take one tap. `room` is its room if it names none."""
        receipt = self.receipts.new() if self.receipts else None
        taken = self._take(body, parse_request, room, address, receipt)
        if not isinstance(taken, int):
            return taken, None
        self._counters.add("accepted", taken)
        return ACCEPTED, receipt

    def batch(self, body: bytes, lines: bool, room: str, address: str) -> Outcome:
        """Take the good events of a batch, and list the others. `lines`: the batch has one event a line.

        `room` is the room of those that name none.
        """
        try:
            parts = split_batch(body, lines)
        except InvalidRecord as error:
            self._counters.add("refused_invalid")
            return refusal(400, str(error)), None
        receipt = self.receipts.new() if self.receipts else None
        taken = [self._take(part, parse_merged_request, room, address, receipt) for part in parts]
        refused = [(index, answer) for index, answer in enumerate(taken) if isinstance(answer, Answer)]
        accepted = len(parts) - len(refused)
        if not accepted:
            return refusals.no_good_event(refused), None
        self._counters.add("accepted", sum(taps for taps in taken if isinstance(taps, int)))
        shown = {"status": "success", "accepted": accepted, "rejected": refusals.rejected(refused)}
        return json_answer(200, shown), receipt

    def _take(
        self, data: bytes, parse: Callable[[bytes, str], Event], room: str, address: str, receipt: Receipt | None
    ) -> int | Answer:
        """Give one event to the producer. Return how many taps it stands for, or a refusal."""
        try:
            event = parse(data, room)
            if self._rooms and event.room and event.room not in self._rooms:
                raise RoomNotOpen(event.room)
            if self._spellings:
                event = self._spelled(event)
            if self._admission.limited:
                self._admission.count(event, address)
            self._producer.send(encode(event), receipt)
            return event.count
        except InvalidRecord as error:
            reason, answer = "invalid", refusal(400, str(error))
        except RoomNotOpen as error:
            reason, answer = "invalid", refusals.room_not_open(self._rooms, str(error))
        except NotAdmitted as error:
            reason, answer = "rate", error.answer
        except BufferFull as error:
            reason, answer = "full", refusals.buffer_full(error)
        self._counters.add(f"refused_{reason}")
        return answer

    def _spelled(self, event: Event) -> Event:
        """Spell the event's emoji as EMOJIS spells it. Raises InvalidRecord if it is not there."""
        spelling = self._spellings.get(normalised(event.emoji))
        if spelling is None:
            raise InvalidRecord(refusals.emoji_not_allowed(self._allowed, event.emoji))
        return msgspec.structs.replace(event, emoji=spelling)
