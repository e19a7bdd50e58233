"""nginx, Caddy and HAProxy with the configurations of docs/proxy.md, as ordinary processes on ports of their own."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from testkit.ports import free_port_block
from testkit.scripts import Script, running
from testkit.settings import PROJECT_DIR

HOST = "fans.example.org"
# What tests/run.sh unpacks, without installing it.
UNPACKED = PROJECT_DIR / ".data" / "proxies" / "usr"
DOCUMENT = PROJECT_DIR / "docs" / "proxy.md"
NGINX = """daemon off; pid {here}/nginx.pid; error_log stderr; events {{ worker_connections 512; }}
http {{ access_log off; {temporary}
{site}
}}
"""
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
CADDY = "{\ngrace_period 1s\nadmin off\nauto_https disable_redirects\nskip_install_trust\n}\n"


def documented(name: str, prefix: str) -> str:
    """The configuration under a heading of docs/proxy.md; without a `prefix`, changed as that page says."""
    [section] = re.findall(rf"^## {name}\n(.*?)(?=^## )", DOCUMENT.read_text(), re.M | re.S)
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ") or not line]
    if not prefix:
        lines = [line.replace("/match/", "/") for line in lines if not re.search(r"/match(?![/\w])", line)]
    return "\n".join(lines).strip() + "\n"


def certificate(directory: Path) -> Path:
    """A certificate for HOST at 127.0.0.1, signed by itself: `.crt`, `.key`, and both in `.pem`."""
    crt, key, pem = (directory / f"{HOST}.{suffix}" for suffix in ("crt", "key", "pem"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={HOST}",
         "-addext", f"subjectAltName=DNS:{HOST},IP:127.0.0.1", "-keyout", key, "-out", crt],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    pem.write_text(crt.read_text() + key.read_text())
    return crt


def on_this_machine(site: str, environment: Mapping[str, str]) -> str:
    """A documented configuration, with the ports of the system of `environment`."""
    streams = int(environment["STREAM_BASE_PORT"])
    site = site.replace("127.0.0.1:5000", f"127.0.0.1:{environment['APP_PORT']}")
    return re.sub(r"127\.0\.0\.1:71(\d\d)\b", lambda found: f"127.0.0.1:{streams + int(found[1])}", site)


@contextmanager
def proxy(
    name: str, prefix: str, environment: Mapping[str, str], directory: Path, site: str = ""
) -> Iterator[tuple[Script, str]]:
    """A running proxy before the system of `environment`, and the app's address behind it.

    `site` is its configuration; by default the documented one, for a system on this machine.
    """
    port = free_port_block(1)
    site = site or on_this_machine(documented(name, prefix), environment)
    certificate(directory)
    site = site.replace("/etc/ssl", str(directory))
    config = directory / f"{name}.conf"
    if name == "nginx":
        assert site.count("listen 443 ") == 1
        temporary = " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in TEMPORARY)
        site = site.replace("listen 443 ", f"listen 127.0.0.1:{port} ")
        config.write_text(NGINX.format(here=directory, temporary=temporary, site=site))
        command = [_program("nginx"), "-e", "stderr", "-p", str(directory), "-c", str(config)]
    elif name == "Caddy":
        assert site.count(f"\n{HOST} {{") == 1
        config.write_text(CADDY + site.replace(f"\n{HOST} {{", f"\n{HOST}:{port} {{\nbind 127.0.0.1"))
        command = [_program("caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]
    else:
        assert site.count("bind :443 ") == 1
        config.write_text(site.replace("bind :443 ", f"bind 127.0.0.1:{port} "))
        command = [_program("haproxy"), "-db", "-f", str(config)]
    own = {"HOME": str(directory), "XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
    libraries = ":".join(str(path) for path in UNPACKED.glob("lib/*-linux-gnu"))
    with running(command, {**environment, **own, "LD_LIBRARY_PATH": libraries}) as process:
        process.wait_for_port(port)
        yield process, f"https://{HOST}:{port}{prefix}"


def _program(name: str) -> str:
    for path in (None, str(UNPACKED / "sbin"), str(UNPACKED / "bin")):
        if found := shutil.which(name, path=path):
            return found
    raise AssertionError(f"{name} is not installed; tests/run.sh tests/browser fetches it, or: apt-get install {name}")
