"""The table of processes → the configuration of supervisord (supervisord.org).

Supervisor expands %(ENV_...)s itself, from the environment that supervisor.py gives it: so a path may hold any
character, also one that means something in this format.
"""

from __future__ import annotations

from emostream.roles import STOP_ORDER, Role, roles
from emostream.settings import Settings

HEAD = """\
[unix_http_server]
file=%(ENV_DATA_DIR)s/run/supervisor.sock
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisord]
logfile=%(ENV_DATA_DIR)s/log/supervisord.log
pidfile=%(ENV_DATA_DIR)s/run/supervisord.pid
childlogdir=%(ENV_DATA_DIR)s/log
directory=%(ENV_DIRECTORY)s
"""
GROUP = """
[group:{kind}]
programs={names}
priority={priority}
"""
# A process that exits is started again, after growing pauses if it fails at once, until it has failed ten times in a
# row.
PROGRAM = """
[program:{name}]
command={command}
autostart=false
autorestart={autorestart}
exitcodes=2
startsecs=2
startretries=10
stopwaitsecs={stop_seconds}
killasgroup=true
redirect_stderr=true
stdout_logfile=%(ENV_DATA_DIR)s/log/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""
BROKER = (
    '"%(ENV_JAVA)s" -Xms128m -Xmx512m -XX:+UseG1GC -XX:-UsePerfData'
    ' "-Dlog4j2.configurationFile=%(ENV_CONFIG_DIR)s/kafka-log4j2.properties"'
    ' -cp "%(ENV_DATA_DIR)s/jars/broker/*" kafka.Kafka "%(ENV_DATA_DIR)s/kafka/broker_{number}.properties"'
)
BROKER_STOP_SECONDS = 30


def supervisord_conf(settings: Settings) -> str:
    """Return the text of supervisord's configuration file."""
    table = roles(settings)
    kinds = [kind for kind in STOP_ORDER if any(role.kind == kind for role in table)]
    groups = [
        # Supervisor stops what has the highest priority first, when it is told to end by a signal.
        GROUP.format(kind=kind, names=",".join(role.name for role in table if role.kind == kind), priority=priority)
        for priority, kind in zip(range(len(kinds), 0, -1), kinds, strict=True)
    ]
    return HEAD + "".join(groups) + "".join(_program(role, settings) for role in table)


def _program(role: Role, settings: Settings) -> str:
    if role.kind == "kafka":
        command, autorestart, stop_seconds = BROKER.format(number=role.number), "true", BROKER_STOP_SECONDS
    else:
        command = " ".join(('"%(ENV_PYTHON)s" -m emostream', *role.arguments))
        # Not after exit status 2, which means a setting that cannot be used. But after 3: a process that was held up
        # for longer than a transaction may take cannot tell that from being replaced.
        autorestart = "unexpected"
        # Longer than DRAIN_SECONDS, so that what a process has accepted goes out first.
        stop_seconds = round(settings.drain_seconds + settings.batch_seconds + 15)
    return PROGRAM.format(name=role.name, command=command, autorestart=autorestart, stop_seconds=stop_seconds)
