"""The command `emostream`: operate the system, or run one of its processes in this terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable

from emostream import __version__
from emostream.process import EXIT_BAD_SETTING, run_script
from emostream.settings import Settings

USAGE = """
usage: emostream COMMAND [--brokers N] [KEY=VALUE ...]

  up                 start every process in the background; returns when each is ready
  down               stop every process, in the order of the data
  status             state, readiness, pid, uptime and restarts of each process; exit 0 when all are ready
  logs [NAME]        follow the log of one process, or of all
  run                start every process, run the client in this terminal, stop what this call has started
  setup              only fetch the Kafka broker and Spark's Kafka connector
  kafka              start only the broker, for processes started by hand
  topics             create every topic; those that are there are replaced by empty ones

  app                ingest: POST /send-emoji → EMOJI_TOPIC
  main-publisher     aggregate: EMOJI_TOPIC → one count per emoji per micro-batch on MAIN_TOPIC
  cluster-publisher  route: MAIN_TOPIC → CLUSTER_TOPIC
  subscriber         deliver: CLUSTER_TOPIC → the clients of SUBSCRIBER
  client             receive: print what a subscriber sends; emostream client --help shows its options

  --brokers N        run 1 (default) or 3 Kafka brokers on this machine, or 0 to use those that
                     KAFKA_BOOTSTRAP_SERVERS names
  --version          print the version
  KEY=VALUE          a setting, stronger than the environment and .env, for example APP_PORT=8080
"""


def main() -> int:
    """Entry point of the command; returns its exit status."""
    first, others = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if first == "client":
        from emostream.receive.client import run_client

        run_client("emostream client", others)
    if stage := find_stage(first):
        about = sys.modules[stage.__module__].__doc__ or ""
        run_script(f"usage: emostream {first} [KEY=VALUE ...]\n\n{about}", stage, others)
    return operate(sys.argv[1:])


def find_stage(process: str) -> Callable[[Settings], int] | None:
    """Return what the process of this name runs. Imports only that: Spark alone takes a second."""
    if process == "app":
        from emostream.ingest.workers import serve

        return serve
    if process == "main-publisher":
        from emostream.aggregate import run

        return run.run
    if process == "cluster-publisher":
        from emostream import route

        return route.run
    if process == "subscriber":
        from emostream.deliver import subscriber

        return subscriber.run
    if process == "topics":
        from emostream.topics import replace_topics

        return replace_topics
    return None


def operate(arguments: list[str]) -> int:
    """Do a command of an operator; returns the exit status."""
    words, settings = [], []
    left = iter(arguments)
    for argument in left:
        if argument == "--brokers":
            settings.append(f"BROKERS={next(left, '')}")
        elif "=" in argument:
            settings.append(argument)
        else:
            words.append(argument)
    if "--help" in words or "-h" in words:
        print(USAGE.strip())
        return 0
    if words == ["--version"]:
        print(f"emostream {__version__}")
        return 0
    from emostream.operate import commands

    command, *names = words or [""]
    if command not in commands.COMMANDS or len(names) > (command == "logs"):
        print(USAGE.strip(), file=sys.stderr)
        return EXIT_BAD_SETTING
    return commands.operate(command, settings, *names)


if __name__ == "__main__":
    sys.exit(main())
