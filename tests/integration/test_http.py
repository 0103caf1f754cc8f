"""A process that serves HTTP and has no engine: from its environment alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
{imports}
from ai_otel.start import current
handle = current()
assert handle is not None and handle.engine is None and handle.providers is None
async def main():
    app = {app}
    messages = [{{"type": "lifespan.startup"}}, {{"type": "lifespan.shutdown"}}]
    async def receive():
        return messages.pop(0)
    async def send(message):
        print(message["type"], handle.engine)
    await app({{"type": "lifespan", "asgi": {{"version": "3.0"}}}}, receive, send)
asyncio.run(main())
assert handle.flush()
while handle.pipeline.devices._monitor is None:
    pass
print("sampled", handle.providers is not None)
"""

NO_EXPORT = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from ai_otel.entrypoints import site\nsite()\n" + program],
        check=False,
        env={**os.environ, "AI_OTEL_ENABLED": "true", **NO_EXPORT, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("imports", "app"),
    [
        ("from starlette.applications import Starlette", "Starlette()"),
        ("from fastapi import FastAPI", "FastAPI()"),
    ],
    ids=["Starlette", "FastAPI"],
)
def test_devices_are_sampled_as_soon_as_an_application_is_ready(imports: str, app: str) -> None:
    output = run(PROGRAM.format(imports=imports, app=app), AI_OTEL_PROVIDER="mine", AI_OTEL_GPU="nvidia")
    assert output.splitlines() == ["lifespan.startup.complete None", "lifespan.shutdown.complete mine", "sampled True"]


def test_an_application_that_is_only_imported_makes_nothing() -> None:
    program = """
import threading
from starlette.applications import Starlette
from ai_otel.start import current
Starlette()
print(current().providers, [thread.name for thread in threading.enumerate() if "otel" in thread.name])
"""
    assert run(program) == "None []\n"
