"""Reads lists from the Kubernetes API server with the pod's service account."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

TIMEOUT_S = 10.0
LIST_TIMEOUT_S = 60.0
"""Maximum seconds for all pages of a list: a server that sends slowly never exceeds the timeout of one call."""
PAGE = 50
MAX_PAGES = 100
MAX_BYTES = 16 * 1024 * 1024
"""Maximum size of all pages of a list. One object has at most 1.5 MB; a node has a few, of some kB for each device."""
CHUNK_BYTES = 65_536
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ApiServerError(Exception):
    """The API server could not be read. `str()` is one sentence with the reason and the next step."""


class MalformedAnswer(ApiServerError):
    """The answer is not what the API defines, or larger than any that is expected."""


class NoSuchResource(ApiServerError):
    """The API server does not serve the path."""


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Address of the API server, and the directory of `token` and `ca.crt`. Both rotate and are read for each list."""

    host: str
    port: int
    account: Path = SERVICE_ACCOUNT

    def items(self, path: str, **query: str) -> Iterator[object]:
        """Yield every item of a list, page by page. Raises `ApiServerError`."""
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT_S, context=self._context())
        reader = _Reader(path, time.monotonic() + LIST_TIMEOUT_S)
        try:
            parameters = {"limit": str(PAGE), **query}
            for _ in range(MAX_PAGES):
                page = self._get(connection, f"{path}?{urlencode(parameters)}", reader)
                items, following = _page(path, page)
                yield from items
                if not following:
                    return
                if following == parameters.get("continue"):
                    raise MalformedAnswer(f"the API server's list of {path} repeats the same page")
                parameters["continue"] = following
            raise MalformedAnswer(f"the API server's list of {path} has more than {MAX_PAGES} pages")
        except (OSError, http.client.HTTPException) as error:
            raise ApiServerError(f"the API server at {self.host}:{self.port} cannot be reached: {error}") from None
        except ValueError as error:
            # http.client's word for a token, an address or a header that HTTP cannot carry.
            raise ApiServerError(f"the API server at {self.host}:{self.port} cannot be asked: {error}") from None
        finally:
            connection.close()

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=str(self.account / "ca.crt"))
        except OSError as error:
            raise ApiServerError(
                f"{self.account}/ca.crt cannot be read ({error}): mount the pod's service account"
            ) from None

    def _get(self, connection: http.client.HTTPSConnection, target: str, reader: _Reader) -> object:
        try:
            token = (self.account / "token").read_text().strip()
        except (OSError, ValueError) as error:
            raise ApiServerError(
                f"{self.account}/token cannot be read ({error}): mount the pod's service account"
            ) from None
        connection.request("GET", target, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"})
        response = connection.getresponse()
        body = reader.body(response)
        if response.status == 404:
            raise NoSuchResource(f"the API server does not serve {target.partition('?')[0]}")
        if response.status in {401, 403}:
            raise ApiServerError(
                f"the service account may not list {target.partition('?')[0]} (status {response.status}): bind it to a "
                "ClusterRole with the verbs get and list on it"
            )
        if response.status != 200:
            raise ApiServerError(f"the API server answered {target.partition('?')[0]} with status {response.status}")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise MalformedAnswer(f"the API server's answer to {target.partition('?')[0]} is not JSON") from None


class _Reader:
    """Reads the bodies of one list's pages: all of them together are limited in size and time."""

    def __init__(self, path: str, until_s: float) -> None:
        self._path = path
        self._until_s = until_s
        self._left = MAX_BYTES

    def body(self, response: http.client.HTTPResponse) -> bytes:
        """Return a body. Raises `ApiServerError`."""
        chunks = []
        # `read1` returns what one call to the socket yields, so the time is checked while a server sends slowly.
        while chunk := response.read1(CHUNK_BYTES):
            self._left -= len(chunk)
            if self._left < 0:
                raise MalformedAnswer(f"the API server's list of {self._path} is larger than {MAX_BYTES} bytes")
            if time.monotonic() > self._until_s:
                raise ApiServerError(f"the API server sends the list of {self._path} too slowly")
            chunks.append(chunk)
        response.close()  # the connection takes the next request only then
        return b"".join(chunks)


def _page(path: str, page: object) -> tuple[Sequence[object], str | None]:
    """Return the items of a page and the token of the next one. Raises `MalformedAnswer`."""
    if isinstance(page, dict):
        items, metadata = page.get("items"), page.get("metadata")
        following = metadata.get("continue") if isinstance(metadata, dict) else None
        if isinstance(items, list | None) and isinstance(metadata, dict | None) and isinstance(following, str | None):
            return items or (), following
    raise MalformedAnswer(f"the API server's answer to {path} is not a list of objects")
