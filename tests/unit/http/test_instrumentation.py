from __future__ import annotations

from ai_otel.activation import first_engine
from ai_otel.http.instrumentation import HttpInstrumentation
from ai_otel.http.view import View
from ai_otel.recorder import Recorder


def test_every_framework_that_is_hooked_starts_a_process_that_is_on() -> None:
    instrumentation = HttpInstrumentation(Recorder(lambda _record: None), lambda: True, View(), lambda _done: 0.0)
    patchers = instrumentation.patchers.values()
    hooked = {each.point.module for patcher in patchers for each in patcher.attachments}
    for patcher in patchers:
        patcher.undo()
    assert hooked
    # The standard library's are there from the start.
    assert hooked - {"threading", "concurrent.futures.thread"} <= set(first_engine.FRAMEWORKS)
