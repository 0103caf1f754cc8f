"""What the Operator copies into a pod: beside any server it either works or steps aside, and shadows nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

import environments
from harness.kubernetes.image import INJECTION, INNER, loaded
from harness.server import free_port, serving
from harness.telemetry.sink import Sink, listening

TESTS = Path(__file__).parents[1]
ON = {"AI_OTEL_ENABLED": "true"}

SERVER = """
import asyncio, http.server, importlib, json, sys

observed = "ai_otel.hooks.imports" in sys.modules
if observed:
    sys.path.append(TESTS)
    import ai_otel, fake_engine
    kept = fake_engine.install()
    engine = kept.__enter__()
    ai_otel.instrument().watch({"fake": fake_engine.ENGINE})

async def generate():
    server = engine.Server(lambda given: ["a", "b"])
    return [word async for word in server.generate("one two")]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if observed and self.path == "/ask":
            asyncio.run(generate())
        names = ("opentelemetry.sdk.trace", "opentelemetry.version", "google.protobuf", "wrapt", "ai_otel")
        files = {}
        for name in names:
            try:
                files[name] = importlib.import_module(name).__file__
            except ImportError:
                pass
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({"observed": observed, "files": files}).encode())
    def log_message(self, *_): pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def layout(injection_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it, as a pod has one."""
    return Path(shutil.copytree(injection_image, tmp_path_factory.mktemp("injected") / "layout"))


def environment(layout: Path, **more: str) -> dict[str, str]:
    """As the Operator gives it, and nothing else."""
    path = f"{layout / INNER}:{layout}"
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", **more}


def run_python(layout: Path, python: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *arguments],
        env=environment(layout, **more),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def served(layout: Path, python: Path, place: Path, sink: Sink, *, spans: int) -> tuple[dict[str, Any], str]:
    """What the server says of itself after one request, and what it printed; `spans`: how many must arrive."""
    (script := place / "server.py").write_text(f"TESTS = {str(TESTS)!r}\n{SERVER}")
    port = free_port()
    variables = environment(layout, OTEL_EXPORTER_OTLP_ENDPOINT=sink.url, **ON)
    with serving([python, script, str(port)], port, variables, place / "server.log", timeout_s=60) as server:
        said = json.loads(server.page("/ask"))
        assert sink.wait(lambda: len(sink.spans) >= spans) or not spans
        return said, server.output()


# ---------------------------------------------------------------- the layout


def test_only_the_entry_points_namespace_can_be_imported(layout: Path) -> None:
    assert {path.name for path in layout.iterdir()} == {"ai-otel", "opentelemetry"}
    below = {path.relative_to(layout).as_posix() for path in (layout / "opentelemetry").rglob("*") if path.is_file()}
    assert below == {f"{INNER}/sitecustomize.py"}
    names = {path.name for path in (layout / "ai-otel").iterdir()}
    assert names == {"library", "vendored", "parts.txt", "preflight.py"}
    assert {path.name for path in (layout / "ai-otel/library").iterdir() if path.suffix != ".dist-info"} == {"ai_otel"}


def test_it_is_pure_python_and_readable_by_any_user(layout: Path) -> None:
    files = [path for path in layout.rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix in {".so", ".pyd", ".pth", ".dylib"}] == []
    tags = {line for path in files if path.name == "WHEEL" for line in path.read_text().splitlines() if "Tag:" in line}
    assert {tag.rpartition("-")[2] for tag in tags} == {"any"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}
    assert sum(path.stat().st_size for path in files) < 20e6


def test_each_part_has_a_directory_of_its_own_and_all_that_it_needs(layout: Path) -> None:
    parts = loaded(layout / "ai-otel/preflight.py").read_parts(str(layout / "ai-otel"))
    assert {path.name for path in (layout / "ai-otel/vendored").iterdir()} | {"ai-otel"} == set(parts)
    for _, places, requires in parts.values():
        assert places
        for name, bounds in requires:
            assert parts[name][0] in SpecifierSet(bounds, prereleases=True)
    assert "grpcio" not in parts


# ---------------------------------------------------------------- beside a server


def test_a_server_without_opentelemetry_is_traced_with_what_we_bring(layout, venv, tmp_path) -> None:
    with listening() as sink:
        said, output = served(layout, venv(), tmp_path, sink, spans=1)
    assert said["observed"]
    assert all(str(layout) in file for file in said["files"].values() if file)
    assert {span.attributes["gen_ai.operation.name"] for span in sink.spans} >= {"chat"}
    assert output == ""


def test_a_server_with_opentelemetry_is_traced_with_its_own(layout, venv, tmp_path) -> None:
    wanted = ("opentelemetry-sdk==1.31.0", "opentelemetry-exporter-otlp-proto-http==1.31.0", "wrapt==1.17.3")
    python = venv(*wanted)
    with listening() as sink:
        said, output = served(layout, python, tmp_path, sink, spans=1)
    files = {name: file for name, file in said["files"].items() if file}
    assert str(layout) in files.pop("ai_otel")
    assert files.keys() >= {"opentelemetry.sdk.trace", "google.protobuf", "wrapt"}
    assert all(file.startswith(str(python.parents[1])) for file in files.values())
    assert {span.resource["telemetry.sdk.version"] for span in sink.spans} == {"1.31.0"}
    assert output == ""


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (("opentelemetry-sdk==1.20.0",), "opentelemetry-api 1.20.0 is installed, ai-otel needs"),
        (("protobuf==3.20.3",), "protobuf 3.20.3 is installed, "),
        (("opentelemetry-api==1.35.0",), "opentelemetry-api 1.35.0 is installed, opentelemetry-s"),
        (("prometheus-client==0.17.1",), "prometheus-client 0.17.1 is installed, ai-otel needs"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_server_runs_alone_beside_misfits_and_one_line_says_why(
    wanted: tuple[str, ...], why: str, layout, venv, tmp_path
) -> None:
    python = venv(*wanted)
    with listening() as sink:
        said, output = served(layout, python, tmp_path, sink, spans=0)
        assert sink.spans == []
    assert not said["observed"]
    assert [file for file in said["files"].values() if file and str(layout) in file] == []
    (line,) = output.splitlines()
    assert line.startswith(f"ai-otel: steps aside, the server runs without it: {why}")


COST = """
import importlib.metadata, sys, timeit
sys.path.insert(0, sys.argv[1] + "/ai-otel")
import preflight
check = lambda: preflight.judge(preflight.read_parts(sys.argv[1] + "/ai-otel"), preflight.installed(sys.path))
every = lambda: [each.version for each in importlib.metadata.distributions()]
print(*(min(timeit.repeat(each, number=1, repeat=10)) for each in (check, every)))
"""


def test_preflight_is_cheap_beside_five_hundred_distributions(layout, venv) -> None:
    """As many as an image of a model server has; the measure is what `importlib.metadata` needs to list them."""
    python = venv("opentelemetry-sdk==1.31.0")
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    for number in range(500):
        (metadata := site / f"distribution_{number}-1.{number}.dist-info").mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: distribution-{number}\nVersion: 1.{number}\n")
    took_s, listing_s = map(float, run_python(layout, python, "-c", COST, str(layout)).stdout.split())
    print(
        f"beside 500 distributions the check costs {took_s * 1e3:.2f} ms; listing them costs {listing_s * 1e3:.2f} ms"
    )
    assert took_s < 0.5 * listing_s


def test_switched_off_a_server_sees_nothing_of_it(layout, venv) -> None:
    traces = "[each for each in sys.path if 'injected' in each], [each for each in sys.modules if 'ai_otel' in each]"
    program = f"import sys; print({traces})"
    done = run_python(layout, venv(), "-c", program)
    assert (done.stdout.strip(), done.stderr) == ("[] []", "")
    missing = "from importlib.util import find_spec; print(find_spec('opentelemetry'))"
    assert run_python(layout, venv(), "-c", missing).stdout.strip() == "None"


def test_probes_and_children_are_quiet_where_it_steps_aside(layout, venv, tmp_path) -> None:
    python = venv("prometheus-client==0.17.1")
    assert run_python(layout, python, "-c", "pass", **ON).stderr == ""
    (script := tmp_path / "parent.py").write_text(
        "import multiprocessing, subprocess, sys\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=print)\n"
        "    child.start(); child.join()\n"
        "    subprocess.run([sys.executable, '-m', 'this'], stdout=subprocess.DEVNULL, check=True)\n"
    )
    assert len(run_python(layout, python, str(script), **ON).stderr.splitlines()) == 1


@pytest.mark.parametrize("switch", ["", "true"])
def test_a_sitecustomize_of_the_server_runs_as_well(switch: str, layout, venv) -> None:
    python = venv()
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    (site / "sitecustomize.py").write_text("print('the next one')")
    program = "import sys; print(sys.modules['sitecustomize'].__file__)"
    done = run_python(layout, python, "-c", program, AI_OTEL_ENABLED=switch)
    assert done.stdout.split("\n")[:2] == ["the next one", str(site / "sitecustomize.py")]


def test_an_ai_otel_of_the_server_is_the_one_that_runs(injection_image, layout, venv) -> None:
    python = venv()
    wheel = next((injection_image.parent / "wheel").glob("*.whl"))
    environments.run_uv("pip", "install", "--quiet", "--python", python, wheel)
    done = run_python(layout, python, "-c", "import ai_otel; print(ai_otel.__file__)", **ON)
    assert done.stdout.startswith(str(python.parents[1]))
    assert done.stderr == ""


def test_what_is_broken_in_it_stops_no_server(layout, venv, tmp_path) -> None:
    """For instance a copy that was not finished."""
    subprocess.run(["cp", "-r", f"{layout}/.", tmp_path / "half"], check=True)
    (tmp_path / "half/ai-otel/parts.txt").unlink()
    done = run_python(tmp_path / "half", venv(), "-c", "print('serves')", **ON)
    assert done.stdout == "serves\n"
    assert len(done.stderr.splitlines()) == 1


# ---------------------------------------------------------------- versions


BOUNDS = "<2,>=1.31 ~=1.52 ~=1.45.2 ==0.66b2 !=1.35 ==1.31.* >=4.5.0 >1.31,<=1.45.2"
VERSIONS = "0.66b1 0.66b2 0.66 1.20.0 1.31 1.31.0 1.35.0 1.45.2 1.45.3 1.52 1.60.1 2.0 4.5 10.0"


@pytest.mark.parametrize("bounds", BOUNDS.split())
def test_versions_are_compared_as_an_installer_compares_them(bounds: str) -> None:
    meets = loaded(INJECTION / "layout/preflight.py").meets
    wanted = {each: SpecifierSet(bounds, prereleases=True).contains(each) for each in VERSIONS.split()}
    assert {each: meets(each, bounds) for each in wanted} == wanted
