"""The sampler beside busy threads and in forked children."""

from __future__ import annotations

import os
import threading
import time

import pytest

from ai_otel.gpu import sampler as sampling
from ai_otel.gpu.sampler import Sampler
from harness.gpu.fakes import two_gpus
from harness.polling import eventually, wait_until

pytestmark = pytest.mark.usefixtures("no_hook_failures")


def test_cpu_time_of_other_threads_excludes_the_calling_thread() -> None:
    def compute() -> float:
        before_s = time.thread_time()
        while time.thread_time() - before_s < 0.1:
            pass
        return sampling.other_threads_s()

    before_s = sampling.other_threads_s()
    own_s = compute() - before_s
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    others_s = sampling.other_threads_s() - before_s
    assert others_s - own_s >= 0.09


@pytest.mark.fault("gpu", "a sampling process forks", "the child does not use or close its handles")
def test_a_forked_child_starts_empty_and_leaves_the_parents_sources_open() -> None:
    gpu = two_gpus()
    sampler = Sampler(lambda: {"fake": gpu}, interval_s=0.01)
    sampler.start()
    eventually(lambda: bool(sampler.snapshot.samples))
    child = os.fork()
    if child == 0:
        clean = not sampler.snapshot.samples and not sampler.alive and gpu.closed == 0
        sampler.start()
        os._exit(0 if clean and wait_until(lambda: bool(sampler.snapshot.samples)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sampler.alive
    assert sampler.stop()
