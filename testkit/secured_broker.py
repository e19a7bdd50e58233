"""Real brokers whose only listener for clients wants TLS and a name: by password or by certificate, and with rights."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from emostream.kafka_security import kafka_python_options, librdkafka_options
from emostream.operate.java import java
from emostream.settings import load
from testkit.broker import Broker
from testkit.hosts import Host
from testkit.scripts import running
from testkit.settings import environment_for
from testkit.waiting import wait_until

ADMIN_PASSWORD = "admins-own"  # noqa: S105
USERS_PASSWORD = 'correct "horse" \\ battery=staple, $HOME; %s #1'  # noqa: S105 - what careless quoting breaks
KEY_PASSWORD = "key of a horse"  # noqa: S105 - of every client's private key
FILES = ("crt", "key", "open.key", "csr", "names")
SUBJECT_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"
CLUSTER_ID = "EmoStreamTestClusterAA"

PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=CLIENTS://{address}:{port},CONTROLLER://{address}:{controller}
advertised.listeners=CLIENTS://{advertised}
listener.security.protocol.map=CLIENTS:{protocol},CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENTS
log.dirs={directory}/data-{node}
auto.create.topics.enable=false
default.replication.factor={brokers}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={brokers}
transaction.state.log.replication.factor={brokers}
share.coordinator.state.topic.replication.factor={brokers}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.min.isr={in_sync}
offsets.topic.num.partitions=3
transaction.state.log.num.partitions=3
ssl.keystore.type=PEM
ssl.keystore.location={directory}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={directory}/ca.crt
ssl.principal.mapping.rules=RULE:^CN=([^,]*).*$/$1/
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:admin;User:broker;User:ANONYMOUS
"""
SCRAM = """\
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.clients.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \
username="admin" password="{password}";
"""
MUTUAL = "ssl.client.auth=required\n"


