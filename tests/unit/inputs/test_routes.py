from __future__ import annotations

import pytest

from ai_otel.inputs.routes import MAX_ROUTES, Route, read_routes


def test_routes_are_read_and_written_alike() -> None:
    text = "/predict=text_completion,/v1/models/{name}:predict=chat,/files/{rest:path}=speech,/=embeddings"
    routes = read_routes(text)
    assert [route.operation for route in routes] == ["text_completion", "chat", "speech", "embeddings"]
    assert routes[1] == Route("/v1/models/{name}:predict", "chat")
    assert ",".join(map(str, routes)) == text
    assert read_routes(" /a/ = chat , ,") == (Route("/a", "chat"),)
    assert read_routes("") == ()


@pytest.mark.parametrize(
    "text",
    [
        "/predict",
        "/predict=",
        "=chat",
        "predict=chat",
        "/a b=chat",
        "/a?b=chat",
        "/a#b=chat",
        "/{=chat",
        "/}=chat",
        "/{}=chat",
        "/{a:int}=chat",
        "/{a{b}}=chat",
        "/a=Chat",
        "/a=chat completion",
        "/a=b=c",
        f"/{'a' * 256}=chat",
        f"/a={'b' * 65}",
        ",".join(f"/{n}=chat" for n in range(MAX_ROUTES + 1)),
    ],
)
def test_a_malformed_route_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        read_routes(text)
