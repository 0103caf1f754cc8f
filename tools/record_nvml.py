"""Record a real NVIDIA GPU, to verify the simulated library of the tests. Changes no setting.

    python tools/record_nvml.py gpu.json          every call of the source: return code, type, range, latency (20 s)
    python tools/record_nvml.py --all gpu.json    and every experiment, each under load where torch is installed (8 min)

Run it on an otherwise idle GPU, as the user who runs the server. UUIDs, serial numbers and PIDs are removed.

tests/harness/gpu/recording.py replays a recording as a scenario of the simulated library. Put it into
tests/gpu/recordings/; `pytest tests/gpu/test_recordings.py` then compares both. A recording does not cover a real model
server.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

from nvml_recording import experiments, load, support
from nvml_recording.bench import Bench
from nvml_recording.library import Nvml
from nvml_recording.scrub import Scrubber

FORMAT = 1


def main() -> int:
    """Record and print the path."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", nargs="?", type=Path, help="the recording, in JSON")
    parser.add_argument("--all", action="store_true", help="run the experiments too")
    parser.add_argument("--only", nargs="*", choices=experiments.ALL, help="run these experiments only")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of an experiment in seconds")
    parser.add_argument("--times", type=int, default=200, help="number of timed repetitions of each call")
    parser.add_argument("--load-on", default="cuda", help="torch device of the load")
    parser.add_argument("--gpm-only", action="store_true", help="print the first GPU's performance metrics and exit")
    options = parser.parse_args()
    nvml = started()
    if nvml is None:
        return 1
    if options.gpm_only:
        print(json.dumps(without_nan(support.gpm(nvml, nvml.handles()[0]))))
        return 0
    if options.out is None:
        parser.error("the path of the recording is missing")
    recording = record(nvml, options.times)
    if options.all or options.only:
        bench = Bench(nvml, nvml.handles()[0], options.seconds, options.load_on)
        recording["experiments"] = run(bench, options.only or list(experiments.ALL))
    nvml.close()
    options.out.write_text(json.dumps(without_nan(Scrubber().scrub(recording)), indent=1) + "\n")
    label = "a SIMULATED library, no hardware" if recording["simulated"] else f"driver {recording['driver']}"
    print(f"{options.out}: {len(recording['devices'])} GPU(s), {label}")
    return 0


def started() -> Nvml | None:
    """Return NVML; prints the reason and returns `None` if it does not start."""
    try:
        return Nvml()
    except ImportError:
        print("nvidia-ml-py is not installed: pip install 'ai-otel[nvidia]'", file=sys.stderr)
    except Exception as error:  # NVML's error class is the binding's own
        if type(error).__module__ != "pynvml":
            raise
        print(f"NVML does not start ({error}): see what nvidia-smi reports", file=sys.stderr)
    return None


def record(nvml: Nvml, times: int) -> dict[str, Any]:
    """Record every call of the source on every GPU, and the source's readings."""
    return {
        "format": FORMAT,
        "simulated": nvml.simulated,
        "recorded": dt.datetime.now(dt.timezone.utc).date().isoformat(),
        "driver": nvml.ask("nvmlSystemGetDriverVersion")[1],
        "nvml": nvml.ask("nvmlSystemGetNVMLVersion")[1],
        "binding": importlib.metadata.version("nvidia-ml-py"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "torch": load.missing() or importlib.metadata.version("torch"),
        "devices": [support.of_gpu(nvml, handle, times) for handle in nvml.handles()],
        "as_read": support.as_read(),
    }


def run(bench: Bench, names: list[str]) -> dict[str, Any]:
    """Run the experiments in sequence. A failed one is recorded as such."""
    results: dict[str, Any] = {}
    for name in names:
        print(f"{name} …", file=sys.stderr)
        try:
            results[name] = experiments.ALL[name](bench)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            results[name] = {"failed": f"{type(error).__name__}: {error}"}
    return results


def without_nan(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by their names."""
    if isinstance(value, dict):
        return {str(key): without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    raise SystemExit(main())
