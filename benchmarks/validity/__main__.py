"""What the statistics can and cannot tell, on made-up counts in which the truth is known.

python -m benchmarks.validity [--part=all] [--units=6000] [--planted=30] [--replicates=3] [--seed=0]

Every unit has a rate of its own, from which instructions deviate. Lengths are alike, or those of the shipped set, or
the categories' own (`apart`); where they are not alike, half of the units are more active in longer instructions,
whatever the category. Planted: in the instructions of a category, its units are switched on at 60% of the tokens at
which they were silent.
"""

import argparse

from benchmarks.validity.selectors import false_positives, recovery
from benchmarks.validity.sets import cells, controls, selection, two_models, uniqueness_intervals

PARTS = {
    "selectors": (recovery, false_positives),
    "selection": (selection,),
    "cells": (cells,),
    "two_models": (two_models,),
    "uniqueness": (uniqueness_intervals,),
    "controls": (controls,),
}


def main() -> None:
    """Prints the tables of a part, or of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["all", *PARTS], default="all")
    parser.add_argument("--units", type=int, default=6000)
    parser.add_argument("--planted", type=int, default=30)
    parser.add_argument("--replicates", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for part, tables in PARTS.items():
        if args.part in ("all", part):
            for print_one in tables:
                print_one(args)


if __name__ == "__main__":
    main()
