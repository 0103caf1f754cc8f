"""Reads lists from the Kubernetes API server with the pod's service account."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

TIMEOUT_S = 10.0
PAGE = 500
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ApiServerError(Exception):
    """The API server could not be read. `str()` is one sentence with the reason and the next step."""


class NoSuchResource(ApiServerError):
    """The API server does not serve the path."""


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Address of the API server, and the directory of `token` and `ca.crt`. Both rotate and are read for each list."""

    host: str
    port: int
    account: Path = SERVICE_ACCOUNT

    def items(self, path: str, **query: str) -> Iterator[Mapping[str, Any]]:
        """Yield every item of a list, page by page. Raises `ApiServerError`."""
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT_S, context=self._context())
        try:
            parameters = {"limit": str(PAGE), **query}
            while True:
                page = self._get(connection, f"{path}?{urlencode(parameters)}")
                yield from page.get("items") or ()
                following = (page.get("metadata") or {}).get("continue")
                if not following:
                    return
                parameters["continue"] = following
        except (OSError, http.client.HTTPException) as error:
            raise ApiServerError(f"the API server at {self.host}:{self.port} cannot be reached: {error}") from None
        finally:
            connection.close()

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=str(self.account / "ca.crt"))
        except OSError as error:
            raise ApiServerError(
                f"{self.account}/ca.crt cannot be read ({error}): mount the pod's service account"
            ) from None

    def _get(self, connection: http.client.HTTPSConnection, target: str) -> Mapping[str, Any]:
        try:
            token = (self.account / "token").read_text().strip()
        except OSError as error:
            raise ApiServerError(
                f"{self.account}/token cannot be read ({error}): mount the pod's service account"
            ) from None
        connection.request("GET", target, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"})
        response = connection.getresponse()
        body = response.read()
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
            page: Mapping[str, Any] = json.loads(body)
        except ValueError:
            raise ApiServerError(f"the API server's answer to {target.partition('?')[0]} is not JSON") from None
        return page
