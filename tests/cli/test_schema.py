"""`ai-otel schema`: the contract, readable."""

from __future__ import annotations

import argparse
import json

import pytest

from ai_otel.cli import schema
from ai_otel.contract import load, read


def shown(capsys: pytest.CaptureFixture[str], engine: str | None = None, *, as_json: bool = False) -> str:
    assert schema.run(argparse.Namespace(engine=engine, json=as_json)) == 0
    return capsys.readouterr().out


def test_every_metric_is_there_with_its_instrument_unit_and_buckets(capsys) -> None:
    text = shown(capsys)
    for metric in load().metrics:
        assert f"\n{metric.name}  ({metric.instrument}, {metric.unit})\n" in text
    assert "    buckets     0.01, 0.02, 0.04, 0.08, 0.16" in text


def test_a_required_attribute_is_marked(capsys) -> None:
    text = shown(capsys)
    assert "    attributes  gen_ai.operation.name*, gen_ai.provider.name*, gen_ai.request.model," in text


def test_every_attribute_and_span_is_there(capsys) -> None:
    _, _, text = shown(capsys).partition("\nATTRIBUTES\n")
    attributes, _, spans = text.partition("\nSPANS\n")
    lines = [line.split() for line in attributes.splitlines()]
    named = {line[0]: line[1] for line in lines if len(line) > 1 and not line[0][0].isupper()}
    assert {name: named[name] for name in load().attributes} == {
        name: attribute.type for name, attribute in load().attributes.items()
    }
    for span in load().spans:
        assert span.name in spans


def test_an_engine_shows_what_its_own_names_become(capsys) -> None:
    text = shown(capsys, "vllm")
    for row in load().engines["vllm"]["metrics"]:
        assert f"{row['native']} -> {row['to']}\n" in text
    lora = text.partition("vllm:lora_requests_info -> ")[2].partition("\n\n")[0]
    assert "    needs       --enable-lora" in lora
    waiting = text.partition("vllm:num_requests_waiting -> ")[2].partition("\n\n")[0]
    assert "    only if     vllm:num_requests_waiting_by_reason is absent" in waiting


def test_an_engine_without_hooks_says_so(capsys) -> None:
    engines = load().engines
    bare = [name for name, engine in engines.items() if not engine["library"]]
    for name in bare:
        assert "nothing: the server does not run Python." in shown(capsys, name)


def test_nothing_is_wider_than_the_terminal(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for engine in (None, *load().engines):
        long = [line for line in shown(capsys, engine).splitlines() if len(line) > 100 and " -> " not in line]
        assert long == []


def test_json_is_the_contract_itself(capsys) -> None:
    assert json.loads(shown(capsys, as_json=True)) == read()
    assert json.loads(shown(capsys, "vllm", as_json=True)) == load().engines["vllm"]


def test_an_unknown_engine_is_2_and_lists_the_known(capsys) -> None:
    assert schema.run(argparse.Namespace(engine="vlm", json=False)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("ai-otel schema: unknown engine vlm; known are ")
    assert "vllm" in said.err


def test_the_command_prints_it(ai_otel) -> None:
    done = ai_otel("schema", "--engine", "vllm")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("vLLM ")
