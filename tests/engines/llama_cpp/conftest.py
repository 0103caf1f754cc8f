"""A real llama.cpp in this process, hooked, with a recorder that keeps its records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai_otel.engines.llama_cpp import LlamaCppAdapter
from ai_otel.hooks import guard
from ai_otel.hooks.patch import Patcher
from ai_otel.record import RequestRecord
from ai_otel.recorder import Recorder
from harness.telemetry.both_ways import compare_record


class Observed:
    """The adapter, attached, and the records that came out."""

    def __init__(self) -> None:
        self._records: list[RequestRecord] = []
        self.recorder = Recorder(self._records.append, interval_s=0.001)
        self.patcher = Patcher("llama_cpp")
        LlamaCppAdapter().attach(self.recorder, self.patcher)

    def records(self) -> list[RequestRecord]:
        """All records so far, completed and settled as the emitting thread does it."""
        assert self.recorder.flush()
        records, self._records[:] = list(self._records), []
        for record in records:
            for inference in record.inferences:
                if inference.read_engine is not None:
                    inference.read_engine(inference)
            record.settle()
            compare_record(record, "llama_cpp")
        return records

    def only(self) -> Any:
        """The one inference of the one record."""
        (record,) = self.records()
        (inference,) = record.inferences
        return inference

    def stop(self) -> None:
        self.patcher.undo()
        self.recorder.stop()


@pytest.fixture
def observed() -> Iterator[Observed]:
    with guard.strict():
        watched = Observed()
        yield watched
        assert watched.recorder.open_count == 0, "a record was never closed"
        watched.stop()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights."""
    from ai_otel.demo.gguf import TINY, write_model

    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf", TINY)


@pytest.fixture(scope="session")
def server(model: Path) -> Any:
    """llama.cpp's server, in this process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = 1024
    params.n_parallel = 2
    params.port = 0
    params.cpuparams.n_threads = 1
    params.n_gpu_layers = 0
    params.warmup = False
    params.verbosity = -1
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return xllamacpp.Server(params)
