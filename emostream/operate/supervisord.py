"""supervisord, except that a process that has ended is started again at once. supervisor.py starts it.

supervisord looks at its children once a second, and starts an ended one a turn of its loop later: up to two seconds in
which nobody does the work. Here the signal of a child's end wakes the loop up, and one turn does both.

usage: python -m emostream.operate.supervisord DIRECTORY [options of supervisord]
"""

from __future__ import annotations

import os
import signal
import sys

from supervisor import supervisord


class ChildrenEnded:
    """A pipe that supervisord's loop reads; the signal of a child's end writes to it."""

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
        """Empty the pipe. All that matters is that the loop is awake."""
        os.read(self.fd, 4096)


class PromptSupervisor(supervisord.Supervisor):  # type: ignore[misc]
    """A Supervisor whose loop wakes up when a child ends."""

    def runforever(self) -> None:
        """Watch the processes until told to end."""
        self._ended = ChildrenEnded()
        super().runforever()

    def get_process_map(self) -> dict[int, object]:
        """Return what the loop reads, by file descriptor."""
        return {**super().get_process_map(), self._ended.fd: self._ended}

    def reap(self, once: bool = False, recursionguard: int = 0) -> None:
        """Note which children have ended, and start again those that should run."""
        super().reap(once, recursionguard)
        if not recursionguard:
            for group in self.process_groups.values():
                group.transition()


def main() -> None:
    """Run as the command supervisord does, with our class in place of its own."""
    supervisord.Supervisor = PromptSupervisor
    supervisord.main()


if __name__ == "__main__":
    os.chdir(sys.argv.pop(1))  # paths in the configuration are relative to it
    main()
