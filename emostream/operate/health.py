"""DATA_DIR/run → exit status 0 if every process that runs with this DATA_DIR is ready, else 1 and the reasons.

The image asks this as its HEALTHCHECK. A container has one process, whatever its role and its port are.
"""

from __future__ import annotations

from emostream.process import why_not_ready
from emostream.settings import Settings


def health(settings: Settings) -> int:
    """Print one line for each process that is not ready. Return the exit status."""
    heartbeats = sorted((settings.data_path / "run").glob("*.ready"))
    reasons = {path.stem: why_not_ready(settings, path.stem) for path in heartbeats}
    for name, reason in reasons.items():
        if reason:
            print(f"{name} is not ready: {reason}")
    if not reasons:
        print(f"no process has begun its work with DATA_DIR={settings.data_path}")
    return 0 if reasons and not any(reasons.values()) else 1
