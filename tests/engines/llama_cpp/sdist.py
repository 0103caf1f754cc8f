"""
The Python sources of llama-cpp-python, oldest and newest that we hook. There are no wheels, and a build takes minutes:
the source distribution (60 to 80 MB) is downloaded once, and its few files in Python are kept in the cache.

    python tests/engines/llama_cpp/sdist.py     fetch what is missing
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

import environments
import sources

DISTRIBUTION = "llama-cpp-python"
VERSIONS = ("0.3.7", "0.3.36")
KEPT = ("llama_cpp/llama.py", "llama_cpp/llama_cpp.py", "llama_cpp/_internals.py", "llama_cpp/llama_chat_format.py")

SOURCES = sources.Sources(DISTRIBUTION, VERSIONS, KEPT)


def ensure() -> None:
    """Fetch what is missing, on the interpreter that has a pip."""
    if SOURCES.missing():
        python = environments.uv().with_name("python")
        subprocess.run([str(python), __file__, "--fetch"], env=sources.pip_settings(), check=True)


def fetch() -> None:
    """Fetch. A directory appears when it is whole."""
    index = sources.open_index(DISTRIBUTION)
    for version in SOURCES.missing():
        directory = SOURCES.directory(version)
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent) as making:
            home = Path(making) / "sources"
            home.mkdir()
            print(version, sources.from_sdist(index, DISTRIBUTION, version, KEPT, home))
            (home / sources.MARKER).write_text(SOURCES.signature)
            home.rename(directory)


if __name__ == "__main__":
    fetch() if sys.argv[1:] == ["--fetch"] else ensure()