class SecuredBroker(Broker):
    """A broker, and what its administrator does. Users are in `environment` by their settings."""

    def __init__(self, environment: dict[str, str], directory: Path) -> None:
        super().__init__(environment)
        self.directory = directory

    def admin(self) -> KafkaAdminClient:
        """A client of the administrator. Raises KafkaError."""
        settings = load(environ=self.as_user("admin", ADMIN_PASSWORD))
        return KafkaAdminClient(**kafka_python_options(settings), bootstrap_timeout_ms=2_000)

    def as_user(self, name: str, password: str = USERS_PASSWORD) -> dict[str, str]:
        """The environment of a process of ours that has this name at the broker."""
        if self.environment["KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL":
            return self.environment | {"KAFKA_SASL_USERNAME": name, "KAFKA_SASL_PASSWORD": password}
        certificate(self.directory, name)
        files = {"KAFKA_SSL_CERTIFICATE": f"{name}.crt", "KAFKA_SSL_KEY": f"{name}.key"}
        return self.environment | {setting: str(self.directory / file) for setting, file in files.items()}

    def add_user(self, name: str, rights: Iterable[str] = (), password: str = USERS_PASSWORD) -> dict[str, str]:
        """A new user with these rights, each as "READ TOPIC emoji-topic"; the environment of its process."""
        with self.admin() as admin:
            if self.environment["KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL":
                mechanism = ScramMechanism.SCRAM_SHA_512
                admin.alter_user_scram_credentials([UserScramCredentialUpsertion(name, mechanism, password)])
            admin.create_acls([right(name, words) for words in rights])
        return self.as_user(name, password)

    def take_right(self, name: str, words: str) -> None:
        """Take a right away from a user."""
        taken = right(name, words)
        resource = taken.resource_pattern
        pattern = ResourcePatternFilter(resource.resource_type, resource.resource_name, resource.pattern_type)
        with self.admin() as admin:
            admin.delete_acls([ACLFilter(taken.principal, taken.host, taken.operation, taken.permission_type, pattern)])


def right(user: str, words: str) -> ACL:
    """What `kafka-acls --add --allow-principal` makes of a right as in docs/kafka.md."""
    operation, kind, name = words.split()
    pattern = ResourcePattern(ResourceType[kind], name)
    return ACL(f"User:{user}", "*", ACLOperation[operation], ACLPermissionType.ALLOW, pattern)


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def authority(directory: Path, name: str) -> None:
    """A certificate authority: NAME.crt and its key."""
    files = "-keyout", directory / f"{name}.key", "-out", directory / f"{name}.crt"
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}", *files)


def certificate(directory: Path, name: str, addresses: Iterable[str] = ()) -> None:
    """NAME.crt, signed by the authority ca, for localhost and `addresses`; NAME.key, with a password; NAME.open.key."""
    cert, key, open_key, request, names = (directory / f"{name}.{end}" for end in FILES)
    if cert.exists():
        return
    names.write_text(SUBJECT_NAMES + "".join(f",IP:{address}" for address in addresses))
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", open_key, "-out", request)
    openssl("pkcs8", "-topk8", "-in", open_key, "-passout", f"pass:{KEY_PASSWORD}", "-out", key)
    signer = "-CA", directory / "ca.crt", "-CAkey", directory / "ca.key", "-CAcreateserial"
    openssl("x509", "-req", "-in", request, *signer, "-days", "2", "-extfile", names, "-out", cert)


def broker_command(environment: Mapping[str, str], hosts: Sequence[str], node: int, advertised: str) -> list[str]:
    """The command of one broker of these hosts, after its properties are written and its storage is formatted."""
    directory, protocol = Path(environment["DATA_DIR"]), environment["KAFKA_SECURITY_PROTOCOL"]
    port = int(environment["KAFKA_BOOTSTRAP_SERVERS"].rpartition(":")[2])
    properties = directory / f"server-{node}.properties"
    scram = protocol == "SASL_SSL"
    properties.write_text(PROPERTIES.format(
        node=node, address=hosts[node - 1], port=port, controller=port + 1,
        voters=",".join(f"{number}@{host}:{port + 1}" for number, host in enumerate(hosts, 1)),
        advertised=advertised or f"{hosts[node - 1]}:{port}", protocol=protocol, directory=directory,
        brokers=len(hosts), in_sync=min(2, len(hosts)),
    ) + (SCRAM.format(password=ADMIN_PASSWORD) if scram else MUTUAL))  # fmt: skip
    run = [java(), "-Xmx400m", "-XX:-UsePerfData", "-cp", str(directory / "jars" / "broker" / "*")]
    made = ["--cluster-id", CLUSTER_ID, "--config", str(properties)]
    if scram:
        made += ["--add-scram", f"SCRAM-SHA-512=[name=admin,password={ADMIN_PASSWORD}]"]
    format_storage = [*run, "kafka.tools.StorageTool", "format", *made]
    subprocess.run(format_storage, check=True, capture_output=True, timeout=120)
    return [*run, "kafka.Kafka", str(properties)]


@contextmanager
def secured_broker(
    directory: Path, protocol: str, advertised: str = "", hosts: Sequence[Host] = ()
) -> Iterator[SecuredBroker]:
    """A broker with a listener of this protocol: SASL_SSL with SCRAM-SHA-512, or SSL with certificates of clients.

    Nobody but the administrator may do anything without a right. `advertised`: a wrong address that it gives itself.
    `hosts`: one broker on each, with a replica of every partition.
    """
    environment = environment_for(directory, BROKERS=0, KAFKA_SECURITY_PROTOCOL=protocol)
    port = environment["KAFKA_BOOTSTRAP_SERVERS"].rpartition(":")[2]
    addresses = [host.address for host in hosts] or ["localhost"]
    environment["KAFKA_BOOTSTRAP_SERVERS"] = ",".join(f"{address}:{port}" for address in addresses)
    authority(directory, "ca")
    certificate(directory, "broker", addresses if hosts else ())
    (directory / "broker.pem").write_bytes(
        (directory / "broker.open.key").read_bytes() + (directory / "broker.crt").read_bytes()
    )
    environment["KAFKA_SSL_CA"] = str(directory / "ca.crt")
    if protocol == "SASL_SSL":
        environment["KAFKA_SASL_MECHANISM"] = "SCRAM-SHA-512"
    else:
        environment["KAFKA_SSL_KEY_PASSWORD"] = KEY_PASSWORD
    found = SecuredBroker(environment, directory)
    with ExitStack() as stack:
        processes = []
        for node in range(1, len(addresses) + 1):
            command = broker_command(environment, addresses, node, advertised)
            place = hosts[node - 1].command(*command) if hosts else command
            processes.append(stack.enter_context(running(place, environment)))
        admin = load(environ=found.as_user("admin", ADMIN_PASSWORD))

        def answers() -> bool:
            for process in processes:
                assert process.process.poll() is None, process.log
            try:
                # librdkafka, because it does not need the address that the broker gives itself.
                AdminClient(librdkafka_options(admin) | {"log_level": 0}).list_topics(timeout=1)
            except KafkaException:
                return False
            return True

        wait_until("the secured broker answers", answers)
        yield found
