"""`wavecast bench APP`: speed, latency and memory on this machine."""

import argparse

from wavecast.console import JsonReport, UsageError, common_arguments, positive

SECONDS, STEPS = 10, 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("app", choices=("enhance", "separate", "transcribe", "spot", "forecast", "recognize"))
    parser.add_argument("--seconds", type=positive, metavar="N", help=f"of sound or video ({SECONDS})")
    parser.add_argument("--steps", type=positive, metavar="N", help=f"to forecast ({STEPS})")
    parser.add_argument("--streams", type=positive, nargs="+", metavar="N", help="to transcribe at a time (1 4 16)")
    common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, and print a table."""
    import torch

    if args.seconds and args.app == "forecast":
        raise UsageError("--seconds are of sound and video", "give --steps")
    if args.streams and args.app != "transcribe":
        raise UsageError("--streams are of speech", "wavecast bench transcribe --streams 8")
    if args.steps and args.app != "forecast":
        raise UsageError("--steps are of forecasts", "give --seconds")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.app == "enhance":
        from wavecast.apps.enhancement.bench import measure as measure_enhancer

        rows = measure_enhancer(args.model, args.device, args.seconds or SECONDS)
    elif args.app == "separate":
        from wavecast.apps.separation.bench import measure as measure_separator

        rows = measure_separator(args.model, args.device, args.seconds or SECONDS)
    elif args.app == "transcribe":
        from wavecast.apps.transcription.bench import measure as measure_transcriber

        rows = measure_transcriber(args.model, args.device, args.seconds or SECONDS, args.streams or [1, 4, 16])
    elif args.app == "spot":
        from wavecast.apps.keywords.bench import measure as measure_spotter

        rows = measure_spotter(args.model, args.device, args.seconds or SECONDS)
    elif args.app == "recognize":
        from wavecast.apps.activity.bench import measure as measure_recognizer

        rows = measure_recognizer(args.model, args.device, args.seconds or SECONDS)
    else:
        from wavecast.apps.forecasting.bench import measure as measure_forecaster

        rows = measure_forecaster(args.model, args.device, args.steps or STEPS)
    report = JsonReport(args.json, args.overwrite)
    for row in rows:
        report.add(row)
        if args.json != "-":
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    report.close()
    return 0
