"""Commands in several processes, as torchrun starts them."""

import os
import socket
import subprocess
import sys


def launch(processes, words, work):
    """Run `wavecast` in one process a rank, told by its environment where the others are.

    Args:
        processes: how many.
        words: of the command line.
        work: working directory.

    Returns:
        ((stdout, stderr), exit code) of each.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    place |= {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "wavecast", *words],
            cwd=work,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        return [(process.communicate(timeout=600), process.returncode) for process in running]
    finally:
        for process in running:
            process.kill()
