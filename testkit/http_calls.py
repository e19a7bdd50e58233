"""HTTP calls with JSON."""

from __future__ import annotations

from typing import Any

import requests

JSON = {"Content-Type": "application/json"}


def call(url: str, body: object = None) -> tuple[int, Any]:
    """GET, or POST with a body as JSON: the status and what the answer's JSON says."""
    answer = requests.get(url, timeout=30) if body is None else requests.post(url, json=body, timeout=30)
    return answer.status_code, answer.json()
