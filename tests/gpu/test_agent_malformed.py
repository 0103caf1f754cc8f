"""Malformed and endless answers of the API server and the kubelet: the agent goes on with the other sources."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ai_otel.agent import api_server, kubelet_poller, podresources, pods
from ai_otel.agent.api_server import ApiServer, ApiServerError, MalformedAnswer
from ai_otel.agent.kubelet import Malformed
from ai_otel.agent.kubelet_poller import KubeletPoller, PollerOptions
from ai_otel.agent.slices import read_slices
from ai_otel.gpu.source import Device
from ai_otel.hooks import guard
from harness.gpu import node
from harness.gpu.kubelet import Kubelet
from harness.gpu.polling import GPU, Clock, holding, pods_of
from harness.gpu.slices import Api, Trust, resource_slice, serving


@dataclass
class Odd(Api):
    """An API server that answers every list with the same content, as JSON if it is not bytes."""

    content: Any = None

    def answer(self, target: str, token: str) -> tuple[int, Any]:
        self.asked.append(target)
        return 200, self.content


@pytest.fixture(autouse=True)
def _unlimited(kubelet: Kubelet) -> None:
    kubelet.unlimited = True


@pytest.fixture
def odd() -> Odd:
    return Odd([])


@pytest.fixture
def server(odd: Odd, trust: Trust, tmp_path: Path) -> Iterator[ApiServer]:
    with serving(odd, trust, tmp_path / "account") as started:
        yield started


ANSWERS: dict[str, Any] = {
    "null": None,
    "a list": [],
    "a string": "items",
    "a number": 7,
    "items a string": {"items": "slices"},
    "items an object": {"items": {}},
    "items a number": {"items": 1},
    "metadata a string": {"metadata": "x", "items": []},
    "metadata a list": {"metadata": [], "items": []},
    "continue a number": {"metadata": {"continue": 1}, "items": []},
    "continue an object": {"metadata": {"continue": {}}, "items": []},
    "not JSON": b"<html>502 Bad Gateway</html>",
    "not UTF-8": b'{"items": ["\xff\xfe"]}',
    "empty": b"",
    "cut off": b'{"items": [',
    "nested deeply": b"[" * 200_000,
    "a number of a million digits": b'{"items": [' + b"1" * 1_000_000 + b"]}",
}


@pytest.mark.parametrize("content", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_of_another_shape_is_an_error(odd: Odd, server: ApiServer, content: Any) -> None:
    odd.content = content
    with pytest.raises(MalformedAnswer):
        read_slices(server, "node-1")
    assert len(odd.asked) == 1


@pytest.mark.fault(
    "gpu",
    "the API server repeats a page without end, or sends pages without end",
    "the agent stops reading at a limit of pages, bytes and devices, and asks again later",
)
@pytest.mark.parametrize("token", [lambda _: "same", lambda page: f"page-{page}"], ids=["the same page", "new pages"])
def test_a_list_without_end_is_an_error(odd: Odd, server: ApiServer, token: Any) -> None:
    def answer(target: str, _: str) -> tuple[int, Any]:
        odd.asked.append(target)
        return 200, {"metadata": {"continue": token(len(odd.asked))}, "items": [resource_slice({})]}

    odd.answer = answer  # type: ignore[method-assign]
    with pytest.raises(MalformedAnswer, match=r"repeats|more than 100 pages"):
        read_slices(server, "node-1")
    assert len(odd.asked) <= api_server.MAX_PAGES


def test_the_size_of_all_pages_is_limited(odd: Odd, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    odd.content = {"items": ["x" * 100_000]}
    read_slices(server, "node-1")
    monkeypatch.setattr(api_server, "MAX_BYTES", 50_000)
    with pytest.raises(MalformedAnswer, match="larger than 50000 bytes"):
        read_slices(server, "node-1")


def test_the_time_of_a_list_is_limited(odd: Odd, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends a byte now and then never exceeds the timeout of one call."""
    odd.content = {"items": []}
    monkeypatch.setattr(api_server, "LIST_TIMEOUT_S", -1.0)
    with pytest.raises(ApiServerError, match="too slowly"):
        read_slices(server, "node-1")


@pytest.mark.parametrize("token", [b"line\nbreak", b"\xff\xfe", "t\u00f6k\u20acn".encode()], ids=repr)
def test_a_token_that_http_cannot_carry_is_an_error(odd: Odd, server: ApiServer, token: bytes) -> None:
    (server.account / "token").write_bytes(token)
    with pytest.raises(ApiServerError):
        read_slices(server, "node-1")


# ---------------------------------------------------------------- the poller


def polling(options: PollerOptions, server: ApiServer | None, clock: Clock) -> KubeletPoller:
    return KubeletPoller(
        replace(options, slices_on=True, api_server=server),
        lambda: [GPU, Device(node.gpu(4), "nvidia")],
        clock=clock,
        jitter=lambda: 0.0,
    )


