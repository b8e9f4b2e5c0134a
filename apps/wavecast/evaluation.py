"""The options that every `wavecast evaluate TASK` has."""

import warnings
from argparse import ArgumentError
from typing import Any

from wavecast.console import UsageError
from wavecast.training import ignore_harmless, with_recipes


def evaluation_parser(task: str, data: type, several: bool = False) -> Any:
    """Build the parser of `wavecast evaluate` with the options that all tasks have.

    Args:
        task: name of the task.
        data: class of its data, whose arguments are options `--data.*`.
        several: `--model` may be a list, a model for each split of the data.
    """
    from jsonargparse import ActionConfigFile, ArgumentParser

    parser = ArgumentParser(prog=f"wavecast evaluate {task}", exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile, help="NAME of a shipped recipe or PATH: its data")
    one = "a name from `wavecast models list`, or a file"
    if several:
        parser.add_argument("--model", type=list[str] | str | None, help=f"{one}; a list of them for splits")
    else:
        parser.add_argument("--model", type=str | None, help=one)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=str | None, help="write one JSON object an item to this file, - for stdout")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_class_arguments(data, "data")
    return parser


def parsed(parser: Any, words: list[str]) -> Any:
    """Parse the options of `wavecast evaluate`; `data` comes as an object of its class.

    Args:
        parser: as `evaluation_parser` built it.
        words: the options.

    Raises:
        UsageError: an option is unknown or has a wrong value.
    """
    try:
        with warnings.catch_warnings():
            ignore_harmless()
            return parser.instantiate_classes(parser.parse_args(list(with_recipes(words))))
    except ArgumentError as error:
        raise UsageError(" ".join(str(error).split()), f"{parser.prog} --help") from error
