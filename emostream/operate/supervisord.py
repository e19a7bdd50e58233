"""supervisord, except that what has ended is started again at once. What supervise.py starts.

It looks at its children once a second, and starts what it then finds ended a turn later: up to two seconds in which
nobody does the work. Here the signal of a child's end is something to read for its loop, and both are one turn.
"""

from __future__ import annotations

import os
import signal

from supervisor import supervisord


class ChildrenEnded:
    """What supervisord's loop reads when a child has ended."""

    def __init__(self) -> None:
        self.fd, writer = os.pipe()
        for end in (self.fd, writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def readable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
        """Never."""
        return False

    def handle_read_event(self) -> None:
        """Nothing to be done: that it is awake is enough."""
        os.read(self.fd, 4096)


class PromptSupervisor(supervisord.Supervisor):  # type: ignore[misc]
    """A Supervisor whose loop wakes up when a child ends."""

    def runforever(self) -> None:
        """Watch until told to end."""
        self._ended = ChildrenEnded()
        super().runforever()

    def get_process_map(self) -> dict[int, object]:
        """What the loop reads of its children, by file descriptor."""
        return {**super().get_process_map(), self._ended.fd: self._ended}

    def reap(self, once: bool = False, recursionguard: int = 0) -> None:
        """Note which children have ended, and start again those that should not have."""
        super().reap(once, recursionguard)
        if not recursionguard:
            for group in self.process_groups.values():
                group.transition()


def main() -> None:
    """As the command supervisord."""
    supervisord.Supervisor = PromptSupervisor
    supervisord.main()


if __name__ == "__main__":
    main()
