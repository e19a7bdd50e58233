"""HTTP → EMOJI_TOPIC: the main process of the app. It starts the workers, and replaces one that ends."""

from __future__ import annotations

import os
import shutil
from functools import partial
from multiprocessing import get_context

from emostream.ingest.worker import metrics_path, work
from emostream.process import Log, bound_socket, stop_on_signals
from emostream.settings import Settings
from emostream.topics import wait_for_topics

ORPHAN_SECONDS = 3.0  # until a worker notices that its main process is gone
RESPAWN_SECONDS = 0.5


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. All accepted events are sent before the process ends."""
    log = Log("ingest")
    stop = stop_on_signals()
    if not wait_for_topics(settings, [settings.emoji_topic], stop, log):
        return 0
    # Workers share their port, even with another app that listens on it already. This test notices such an app. It
    # waits for workers whose main process was killed, because they hold the port until they have drained.
    bound_socket(settings.bind_host, settings.app_port, "APP_PORT", settings.drain_seconds + ORPHAN_SECONDS).close()
    shutil.rmtree(metrics_path(settings), ignore_errors=True)  # the counts of an earlier app
    # A forked worker is there in a moment. What cannot be shared, such as a producer, it makes itself.
    new_worker = partial(get_context("fork").Process, target=work, args=(settings, os.getpid(), stop))
    workers = [new_worker() for _ in range(settings.app_workers)]
    for worker in workers:
        worker.start()
    log.info("listening", address=settings.bind_host, port=settings.app_port, workers=settings.app_workers)
    while not stop.wait(RESPAWN_SECONDS):
        for number, worker in enumerate(workers):
            if not worker.is_alive():
                log.error("a worker has ended; a new one is started", pid=worker.pid, exit_status=worker.exitcode)
                workers[number] = new_worker()
                workers[number].start()
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()
    log.info("stopped")
    return 0
