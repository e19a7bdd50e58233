"""supervisord, except that it starts an ended process again within 0.2 seconds. supervisor.py starts it.

usage: python -m emostream.operate.supervisord DIRECTORY [options of supervisord]
"""

from __future__ import annotations

import os
import sys

from supervisor import poller, supervisord

# supervisord itself waits a second. It sees in one turn of its loop that a process has ended, and starts it in the
# next, so nobody would do the work for up to two seconds. A turn costs 0.2 ms.
LOOP_SECONDS = 0.1


class QuickPoller(poller.Poller):  # type: ignore[misc]
    """Waits for the output of processes, but not for long."""

    def poll(self, timeout: float) -> tuple[list[int], list[int]]:
        """Return the file descriptors that can be read, and those that can be written."""
        found: tuple[list[int], list[int]] = super().poll(min(timeout, LOOP_SECONDS))
        return found


def main() -> None:
    """Run as the command supervisord does."""
    poller.Poller = QuickPoller
    supervisord.main()


if __name__ == "__main__":
    os.chdir(sys.argv.pop(1))  # paths in the configuration are relative to it
    main()
