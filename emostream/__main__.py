"""The command `emostream` → a command of an operator, or one process in this terminal."""

from __future__ import annotations

import sys
from functools import partial
from pkgutil import resolve_name

from emostream import __version__
from emostream.process import EXIT_BAD_SETTING, run_script, show
from emostream.settings import START_COMMAND

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
  create-topics      create the topics that are missing; those that are there stay as they are
  health             exit 0 if every process that runs with this DATA_DIR is ready; the image's HEALTHCHECK
  plan               print how many cores and hosts a crowd takes; emostream plan --help shows its options

  app                ingest: POST /send-emoji → EMOJI_TOPIC
  main-publisher     aggregate: EMOJI_TOPIC → one count per emoji per micro-batch on MAIN_TOPIC
  cluster-publisher  route: MAIN_TOPIC → CLUSTER_TOPIC
  subscriber         deliver: CLUSTER_TOPIC → the clients of SUBSCRIBER
  client             receive: print what a subscriber sends; emostream client --help shows its options

  --brokers N        run 1 (default) or 3 Kafka brokers on this machine, or 0 to use those that
                     KAFKA_BOOTSTRAP_SERVERS names
  --only NAMES       up starts only these, for example app,subscriber_2 (all subscribers of cluster 2)
  --version          print the version
  KEY=VALUE          a setting, stronger than the environment and .env, for example APP_PORT=8080
"""
COMMANDS = ("up", "down", "status", "logs", "run", "setup", "kafka")
# Only the one that runs is imported, because Spark alone takes a second.
PROCESSES = {
    "app": "emostream.ingest.workers:serve",
    "main-publisher": "emostream.aggregate.run:run",
    "cluster-publisher": "emostream.route:run",
    "subscriber": "emostream.deliver.subscriber:run",
    "topics": "emostream.topics:replace_topics",
    "create-topics": "emostream.topics:create_missing_topics",
    "health": "emostream.operate.health:health",
}


def main() -> int:
    """Run the command. Return its exit status, or end the process with it."""
    first, others = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if first == "client":
        resolve_name("emostream.receive.client:run_client")("emostream client", others)
    if first == "plan":
        return show(resolve_name("emostream.operate.plan:answer")(others))
    if first in PROCESSES:
        stage = resolve_name(PROCESSES[first])
        run_script(
            f"usage: emostream {first} [KEY=VALUE ...]\n\n{sys.modules[stage.__module__].__doc__}", stage, others
        )
    if {"-h", "--help"} & set(sys.argv):
        return show(USAGE)
    words, settings, only = list[str](), list[str](), ""
    left = iter(sys.argv[1:])
    for argument in left:
        if argument == "--brokers":
            settings.append(f"BROKERS={next(left, '')}")
        elif argument == "--only":
            only = next(left, "")
        else:
            (settings if "=" in argument else words).append(argument)
    if words == ["--version"]:
        return show(f"emostream {__version__}")
    command, *names = words or [""]
    if command not in COMMANDS or len(names) > (command == "logs") or (only and command != "up"):
        print(USAGE.strip(), file=sys.stderr)
        return EXIT_BAD_SETTING
    given = {"name": names[0]} if names else {"only": only} if only else {}
    run = partial(resolve_name(f"emostream.operate.commands:{command}"), **given)
    try:
        run_script(USAGE, run, settings)
    except KeyboardInterrupt:
        print(f"interrupted; {START_COMMAND} status shows what still runs", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
