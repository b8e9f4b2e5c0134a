"""The front door: `wavecast COMMAND ...`.

A command is a module with `add_arguments(parser)` and `run(args) -> int`; only the module of the command at hand is
imported, and it imports what is heavy when it runs.
"""

import os
import sys
from importlib import import_module

import wavecast
from wavecast.console import Parser, UsageError, did_you_mean, interrupts_remembered, show_error
from wavecast.core.errors import WavecastError

COMMANDS = {
    "enhance": ("wavecast.apps.enhancement.command", "a noisy recording in, clean speech out"),
    "separate": ("wavecast.apps.separation.command", "several voices in one recording, each on its own"),
    "transcribe": ("wavecast.apps.transcription.command", "speech in, text out, from files and live"),
    "spot": ("wavecast.apps.keywords.command", "words in a live stream or a recording, each with its time"),
    "forecast": ("wavecast.apps.forecasting.command", "weather fields or video in, what follows out"),
    "recognize": ("wavecast.apps.activity.command", "a video in, what is done in it out"),
    "score": ("wavecast.apps.forecasting.score_command", "a forecast against what happened, beside baselines"),
    "train": ("wavecast.training", "train a network on your data"),
    "evaluate": ("wavecast.training", "score a trained network"),
    "models": ("wavecast.models", "list, show, fetch, convert and verify weights"),
    "bench": ("wavecast.bench", "measure speed, latency and memory on this machine"),
    "doctor": ("wavecast.doctor", "check this installation"),
    "completion": ("wavecast.completion", "print shell completion for bash or zsh"),
}


def usage() -> str:
    """Give the first screen."""
    rows = "\n".join(f"  {name:12}{text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: wavecast COMMAND ...\n\nSignals that unfold in time: sound and fields.\n\n"
        f"{rows}\n\n  wavecast COMMAND --help     what a command takes\n  wavecast --version\n"
    )


def command_parser(name: str) -> Parser:
    """Build the parser of one command."""
    module, text = COMMANDS[name]
    parser = Parser(f"wavecast {name}", text)
    import_module(module).add_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: the words after `wavecast`; those of the process by default.

    Returns:
        0 done, 1 the work failed, 2 the command line was wrong, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        with interrupts_remembered():
            return _dispatch(words)
    except UsageError as error:
        show_error(error.message, error.hint)
        return 2
    except WavecastError as error:
        if debug:
            raise
        show_error(error.message, error.hint)
        return 1
    except KeyboardInterrupt:
        if debug:
            raise
        show_error("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone: nothing is wrong, and nobody is left to talk to. Python would complain
        # again when it flushes stdout at exit, so stdout leads nowhere from here on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        show_error(f"{type(error).__name__}: {error}", "this is a fault of wavecast: run again with --debug, report it")
        return 1


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"wavecast {wavecast.__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        raise UsageError(f"there is no command {name!r}", did_you_mean(name, COMMANDS, "wavecast --help"))
    module = import_module(COMMANDS[name][0])
    if hasattr(module, "run_words"):  # commands whose words another library parses
        return module.run_words(name, rest)
    parser = command_parser(name)
    try:
        args = parser.parse(rest)
    except SystemExit as stop:  # argparse prints --help and leaves
        return int(stop.code or 0)
    return module.run(args)


def script() -> None:
    """Enter from the shell."""
    sys.exit(main())
