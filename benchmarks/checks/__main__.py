"""Serves checks, ``Check.as_json()`` to ``Verdict._asdict()``; any other request is answered with the device."""

from typing import Any

import jax

from benchmarks.checks.judge import Check, judge
from benchmarks.workers import serve


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    if "setting" in request:
        return judge(Check.from_json(request))._asdict()
    return {"platform": jax.default_backend(), "device": jax.devices()[0].device_kind, "jax": jax.__version__}


if __name__ == "__main__":
    serve(handle)
