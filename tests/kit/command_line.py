"""Run `wavecast` in this process, and look at what it said."""

from dataclasses import dataclass

import pytest

from wavecast.main import main


@dataclass(frozen=True)
class Said:
    """Exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str


class CommandLine:
    """Calls `wavecast` with words."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: object) -> Said:
        """Run a command."""
        self._capsys.readouterr()
        code = main([str(word) for word in words])
        captured = self._capsys.readouterr()
        return Said(code, captured.out, captured.err)

    def fails(self, code: int, text: str, *words: object, hint: str = "") -> Said:
        """Run a command that must fail with this code, say this on stderr, and nothing on stdout."""
        said = self(*words)
        assert said.code == code, said
        assert said.out == "", said.out
        assert text in said.err, said.err
        if hint:
            assert f"hint: {hint}" in said.err or ("hint: " in said.err and hint in said.err), said.err
        assert "Traceback" not in said.err
        return said
