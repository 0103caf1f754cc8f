"""Reading lists from the Kubernetes API server with the pod's own service account."""

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


class ApiTrouble(Exception):
    """The API server told nothing. `str()` is one sentence that says why and what to do."""


class NoSuchResource(ApiTrouble):
    """This API server does not serve the path."""


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Where it is, and the directory with `token` and `ca.crt`: both rotate, and are read anew for each list."""

    host: str
    port: int
    account: Path = SERVICE_ACCOUNT

    def items(self, path: str, **query: str) -> Iterator[Mapping[str, Any]]:
        """Every item of a list, page by page. Raises `ApiTrouble`."""
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT_S, context=self._context())
        try:
            asked = {"limit": str(PAGE), **query}
            while True:
                page = self._get(connection, f"{path}?{urlencode(asked)}")
                yield from page.get("items") or ()
                following = (page.get("metadata") or {}).get("continue")
                if not following:
                    return
                asked["continue"] = following
        except (OSError, http.client.HTTPException) as error:
            raise ApiTrouble(f"the API server at {self.host}:{self.port} cannot be reached: {error}") from None
        finally:
            connection.close()

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=str(self.account / "ca.crt"))
        except OSError as error:
            raise ApiTrouble(
                f"{self.account}/ca.crt cannot be read ({error}): mount the pod's service account"
            ) from None

    def _get(self, connection: http.client.HTTPSConnection, target: str) -> Mapping[str, Any]:
        try:
            token = (self.account / "token").read_text().strip()
        except OSError as error:
            raise ApiTrouble(
                f"{self.account}/token cannot be read ({error}): mount the pod's service account"
            ) from None
        connection.request("GET", target, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"})
        response = connection.getresponse()
        body = response.read()
        if response.status == 404:
            raise NoSuchResource(f"the API server does not serve {target.partition('?')[0]}")
        if response.status in {401, 403}:
            raise ApiTrouble(
                f"the service account may not list {target.partition('?')[0]} (status {response.status}): bind it to a "
                "ClusterRole with the verbs get and list on it"
            )
        if response.status != 200:
            raise ApiTrouble(f"the API server answered {target.partition('?')[0]} with status {response.status}")
        try:
            page: Mapping[str, Any] = json.loads(body)
        except ValueError:
            raise ApiTrouble(f"the API server's answer to {target.partition('?')[0]} is no JSON") from None
        return page
