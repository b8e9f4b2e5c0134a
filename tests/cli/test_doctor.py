"""`wavecast doctor`: every line is ok, or says what to do."""

import json

import pytest

from wavecast.core.ops.scan import cpu


def checks(said):
    return {row["name"]: row for row in map(json.loads, said.out.splitlines())}


def test_this_installation_works(wavecast):
    said = wavecast("doctor", "--json", "-")
    found = checks(said)
    assert (said.code, said.err) == (0, "")
    assert {"python", "torch", "processor", "frcrn.stream16k"} <= found.keys()
    assert all(row["cure"] for row in found.values() if row["state"] != "ok")


@pytest.mark.parametrize(("module", "state"), [(None, "note"), (cpu, "ok")])
def test_the_compiled_scan_is_reported(wavecast, monkeypatch, module, state):
    monkeypatch.setattr(cpu, "compiled", lambda: module)
    row = checks(wavecast("doctor", "--json", "-"))["scan in C"]
    assert row["state"] == state
    assert ("install again" in row["cure"]) == (state == "note")
