"""All that the parts found, as a table and as JSON."""

from pathlib import Path
from typing import Any

from benchmarks import print_table
from benchmarks.accelerator.record import AT_LEAST, AT_MOST, Figure, read_lines

TIMES_THE_HOOKS = {"dense": 1.5, "moe": 3.0, "gpt_oss": 3.0}
"""How many times as fast as torch with hooks a capture is to be."""


class Summary:
    """What was found, and whether it is right."""

    def __init__(self, lines: Path, parts: list[str]) -> None:
        """Reads what the parts took down."""
        found = read_lines(lines)
        self.parts = parts
        self.facts, self.failures, self.skipped, self.optional = (
            [{key: one[key] for key in ("part", "name", "value")} for one in found if one["kind"] == kind]
            for kind in ("fact", "failure", "skipped", "optional")
        )
        self.figures = [
            Figure(**{key: value for key, value in one.items() if key != "kind"})
            for one in found
            if one["kind"] == "figure"
        ]
        self.figures += self._ratios()
        begun, done = ({one["part"]: one["at"] for one in found if one["kind"] == kind} for kind in ("begun", "done"))
        self.seconds = {name: round(at - begun[name], 1) for name, at in done.items()}

    @property
    def right(self) -> bool:
        """Whether every part was done, and every number that is to be right is."""
        whole = set(self.seconds) == set(self.parts) and not self.failures and not self.skipped
        return whole and all(one.met is not False for one in self.figures if one.strict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "right": self.right,
            "parts": {name: name in self.seconds for name in self.parts},
            "seconds": self.seconds,
            "facts": self.facts,
            "figures": [vars(one) | {"met": one.met} for one in self.figures],
            "failures": self.failures,
            "skipped": self.skipped,
            "optional": self.optional,
        }

    def print(self) -> None:
        """Prints facts, figures, and what failed or was left out."""
        print("\n".join(f"{one['name']}: {one['value']}" for one in self.facts) + "\n")
        rows = [(f"{one.part}: {one.name}", _number(one.value), one.unit, _spread(one), _goal(one), _verdict(one))
                for one in self.figures]  # fmt: skip
        print_table(("figure", "median", "unit", "from .. to", "goal", ""), rows)
        for title, listed in (
            ("failed", self.failures), ("not done", self.skipped), ("not done or does not work here", self.optional),
        ):  # fmt: skip
            for one in listed:
                print(f"{title}: {one['part']}: {one['name']}: {one['value']}")
        strict = [one for one in self.figures if one.strict]
        wrong = sum(one.met is False for one in strict)
        print("seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.seconds.items()))
        print(
            f"{len(self.seconds)} of {len(self.parts)} parts done; {len(strict) - wrong} of {len(strict)} numbers right"
        )

    def _ratios(self) -> list[Figure]:
        """Of captures to the hooks, which had processes of their own."""
        value = {(one.part, one.name): one.value for one in self.figures}
        in_small = any(one["name"] == "devices" and one["value"].endswith("(cpu)") for one in self.facts)
        devices = value.get(("machine", "devices"), 1.0)
        ratios = []
        for part, goal in TIMES_THE_HOOKS.items():
            ours = value.get((part, "capture, instructions of HexaInst"))
            theirs = value.get((f"{part}-hooks", "torch hooks"))
            if ours and theirs:
                # Torch has one device of those that the capture has.
                ratios.append(Figure(part, "capture of a device over torch with hooks", ours / devices / theirs,
                                     "times", goal=None if in_small else goal, bound=AT_LEAST))  # fmt: skip
        return ratios


def _number(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
    return f"{value:.2e}"


def _spread(one: Figure) -> str:
    return "" if one.low is None or one.high is None else f"{_number(one.low)} .. {_number(one.high)}"


def _goal(one: Figure) -> str:
    return "" if one.goal is None else f"{'<=' if one.bound == AT_MOST else '>='} {_number(one.goal)}"


def _verdict(one: Figure) -> str:
    if one.met is None:
        return ""
    return "met" if one.met else ("WRONG" if one.strict else "missed")