@pytest.mark.fault(
    "gpu",
    "the API server sends malformed answers for an hour",
    "the agent keeps listing the kubelet's allocations, asks the API server ever less often, and maps the claims again "
    "after the first good answer",
)
def test_malformed_answers_of_the_api_server_do_not_stop_the_poller(
    kubelet: Kubelet, options: PollerOptions, odd: Odd, server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    kubelet.pods = [node.claim("a", "gpu-3"), holding("one", "GPU-1")]
    poller = polling(options, server, clock)
    shapes = list(ANSWERS.values())
    with guard.strict() as failures:
        for number in range(240):
            odd.content = shapes[number % len(shapes)]
            view = poller.poll()
            assert pods_of(poller) == ["one"]
            assert "api_server" in view.errors
            clock.now_s += 15.0
    assert failures == []
    assert 10 <= len(odd.asked) <= 20
    assert view.failures == {"api_server": len(odd.asked)}
    assert len([each for each in caplog.messages if "API server" in each and "answer" in each]) <= 2
    odd.content = {"items": list(node.slices())}
    clock.now_s += kubelet_poller.MAX_WAIT_S
    view = poller.poll()
    assert pods_of(poller) == ["a", "one"]
    assert view.errors == {}


@pytest.mark.fault(
    "gpu",
    "an answer makes the agent's own code fail, ten times in a row",
    "it is an error of that source, which is asked again later; nothing is switched off",
)
@pytest.mark.parametrize("broken", ["list_grants", "list_pods", "read_slices"])
def test_a_bug_in_reading_one_source_does_not_stop_the_others(
    kubelet: Kubelet,
    options: PollerOptions,
    odd: Odd,
    server: ApiServer,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    clock = Clock()
    odd.content = {"items": list(node.slices())}
    kubelet.pods = [node.claim("a", "gpu-3"), holding("one", "GPU-1")]
    poller = polling(options, server, clock)
    with monkeypatch.context() as patched, guard.strict() as failures:
        patched.setattr(kubelet_poller, broken, fail)
        for _ in range(30):
            poller.poll()
            clock.now_s += 300.0
    assert len(failures) >= 10
    assert pods_of(poller) == {"list_grants": [], "list_pods": ["a", "one"], "read_slices": ["one"]}[broken]
    view = poller.poll()
    assert pods_of(poller) == ["a", "one"]
    assert view.errors == {}
    guard.errors.clear()


def test_the_thread_survives_a_poll_that_fails(
    kubelet: Kubelet, options: PollerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubelet_poller, "MIN_INTERVAL_S", 0.01)
    monkeypatch.setattr(kubelet_poller, "MAX_WAIT_S", 0.01)
    kubelet.pods = [holding("one", "GPU-1")]
    broken = [True]

    def devices() -> list[Device]:
        if broken[0]:
            raise ZeroDivisionError("a bug")
        return [GPU]

    poller = KubeletPoller(replace(options, interval_s=0.01), devices)
    with guard.strict() as failures:
        poller.start()
        deadline = time.monotonic() + 20
        while len(failures) < 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(failures) >= 12
        assert "report it" in poller.view.errors["kubelet"]
        broken[0] = False
        while pods_of(poller) != ["one"] and time.monotonic() < deadline:
            time.sleep(0.01)
        poller.stop()
    assert pods_of(poller) == ["one"]
    guard.errors.clear()


@pytest.mark.fault(
    "gpu",
    "the kubelet lists more devices or pods than any node has",
    "the answer is not kept, and the kubelet is asked again later",
)
def test_the_kubelets_answers_are_limited(kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch) -> None:
    kubelet.pods = [holding("one", *(f"GPU-{number}" for number in range(5))), holding("two")]
    kubelet.allocatable = {"nvidia.com/gpu": [f"GPU-{number}" for number in range(5)]}
    monkeypatch.setattr(podresources, "MAX_GRANTS", 4)
    monkeypatch.setattr(pods, "MAX_PODS", 1)
    with pytest.raises(Malformed, match="more than 4 devices of containers"):
        podresources.list_grants(kubelet.socket)
    with pytest.raises(Malformed, match="more than 4 devices of plugins"):
        podresources.list_allocatable(kubelet.socket)
    with pytest.raises(Malformed, match="more than 1 pods"):
        pods.list_pods(kubelet.pods_socket)


def test_the_pods_api_is_asked_less_often_while_it_fails(kubelet: Kubelet, options: PollerOptions) -> None:
    clock = Clock()
    kubelet.pods = [holding("one", "GPU-1")]
    kubelet.pods_answer = lambda: [b"\xff"]
    poller = polling(options, None, clock)
    for _ in range(40):
        poller.poll()
        assert pods_of(poller) == ["one"]
        assert "cannot be decoded" in poller.view.errors["pods_api"]
        clock.now_s += 15.0
    assert 4 <= kubelet.calls["ListPods"] <= 6
    assert json.dumps(poller.view.failures) == f'{{"pods_api": {kubelet.calls["ListPods"]}}}'
