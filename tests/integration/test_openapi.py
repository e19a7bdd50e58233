"""The running app against its own /openapi.json: Schemathesis sends what that allows, and what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from testkit.broker import Broker
from testkit.ports import free_port_block, listening
from testkit.scripts import script
from testkit.waiting import wait_until

EXAMPLES = 150  # for each operation, besides the bounds of each field


def test_every_answer_is_what_the_document_says(empty_topics: Broker, tmp_path: Path) -> None:
    port = free_port_block(1)
    with script(empty_topics.environment, "app.py", APP_PORT=port):
        wait_until("the app listens", lambda: listening(port))
        schemathesis = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json",
                f"--max-examples={EXAMPLES}", "--seed=1", "--generation-database=none", "--no-color",
                # A schema cannot say how many bytes a text may have, so it allows some that are refused.
                "--exclude-checks=positive_data_acceptance",
            ],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        )  # fmt: skip
    assert schemathesis.returncode == 0, schemathesis.stdout[-6_000:]
