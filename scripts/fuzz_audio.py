"""Read damaged recordings, thousands a minute, and tell what a reader did not take as it should.

python scripts/fuzz_audio.py --minutes 30
python scripts/fuzz_audio.py --seed 1 --first 4711 --count 1 --keep damaged.bin       reproduces a case

Case k is a function of the seed and k. The cases are read in a process of its own, so that one which brings it down, or
which it never comes back from, is found and stepped over. Exit code 1 when there was any.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
import traceback
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from kit.mutations import FORMATS, Mutations, read_case

PATIENCE = 30  # seconds for one case


def read_cases(seed: int, formats: tuple[str, ...], at: Synchronized, end: int, bad: Synchronized) -> None:
    """Read cases from `at` to `end`; both counters are shared with the process that watches."""
    mutations = Mutations(seed, formats)
    with tempfile.TemporaryDirectory() as folder:
        while at.value < end:
            name, data = mutations.case(at.value)
            try:
                read_case(data, Path(folder) / "damaged")
            except Exception:
                bad.value += 1
                tell(at.value, name, traceback.format_exc().strip())
            at.value += 1


def tell(number: int, name: str, what: str) -> None:
    """Print a fault."""
    print(f"case {number} ({name}): {what}", flush=True)


def watch(seed: int, formats: tuple[str, ...], first: int, count: int, seconds: float) -> tuple[int, int]:
    """Read cases until their number or the time is up.

    Returns:
        How many were read, and how many were bad.
    """
    context = multiprocessing.get_context("spawn")
    at, bad, end = context.Value("q", first), context.Value("q", 0), first + count
    stop = time.monotonic() + seconds
    while at.value < end and time.monotonic() < stop:
        process = context.Process(target=read_cases, args=(seed, formats, at, end, bad))
        process.start()
        seen, since = at.value, time.monotonic()
        while process.is_alive() and time.monotonic() < stop:
            process.join(1)
            if at.value != seen:
                seen, since = at.value, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                break
        hangs = process.is_alive() and time.monotonic() < stop
        process.kill()
        process.join()
        if hangs or (process.exitcode not in (0, -9) and at.value < end):
            name = formats[at.value % len(formats)]
            tell(at.value, name, f"no end after {PATIENCE} s" if hangs else f"ended the process: {process.exitcode}")
            bad.value += 1
            at.value += 1
    return at.value - first, bad.value


def main() -> int:
    """Read the command line, watch, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--count", type=int, default=1 << 62, help="cases to read")
    parser.add_argument("--minutes", type=float, default=5.0, help="longest time (5)")
    parser.add_argument("--formats", nargs="+", choices=tuple(FORMATS), default=tuple(FORMATS))
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write the bytes of the first case")
    args = parser.parse_args()
    formats = tuple(args.formats)
    if args.keep:
        args.keep.write_bytes(Mutations(args.seed, formats).case(args.first)[1])
    done, bad = watch(args.seed, formats, args.first, args.count, 60 * args.minutes)
    print(f"{done} damaged recordings of {len(formats)} formats read, seed {args.seed}: {bad} faults")
    if bad:
        same = "" if formats == tuple(FORMATS) else f" --formats {' '.join(formats)}"
        print(f"reproduce one: {parser.prog} --seed {args.seed} --first NUMBER --count 1{same} --keep damaged.bin")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
