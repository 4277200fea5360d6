"""`python -m tests.kills --n 100 [--job encode]`: a table of what so many kills of each job did."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.kills.harness import kill_often
from tests.kills.jobs import jobs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="kills of each job")
    parser.add_argument("--job", action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    n_faults = 0
    print("| job | kills | of them inside a write | ended before | faults |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="codecctl-kills-") as name, jobs(Path(name)) as table:
        for number, (title, job) in enumerate(table.items()):
            if options.job and title not in options.job:
                continue
            folder = Path(name, f"job-{number}")
            tally = kill_often(job, folder, options.n, options.seed)
            print(
                f"| {title} | {tally.n_kills} | {tally.n_inside} | {tally.n_ended} | {len(tally.faults)} |", flush=True
            )
            for fault in tally.faults:
                print(fault, file=sys.stderr)
            n_faults += len(tally.faults)
    return int(n_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
