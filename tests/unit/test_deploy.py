"""What EmoStream is deployed with: Dockerfile, compose.yaml, the Helm chart and the systemd units. Nothing is run.

tests/hosts/deploy.sh builds the image, runs it, and lets Helm and Kubernetes' schemas judge the chart.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from emostream import __version__
from emostream.__main__ import PROCESSES
from emostream.settings import NAMES, SECRETS
from testkit.settings import PROJECT_DIR

CHART = PROJECT_DIR / "deploy" / "helm" / "emostream"
TEMPLATES = {path.name: path.read_text() for path in sorted((CHART / "templates").iterdir())}
UNITS = {path.name: path.read_text() for path in sorted((PROJECT_DIR / "deploy" / "systemd").glob("*.service"))}
DOCKERFILE = (PROJECT_DIR / "Dockerfile").read_text()
ROLES = ("app", "main-publisher", "cluster-publisher", "subscriber")
# Variables in capitals that are no settings of ours: Kubernetes', Spark's, and those of a system.
OTHERS = {"SPARK_CONF_DIR", "HOSTNAME", "PATH", "LC_ALL"}


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = parsed(PROJECT_DIR / "compose.yaml")
    return found


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    found: dict[str, Any] = parsed(CHART / "values.yaml")
    return found


def refusals(values: dict[str, Any], name: str, value: object) -> list[str]:
    """What the schema says to these values if the one at `name` is another."""
    changed = json.loads(json.dumps(values))
    *folders, last = name.split(".")
    place = changed
    for folder in folders:
        place = place[folder]
    place[last] = value
    schema = json.loads((CHART / "values.schema.json").read_text())
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(changed)]


def test_versions_are_the_packages(compose: dict[str, Any]) -> None:
    chart = parsed(CHART / "Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    images = {service["image"] for name, service in compose["services"].items() if name != "kafka"}
    assert images == {f"emostream:{__version__}"}


def test_kafka_in_compose_is_the_version_that_start_sh_runs(compose: dict[str, Any]) -> None:
    [version] = re.findall(r'name="kafka_2\.13" rev="([\d.]+)"', (PROJECT_DIR / "config" / "ivy.xml").read_text())
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{version}"


def test_kafka_in_compose_has_the_values_of_our_own_brokers(compose: dict[str, Any]) -> None:
    given = compose["services"]["kafka"]["environment"]
    lines = (PROJECT_DIR / "config" / "kafka.properties").read_text().splitlines()
    ours = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    for name in ("offsets.retention.minutes", "log.retention.ms", "transaction.max.timeout.ms",
                 "auto.create.topics.enable", "log.segment.bytes"):  # fmt: skip
        assert given[f"KAFKA_{name.upper().replace('.', '_')}"] == ours[name]


def test_every_name_in_capitals_is_a_setting(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name != "kafka":
            assert set(service["environment"]) <= set(NAMES), name
    docker = re.findall(r"\b([A-Z][A-Z_]+)=", DOCKERFILE)
    assert set(docker) <= {*NAMES, *OTHERS, "BASE", "CMD", "DEBIAN_FRONTEND"}
    chart = re.findall(r'(?:\{name: |set \$env "|^  ")([A-Z][A-Z_]+)[",]', "\n".join(TEMPLATES.values()), re.MULTILINE)
    assert len(chart) > 10
    assert set(chart) <= {*NAMES, *OTHERS}
    for name, unit in UNITS.items():
        assert set(re.findall(r"\b([A-Z][A-Z_]{3,})=", unit)) <= set(NAMES), name
    assert set(parsed(PROJECT_DIR / "tests" / "hosts" / "values.yaml")["settings"]) <= set(NAMES)


def test_every_role_is_started_everywhere(compose: dict[str, Any]) -> None:
    assert {*ROLES, "create-topics", "health"} <= set(PROCESSES)
    commands = [service["command"][0] for name, service in compose["services"].items() if name != "kafka"]
    of_each_cluster = ["cluster-publisher", "subscriber"]
    assert sorted(commands) == sorted(["create-topics", "app", "main-publisher", *of_each_cluster * 3])
    assert {re.sub(r"^emostream-|@?\.service$", "", name) for name in UNITS} == set(ROLES)
    in_chart = re.findall(r"args: \[([\w-]+)\]", "\n".join(TEMPLATES.values()))
    assert sorted(in_chart) == sorted([*ROLES, "create-topics"])


def test_each_service_of_compose_has_a_read_only_root_and_no_capabilities(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name != "kafka":
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["tmpfs"] == ["/tmp", "/data/run", "/data/spark:exec"], name  # noqa: S108


def test_each_subscriber_of_compose_is_where_it_says(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name.startswith("subscriber"):
            environment = service["environment"]
            cluster = environment["CLUSTER_TOPIC"].removeprefix("cluster")[0]
            url = environment["ADVERTISED_URL"].format(cluster=cluster, subscriber=environment["SUBSCRIBER"])
            assert url == f"http://{name}:{environment['SUBSCRIBER_PORT']}"
            assert service["hostname"] == name
            stream_port = 7100 + 10 * (int(cluster) - 1) + int(environment["SUBSCRIBER"])
            assert service["ports"] == [f"${{PUBLISH_ON:-127.0.0.1}}:{stream_port}:{stream_port}"]


@pytest.mark.parametrize("template", ["main-publisher.yaml", "cluster-publishers.yaml"])
def test_a_publisher_is_alone_and_ends_before_the_next_begins(template: str) -> None:
    assert re.findall(r"^ +replicas: (.*)$", TEMPLATES[template], re.MULTILINE) == ["1"]
    assert "strategy: {type: Recreate}" in TEMPLATES[template]
    assert "HorizontalPodAutoscaler" not in TEMPLATES[template]


def test_pods_do_not_get_variables_that_look_like_settings() -> None:
    assert "enableServiceLinks: false" in TEMPLATES["_helpers.tpl"]


def test_the_schema_takes_the_values(values: dict[str, Any]) -> None:
    assert refusals(values, "clusters", values["clusters"]) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mainPublisher.replicas", 2), ("clusterPublisher.replicas", 2), ("app.replicas", 0), ("clusters", 0),
        ("image.pullPolicy", "sometimes"), ("nonsense", 1), ("ingress.streamHost", "streams.example.org"),
        ("settings", {"batch_seconds": "1"}), ("spark.master", "yarn"),
        *(("settings", {secret: "x"}) for secret in SECRETS),
    ],
)  # fmt: skip
def test_the_schema_refuses(values: dict[str, Any], name: str, value: object) -> None:
    assert refusals(values, name, value)


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_started_again_but_not_after_a_wrong_setting(name: str) -> None:
    lines = UNITS[name].splitlines()
    assert {"Restart=always", "RestartPreventExitStatus=2", "User=emostream", "WantedBy=emostream.target"} <= set(lines)


def test_a_unit_runs_what_the_page_installs() -> None:
    page = (PROJECT_DIR / "docs" / "deploy.md").read_text()
    assert "python3 -m venv /opt/emostream" in page
    assert all("/opt/emostream/bin/emostream" in unit for unit in UNITS.values())


def test_the_image_is_an_ordinary_users_and_has_no_brokers() -> None:
    lines = DOCKERFILE.splitlines()
    assert "USER 10001:10001" in lines
    assert 'ENTRYPOINT ["tini", "--", "emostream"]' in lines
    assert any(line.endswith('CMD ["emostream", "health"]') and line.startswith("HEALTHCHECK") for line in lines)
    assert "runAsUser: 10001" in TEMPLATES["_helpers.tpl"]
