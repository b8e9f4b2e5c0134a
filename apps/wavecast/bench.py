"""`wavecast bench enhance`: real-time factor, latency and memory on this machine."""

import argparse

from wavecast.console import JsonReport, common_arguments, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("app", choices=("enhance",))
    parser.add_argument("--seconds", type=positive, default=10, metavar="N", help="of sound to work on (10)")
    common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, and print a table."""
    import torch

    from wavecast.apps.enhancement.bench import measure

    if args.threads:
        torch.set_num_threads(args.threads)
    report = JsonReport(args.json, args.overwrite)
    for row in measure(args.model, args.device, args.seconds):
        report.add(row)
        if args.json != "-":
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    report.close()
    return 0
