"""Who may import whom. The package is read, not run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.harness import PROJECT_DIR

FOUNDATION = {"settings", "records", "broker", "topics", "runtime", "metrics", "meters"}
STAGES = {"ingest", "aggregate", "route", "deliver", "receive"}
# What each module may import of the package.
MAY_IMPORT = dict.fromkeys(STAGES, FOUNDATION) | {
    "__init__": set(),
    "settings": set(),
    "records": set(),
    "runtime": {"settings"},
    "metrics": set(),
    "meters": {"metrics", "runtime"},
    "broker": {"settings", "runtime", "meters"},
    "topics": {"settings", "runtime", "broker"},
    # Ingest is one stage in several rooms: its processes, their connections, the Flask app, the way around it, what
    # both say, who may send, what one looks at.
    "ingest": FOUNDATION | {"worker"},
    "worker": FOUNDATION
    | {"connections", "fastpath", "ingest_http", "intake", "bounded_producer"}
    | {"pages", "directory", "supervise", "dashboard"},
    "connections": FOUNDATION | {"intake"},
    "ingest_http": FOUNDATION | {"intake", "gate", "dashboard"},
    "fastpath": FOUNDATION | {"intake", "connections"},
    "intake": FOUNDATION | {"gate", "bounded_producer"},
    "bounded_producer": {"settings", "runtime", "broker"},
    "gate": FOUNDATION | {"cors"},
    "cors": set(),  # of ingest and deliver
    "pages": {"settings", "directory"},
    # What an operator looks at: what every process says now, and what the main topic holds.
    "dashboard": {"settings", "directory", "scrape", "timeline"},
    "scrape": {"settings", "directory", "supervise", "latest"},
    "timeline": {"settings", "records", "broker", "latest"},
    "latest": set(),
    # Which subscribers there are, for clients that ask the app and for those that ask themselves.
    "directory": {"settings"},
    "receive": FOUNDATION | {"directory", "watch"},
    "watch": FOUNDATION | {"directory"},
    # Aggregate is one stage in three rooms.
    "aggregate": FOUNDATION | {"counting", "progress"},
    "progress": FOUNDATION,
    "counting": FOUNDATION,
    # Deliver is one stage in several rooms.
    "deliver": FOUNDATION
    | {"deliver_http", "registry", "follow", "history", "addresses", "push", "push_client", "push_http"}
    | {"batches", "stream", "cors"},
    "deliver_http": FOUNDATION | {"registry", "push_http", "stream_http", "cors"},
    "registry": FOUNDATION,
    "follow": FOUNDATION | {"history"},
    "push": FOUNDATION | {"history", "addresses", "push_client", "push_http", "latency"},
    "push_client": FOUNDATION | {"history", "addresses", "merged", "push_http", "latency"},
    "latency": {"history", "meters", "metrics"},
    "push_http": set(),
    "merged": {"records", "history"},
    "addresses": set(),
    "history": set(),
    "batches": FOUNDATION | {"history", "places"},
    "places": {"history"},
    "stream": FOUNDATION | {"history", "batches", "places", "stream_http", "cors"},
    "stream_http": {"records", "cors"},
    # Starts and watches the processes; no part of the data path.
    "operate": FOUNDATION | {"supervise"},
    "logs": set(),
    "supervise": FOUNDATION,  # the app, too, tells of the processes
    "supervisord": set(),
}
LIBRARY_OWNERS = {
    "pyspark": {"aggregate", "counting", "progress"},
    "flask": {"ingest_http", "fastpath", "pages", "dashboard", "deliver_http", "receive"},
    "uvloop": {"worker", "push"},
    "httptools": {"connections", "stream_http", "push_http"},
    "confluent_kafka": {"broker", "bounded_producer", "timeline"},
    "supervisor": {"supervise", "supervisord"},
    "prometheus_client": {"meters", "scrape"},
}
BUILDS_KAFKA_CLIENTS = {"broker", "bounded_producer"}
KAFKA_CLIENTS = {"KafkaConsumer", "KafkaProducer", "KafkaAdminClient", "Consumer", "Producer"}
# Stages that hold a client which broker built need its type, and the values that its methods take.
KAFKA_VALUES = {"TopicPartition", "OffsetAndMetadata", "ConsumerRecord", "NewTopic"}
# supervise hands the whole environment on to the processes that it starts, and asks for JAVA_HOME.
READS_ENVIRONMENT = {"settings", "supervise"}
MODULES = {path.stem: ast.parse(path.read_text()) for path in sorted((PROJECT_DIR / "emostream").glob("*.py"))}
SCRIPTS = {path.stem: ast.parse(path.read_text()) for path in sorted(PROJECT_DIR.glob("*.py"))}


def imports(tree: ast.Module) -> set[str]:
    """Dotted names of everything that is imported, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(tree: ast.Module) -> set[str]:
    return {name.split(".")[1] for name in imports(tree) if name.startswith("emostream.")}


def test_every_module_has_its_place_in_the_law() -> None:
    assert set(MODULES) == set(MAY_IMPORT)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_lies_beneath_it(module: str) -> None:
    assert ours(MODULES[module]) <= MAY_IMPORT[module]


@pytest.mark.parametrize("library", LIBRARY_OWNERS)
def test_a_library_stays_in_its_rooms(library: str) -> None:
    users = {module for module, tree in MODULES.items() if library in {n.split(".")[0] for n in imports(tree)}}
    assert users == LIBRARY_OWNERS[library]


@pytest.mark.parametrize("module", sorted(set(MODULES) - BUILDS_KAFKA_CLIENTS))
def test_kafka_clients_are_built_in_two_rooms_only(module: str) -> None:
    called = {ast.unparse(node.func).split(".")[-1] for node in ast.walk(MODULES[module]) if isinstance(node, ast.Call)}
    assert not called & KAFKA_CLIENTS


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"broker"}))
def test_of_kafka_other_modules_know_types_and_errors_only(module: str) -> None:
    foreign = {name for name in imports(MODULES[module]) if name.split(".")[0] == "kafka"}
    errors = {name for name in foreign if name.startswith("kafka.errors.")}
    assert {name.split(".")[-1] for name in foreign - errors} <= KAFKA_CLIENTS | KAFKA_VALUES


@pytest.mark.parametrize("module", MODULES)
def test_the_environment_is_read_in_one_place(module: str) -> None:
    reads = {ast.unparse(node) for node in ast.walk(MODULES[module]) if isinstance(node, ast.Attribute)}
    touched = reads & {"os.environ", "os.getenv", "os.environb"} or "dotenv.dotenv_values" in imports(MODULES[module])
    assert not touched or module in READS_ENVIRONMENT


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_root_script_wires_one_stage(script: str) -> None:
    used = ours(SCRIPTS[script])
    assert len(used & STAGES) == 1
    assert used - STAGES == {"runtime"}


def test_no_module_shadows_a_library() -> None:
    assert not {Path(module).stem for module in MODULES} & {"kafka", "flask", "pyspark", "utils"}
