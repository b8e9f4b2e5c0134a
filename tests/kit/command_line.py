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


class App:
    """A command with the options that it needs here.

    Args:
        wavecast: runs commands.
        name: of the command.
        results: what becomes of a name without suffix, for each result.
        options: of the command.
        suffix: of the results, where they are no sound.
    """

    def __init__(self, wavecast, name, results, *options, suffix=""):
        self.wavecast, self.name, self.results, self.options, self.suffix = wavecast, name, results, options, suffix

    def __call__(self, *words):
        """Run it."""
        return self.wavecast(self.name, *self.options, *words)

    def fails(self, code, text, *words, hint=""):
        """Run it; it must fail."""
        return self.wavecast.fails(code, text, self.name, *self.options, *words, hint=hint)

    def files(self, *inputs):
        """Name the results of inputs."""
        pairs = [name.rsplit(".", 1) for name in inputs]
        return sorted(f"{stem}{one}.{self.suffix or suffix}" for stem, suffix in pairs for one in self.results)

    def result(self, name):
        """Name the first result of an input."""
        stem, suffix = name.rsplit(".", 1)
        return f"{stem}{self.results[0]}.{self.suffix or suffix}"
