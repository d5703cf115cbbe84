"""Repeat one seed and show its schedule (`--seed 7 --verbose`), or play many (`--seeds 0 10000`)."""

from __future__ import annotations

import argparse
import sys

from tests.simulation.campaign import play_in_processes, players

SHOWN = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this seed")
    parser.add_argument("--verbose", action="store_true", help="with --seed: show its schedule")
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FROM", "TO"), help="play these, TO left out")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.seed is not None:
        return _one(chosen.seed, verbose=chosen.verbose)
    return _many(range(*(chosen.seeds or (0, 300))), chosen.processes)


def _one(seed: int, *, verbose: bool) -> int:
    with players() as here:
        failure, simulation = here.play(seed)
    if verbose:
        on = ", ".join(sorted(simulation.world.faults.on))
        sys.stdout.write(f"on: {on}\n" + "\n".join(simulation.world.log) + "\n")
    sys.stdout.write(f"{failure or f'seed {seed}: every promise was kept'}\n")
    return int(failure is not None)


def _many(seeds: range, processes: int) -> int:
    report = play_in_processes(seeds, processes)
    sys.stdout.write(report.table() + "\n")
    sys.stdout.writelines(f"{failure}\n" for failure in report.failures[:SHOWN])
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
