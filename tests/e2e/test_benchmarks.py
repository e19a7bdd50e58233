"""benchmarks/run.sh, in small: so that whoever wants to measure anew can."""

from __future__ import annotations

import json
import subprocess

from testkit.settings import PROJECT_DIR

QUICK_DIR = PROJECT_DIR / ".data" / "benchmarks" / "quick"


def test_a_part_is_measured_and_reported_with_its_plot() -> None:
    kept, plot = QUICK_DIR / "results" / "push-rate.json", QUICK_DIR / "plots" / "push-rate.png"
    kept.unlink(missing_ok=True)
    plot.unlink(missing_ok=True)
    ran = subprocess.run(
        ["benchmarks/run.sh", "--quick", "push-rate"], cwd=PROJECT_DIR, capture_output=True, text=True, timeout=300,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures = json.loads(kept.read_text())
    assert figures["quick"]
    assert min(figures["figures"]["rates"]["ours"]) > 0
    report = (QUICK_DIR / "REPORT.md").read_text()
    assert "| ≥ 5,000 pushes/s to 200 clients |" in report
    assert plot.read_bytes().startswith(b"\x89PNG")
