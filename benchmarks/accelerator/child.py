"""One process of the benchmark: does parts, each within its share of the time.

python -m benchmarks.accelerator.child PARTS LINES UNTIL [TRACE]       (started by `__main__.py`)
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.accelerator.__main__ import PARTS
from benchmarks.accelerator.record import Record, add_line


def main() -> None:
    names, lines, until = sys.argv[1].split(","), Path(sys.argv[2]), float(sys.argv[3])
    trace = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    from benchmarks.accelerator.machine import on_cpu

    for index, name in enumerate(names):
        share = PARTS[name] / sum(PARTS[one] for one in names[index:])
        end = time.time() + max(until - time.time(), 0.0) * share
        add_line(lines, "begun", part=name, at=time.time(), until=end)
        record = Record(name, lines, end)
        with tempfile.TemporaryDirectory(prefix="sparcom-part-") as work:
            record.attempt("the part", partial(do, name, record, Path(work), trace))
        add_line(lines, "done", part=name, at=time.time())
        # What a part leaves in a card's memory would be missing to the next.
        if not on_cpu():
            return


def do(name: str, record: Record, work: Path, trace: Path | None) -> None:
    """Does a part; what it needs is imported here, so that it costs no other part anything."""
    kind, _, rest = name.partition("-")
    if kind == "machine":
        from benchmarks.accelerator import machine

        machine.measure(record)
    elif kind == "parity":
        from benchmarks.accelerator import parity

        parity.parity(record, rest, work)
    elif kind == "experts":
        from benchmarks.accelerator import experts

        experts.compare(record)
    else:
        from benchmarks.accelerator import rates

        if rest == "hooks":
            rates.hooks(record, kind)
        else:
            rates.capture_rates(record, kind, work, trace)


if __name__ == "__main__":
    main()
