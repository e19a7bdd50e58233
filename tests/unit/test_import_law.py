"""Who may import whom, in the package and outside of it. The files are read, not run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from testkit.settings import PROJECT_DIR

PACKAGE = PROJECT_DIR / "emostream"
STAGES = {"ingest", "aggregate", "route", "deliver", "receive"}
GROUND = {
    "settings", "roles", "records", "broker", "kafka_security", "broker_trouble", "consumers", "announcements",
    "topics", "process",
}  # fmt: skip
BELOW = GROUND | {"http", "metrics"}
# A room is a folder or a file of emostream/. Inside a folder, files import each other freely, but never in a circle.
MAY_IMPORT = {
    "setting_types": set(),
    "settings": {"setting_types"},
    "kafka_security": {"settings"},
    "broker_trouble": {"settings", "kafka_security"},
    "roles": {"settings", "setting_types"},
    "records": set(),
    "process": {"settings", "kafka_security"},
    "broker": {"settings", "kafka_security", "process", "metrics"},
    "consumers": {"settings", "process", "metrics", "broker"},
    "announcements": {"settings", "roles", "process", "consumers"},
    "topics": {"settings", "roles", "process", "broker", "broker_trouble", "consumers"},
    "http": GROUND | {"metrics"},
    "metrics": {"settings", "process"},
    "discovery": BELOW,
    "web": BELOW | {"discovery"},
    "operate": BELOW | {"discovery"},
    "ingest": BELOW | {"discovery", "web", "operate"},  # the app serves the pages and the dashboard too
    "aggregate": BELOW,
    "route": BELOW,
    "deliver": BELOW,
    "receive": BELOW | {"discovery"},
    "__main__": GROUND | STAGES | {"operate"},  # the command emostream, which wires as the root scripts do
}
LIBRARY_ROOMS = {
    "pyspark": {"aggregate"},
    "confluent_kafka": {"broker", "broker_trouble", "ingest", "operate"},
    "supervisor": {"operate"},
    "uvloop": {"ingest", "deliver"},
    "prometheus_client": {"metrics", "operate"},
    "flask": {"ingest", "web", "operate", "deliver", "receive"},
}
KAFKA_CLIENTS = {"KafkaConsumer", "KafkaProducer", "KafkaAdminClient", "Consumer", "Producer"}
BUILDS_KAFKA_CLIENTS = {"broker", "ingest.producer"}
# A stage that holds a client which broker built needs its type, and the values that its methods take.
KAFKA_VALUES = {"TopicPartition", "OffsetAndMetadata", "ConsumerRecord", "NewTopic", "ConfigResource"}
# JAVA_HOME and SPARK_LOCAL_IP are no settings of ours.
READS_ENVIRONMENT = {"settings", "aggregate.spark", "operate.java"}

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.stem != "__init__"
}
# Outside the package: tests and benchmarks stand on testkit, and not on each other.
FOLDERS = {"testkit": {"testkit"}, "benchmarks": {"testkit", "benchmarks"}, "tests": {"testkit", "tests"}}
FILES = [path.relative_to(PROJECT_DIR) for folder in FOLDERS for path in sorted((PROJECT_DIR / folder).rglob("*.py"))]
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
    """The modules of emostream that are imported, as they are named in MODULES."""
    found = set()
    for name in imports(tree):
        if name.startswith("emostream."):
            inner = name.removeprefix("emostream.")
            found.add(inner if inner in MODULES else inner.rpartition(".")[0])
    return found - {""}  # the package itself, which holds the version


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_its_row_in_the_table() -> None:
    assert {room(module) for module in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_rooms_beneath_its_own(module: str) -> None:
    others = {room(name) for name in ours(MODULES[module])} - {room(module)}
    assert others <= MAY_IMPORT[room(module)]


def test_no_module_imports_itself_in_a_circle() -> None:
    left = {module: ours(tree) - {module} for module, tree in MODULES.items()}
    while free := {module for module, needs in left.items() if not needs & set(left)}:
        left = {module: needs for module, needs in left.items() if module not in free}
    assert not left, f"these import each other in a circle: {sorted(left)}"


@pytest.mark.parametrize("library", LIBRARY_ROOMS)
def test_a_library_stays_in_its_rooms(library: str) -> None:
    users = {room(m) for m, tree in MODULES.items() if library in {name.split(".")[0] for name in imports(tree)}}
    assert users == LIBRARY_ROOMS[library]


@pytest.mark.parametrize("module", sorted(set(MODULES) - BUILDS_KAFKA_CLIENTS))
def test_kafka_clients_are_built_in_two_places_only(module: str) -> None:
    called = {ast.unparse(node.func).split(".")[-1] for node in ast.walk(MODULES[module]) if isinstance(node, ast.Call)}
    assert not called & KAFKA_CLIENTS


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"broker"}))
def test_other_modules_know_only_types_and_errors_of_kafka(module: str) -> None:
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
    used = {room(module) for module in ours(SCRIPTS[script])}
    assert len(used & STAGES) == 1
    assert used - STAGES <= {"process"}


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_longer_than_a_reader_can_hold(module: str) -> None:
    path = PACKAGE / f"{module.replace('.', '/')}.py"
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_outside_the_package_imports_only_from_its_own_folder_and_testkit(file: Path) -> None:
    tree = ast.parse((PROJECT_DIR / file).read_text())
    allowed = FOLDERS[file.parts[0]] | ({"benchmarks"} if file.name == "test_benchmarks.py" else set())
    assert {name.partition(".")[0] for name in imports(tree)} & set(FOLDERS) <= allowed
    # The path that modules are found on stays as it is.
    assert "sys.path" not in {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_no_class_name_stands_twice() -> None:
    names = [
        node.name
        for tree in MODULES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert sorted({name for name in names if names.count(name) > 1}) == []
