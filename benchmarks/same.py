"""Compares what two versions made of one study: every array of every run, and every table, value by value.

python -m benchmarks.same BEFORE AFTER

BEFORE and AFTER are directories that launch/analyze.py wrote. Prints what was compared and what differs; exit code 1
where anything does. Manifests and summaries say which version made them, and are not compared.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks import print_table
from sparcom_jax.store.arrays import Store

METADATA = "zarr.json"


def arrays(root: Path) -> set[str]:
    """Paths of all Zarr arrays below a directory."""
    found = (path for path in root.rglob(METADATA) if json.loads(path.read_text())["node_type"] == "array")
    return {path.parent.relative_to(root).as_posix() for path in found}


def tables(root: Path) -> set[str]:
    """Paths of all tables below a directory."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*.csv")}


def unlike_arrays(before: Path, after: Path, name: str) -> str | None:
    """How an array differs; None if its values are the same, bit by bit."""
    one, other = (np.asarray(Store(root).open_array(name).read().result()) for root in (before, after))
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"{one.dtype}{list(one.shape)}, now {other.dtype}{list(other.shape)}"
    if one.tobytes() == other.tobytes():
        return None
    return f"{int((one != other).sum())} of {one.size} values"


def unlike_tables(before: Path, after: Path, name: str) -> str | None:
    """How a table differs; None if it is the same, byte by byte."""
    one, other = ((root / name).read_text().splitlines() for root in (before, after))
    if one == other:
        return None
    return f"{sum(a != b for a, b in zip(one, other, strict=False))} of {len(one)} lines, {len(other)} now"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args()
    rows, differences = [], []
    for what, find, unlike in (("arrays", arrays, unlike_arrays), ("tables", tables, unlike_tables)):
        names = [find(root) for root in (args.before, args.after)]
        for name in sorted(names[0] ^ names[1]):
            differences.append((name, f"only in {args.before if name in names[0] else args.after}"))
        common = sorted(names[0] & names[1])
        found = [(name, difference) for name in common if (difference := unlike(args.before, args.after, name))]
        differences += found
        rows.append((what, str(len(common)), str(len(common) - len(found))))
    print_table(("what", "in both", "the same"), rows)
    for name, difference in differences:
        print(f"{name}: {difference}")
    return 1 if differences or not all(int(count) for _, count, _ in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
