"""`wavecast completion bash|zsh`: print a script that completes commands, options and model names.

source <(wavecast completion bash)
"""

import argparse

from wavecast.console import talk_arguments

BASH = """_wavecast() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}" words=""
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands} --help --version"
    else
        case "$command" in
{cases}
        esac
    fi
    case "$current" in
        -*) COMPREPLY=($(compgen -W "$words" -- "$current")) ;;
        *)
            if [ "$COMP_CWORD" -eq 1 ]; then
                COMPREPLY=($(compgen -W "$words" -- "$current"))
            else
                local plain=""
                for word in $words; do case "$word" in -*) ;; *) plain="$plain $word" ;; esac; done
                COMPREPLY=($(compgen -W "$plain" -- "$current") $(compgen -f -- "$current"))
            fi ;;
    esac
}}
complete -o filenames -F _wavecast wavecast
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = "use: source <(wavecast completion bash), or put that line into ~/.bashrc or ~/.zshrc"
    parser.add_argument("shell", choices=("bash", "zsh"))
    talk_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    print((ZSH if args.shell == "zsh" else "") + script(), end="")
    return 0


def script() -> str:
    """Make the completion script from what the commands declare."""
    from wavecast.main import COMMANDS

    cases = "\n".join(f'            {name}) words="{" ".join(command_words(name))}" ;;' for name in COMMANDS)
    return BASH.format(commands=" ".join(COMMANDS), cases=cases)


def command_words(name: str) -> list[str]:
    """List the options of a command, and the words it lets choose from."""
    from wavecast.main import COMMANDS, command_parser

    if COMMANDS[name][0] == "wavecast.training":
        from wavecast.training import TASKS

        return [*TASKS, "--config", "--help"]
    words: list[str] = []
    for action in command_parser(name)._actions:
        words += [option for option in action.option_strings if option.startswith("--")]
        if not action.option_strings and action.choices:
            words += list(action.choices)
    return words
