"""What an engine's page, a client or a network may do to a Collector, on purpose or not."""

from __future__ import annotations

import gzip
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[[BaseHTTPRequestHandler, threading.Event], None]
"""Answers one GET; the event is set when the server ends."""


def text(body: str | bytes, **headers: str) -> Answer:
    """An ordinary page."""
    content = body.encode() if isinstance(body, str) else body

    def answer(handler: BaseHTTPRequestHandler, _: threading.Event) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        handler.send_header("Content-Length", headers.get("length", str(len(content))))
        if "encoding" in headers:
            handler.send_header("Content-Encoding", headers["encoding"])
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def never(_: BaseHTTPRequestHandler, ended: threading.Event) -> None:
    """No answer, and the connection stays."""
    ended.wait()


def endless(handler: BaseHTTPRequestHandler, ended: threading.Event) -> None:
    """Lines without end."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/plain; version=0.0.4")
    handler.end_headers()
    line = b"vllm:num_requests_running 1\n" * 1000
    # So fast that it does not end, and so slowly that this process serves the other endpoints meanwhile.
    while not ended.wait(0.005):
        handler.wfile.write(line)


def many_labels(count: int) -> str:
    """One metric with a label of so many values."""
    head = "# TYPE vllm:prompt_tokens_total counter\n"
    return head + "".join(f'vllm:prompt_tokens_total{{model_name="m{number}"}} 1\n' for number in range(count))


def adapters(count: int) -> str:
    """vLLM's page with so many LoRA adapters: all of them in one label; and its configuration in another."""
    names = ",".join(f"adapter-with-a-rather-long-name-{number}" for number in range(count))
    return (
        "# TYPE vllm:lora_requests_info gauge\n"
        f'vllm:lora_requests_info{{max_lora="{count}",running_lora_adapters="{names}",waiting_lora_adapters=""}} 1\n'
        "# TYPE vllm:vllm_config_info gauge\n"
        f'vllm:vllm_config_info{{model_config="{"x" * 4000}"}} 1\n'
    )


def ranks(good: str, count: int) -> str:
    """The page of so many data-parallel ranks: each family with the series of all of them."""
    lines: list[str] = []
    for line in good.splitlines():
        same = not line.startswith("#") and 'engine="0"' in line
        lines += [line.replace('engine="0"', f'engine="{rank}"') for rank in range(count)] if same else [line]
    return "\n".join(lines) + "\n"


def _pages(good: str) -> dict[str, Answer]:
    half = good[: len(good) // 2]
    series = 'vllm:num_requests_running{engine="0",model_name="m"}'
    return {
        "broken_off": text(half, length=str(len(good))),
        "cut": text(half.rpartition("\n")[0] + "\nvllm:num_requests_running{engine="),
        "huge": text("# HELP a " + "x" * 80 + "\n" + "vllm:num_requests_running 1\n" * 700_000),
        "bomb": text(gzip.compress(bytes(200_000_000), 1), encoding="gzip"),
        "endless": endless,
        "many_labels": text(many_labels(150_000)),
        "many_names": text("".join(f"vllm:made_up_{number} 1\n" for number in range(150_000))),
        "wide": text("vllm:num_requests_running{" + ",".join(f'l{n}="x"' for n in range(2000)) + "} 1\n"),
        # Read, without the series that is too much.
        "wide_series": text(good + "vllm:wide{" + ",".join(f'l{n}="x"' for n in range(100)) + "} 1\n"),
        "long_value": text(good + 'vllm:num_requests_running{model_name="' + "m" * 100_000 + '"} 1\n'),
        "adapters": text(good + adapters(500)),
        "ranks": text(ranks(good, 200)),
        "garbage": text(random.Random(1).randbytes(100_000)),
        "html": text("<html><body><h1>It works!</h1></body></html>"),
        "not_utf8": text(b'vllm:num_requests_running{model_name="\xff\xfe"} 1\n'),
        "never": never,
        # Prometheus takes these; what is made of them is another question.
        "not_a_number": text(f"# TYPE vllm:num_requests_running gauge\n{series} NaN\n"),
        "infinite": text(f"# TYPE vllm:num_requests_running gauge\n{series} +Inf\n"),
        "twice": text(f"# TYPE vllm:num_requests_running gauge\n{series} 1\n{series} 2\n"),
        "wrong_type": text(
            "# TYPE vllm:num_requests_running histogram\n" + series + " 3\n"
            "# TYPE vllm:time_to_first_token_seconds counter\nvllm:time_to_first_token_seconds 4\n"
        ),
        "falling_buckets": text(
            "# TYPE vllm:time_to_first_token_seconds histogram\n"
            + "".join(
                f'vllm:time_to_first_token_seconds_bucket{{model_name="m",le="{bound}"}} {count}\n'
                for bound, count in (("0.1", 9), ("1.0", 5), ("+Inf", 7))
            )
            + 'vllm:time_to_first_token_seconds_sum{model_name="m"} 1\n'
            + 'vllm:time_to_first_token_seconds_count{model_name="m"} 7\n'
        ),
    }


@contextmanager
def engines(good: str) -> Iterator[dict[str, str]]:
    """A server for each way to go wrong, and one that does not (`good`); their addresses."""
    ended = threading.Event()
    with ExitStack() as stack:
        answers = {"good": text(good), **_pages(good)}
        yield {name: stack.enter_context(_serving(answer, ended)) for name, answer in answers.items()}
        ended.set()


@contextmanager
def _serving(answer: Answer, ended: threading.Event) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self, ended)
            except OSError:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def memory_mb(process_id: int) -> float:
    """The most that a process has held in memory so far."""
    status = Path(f"/proc/{process_id}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


# ---------------------------------------------------------------- OTLP, byte by byte


def field(number: int, content: bytes) -> bytes:
    """A protobuf field that holds bytes or a message."""
    return _head(number, len(content)) + content


def _head(number: int, length: int) -> bytes:
    head = bytes([number << 3 | 2])
    while length > 127:
        head += bytes([length & 127 | 128])
        length >>= 7
    return head + bytes([length])


def with_attribute(content: bytes) -> bytes:
    """A request with one span whose attribute has this `AnyValue`."""
    attribute = field(1, b"k") + field(2, content)
    one = field(1, b"t" * 16) + field(2, b"s" * 8) + field(9, attribute)
    return field(1, field(2, field(2, one)))


def nested(depth: int) -> bytes:
    """An `AnyValue` that is a list that holds a list, and so on; written from the inside to the outside."""
    heads, length = [], 0
    for _ in range(depth):
        for number in (1, 5):
            head = _head(number, length)
            heads.append(head)
            length += len(head)
    return b"".join(reversed(heads))


def long_text(length: int) -> bytes:
    """An `AnyValue` that is a text."""
    return field(1, b"x" * length)
