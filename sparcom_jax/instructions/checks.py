"""Checks of reference responses: each kind of instruction has rules that a machine can settle.

A row says what its response is checked against in the field that belongs to its category; without the field the row is
not checked:

- CLS `labels`: the labels to choose from; the response is one of them and the instruction names them all.
- CODE `check`: assertions, run after the response. With `language` other than "python" (the default) the response is
  not run; the assertions find its text in the variable `response`.
- MATH `check`: statements that work out `answer` from the givens; the response ends with "The answer is NUMBER."
- SUM `text`: the part of the instruction that is summarised.
- GEN `constraints`: what the instruction asks for that can be counted (`CONSTRAINTS`).
- QA: a short fact, which the instruction does not give away.
"""

import ast
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

CODE_SECONDS = 10
QA_WORDS = 8
SMALL = 12

# Runs in an interpreter of its own, without site packages, and says what `answer` is.
PROGRAM = """
import contextlib, json, resource, sys
with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
row = json.load(sys.stdin)
scope = {"response": row["response"], "__name__": "response"}
if row["execute"]:
    exec(compile(row["response"], "response", "exec"), scope)
exec(compile(row["check"], "check", "exec"), scope)
print(row["ends_with"] + json.dumps(str(scope.get("answer"))))
"""

NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
QUOTES = "\"'\u2018\u2019\u201c\u201d"
DASHES = "-\u2013\u2014"
AROUND_WORDS = f".,;:!?()[]{{}}*\u2026{QUOTES}{DASHES}"
NUMBER_WORDS = {
    **{word: value for value, word in enumerate(UNITS)},
    **{word: value for value, word in zip(range(20, 100, 10), TENS, strict=True)},
    **{
        f"{tens}-{unit}": 20 + 10 * index + 1 + offset
        for index, tens in enumerate(TENS)
        for offset, unit in enumerate(UNITS[1:10])
    },
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "once": 1, "twice": 2, "dozen": 12,
}  # fmt: skip


def words_of(text: str) -> list[str]:
    """Words without the punctuation around them, in lower case."""
    return [word for word in (part.strip(AROUND_WORDS).lower() for part in text.split()) if word]


def lines_of(text: str) -> list[str]:
    """The lines that are not blank."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def sentences_of(text: str) -> list[str]:
    """Parts that end with a full stop, a question mark or an exclamation mark."""
    return [part for part in re.split(rf"(?<=[.!?])[{QUOTES})]*\s+", text.strip()) if part]


def paragraphs_of(text: str) -> list[str]:
    """Parts with blank lines between them."""
    return [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def _lacking(text: str, phrases: list[str]) -> list[str]:
    return [str(phrase) for phrase in phrases if not _mentions(text, str(phrase))]


def first_mention(text: str, phrase: str) -> int | None:
    """Where a text first has a phrase as whole words, in either case."""
    found = re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE)
    return found.start() if found else None


def _mentions(text: str, phrase: str) -> bool:
    return first_mention(text, phrase) is not None


# What GEN's constraints mean: the type of the value, and whether a response meets it.
CONSTRAINTS: dict[str, tuple[Any, Callable[[str, Any], bool]]] = {
    "lines": (int, lambda text, count: len(lines_of(text)) == count),
    "sentences": (int, lambda text, count: len(sentences_of(text)) == count),
    "paragraphs": (int, lambda text, count: len(paragraphs_of(text)) == count),
    "words": (int, lambda text, count: len(words_of(text)) == count),
    "min_words": (int, lambda text, count: len(words_of(text)) >= count),
    "max_words": (int, lambda text, count: len(words_of(text)) <= count),
    "include": (list, lambda text, phrases: not _lacking(text, phrases)),
    "avoid": (list, lambda text, phrases: _lacking(text, phrases) == [str(phrase) for phrase in phrases]),
    "starts_with": (str, lambda text, phrase: text.strip().lower().startswith(phrase.lower())),
    "ends_with": (str, lambda text, phrase: text.strip().strip(f".!?{QUOTES}").lower().endswith(phrase.lower())),
    "acrostic": (str, lambda text, word: "".join(line[0] for line in lines_of(text)).lower() == word.lower()),
}


def check_rows(rows: list[dict[str, Any]], run_code: bool) -> dict[str, list[str]]:
    """Checks the responses of rows by the rules of their categories.

    Args:
      rows: of an instruction file; those that are not `is_checked` have no faults.
      run_code: whether to run the Python of CODE and MATH rows, in subprocesses with limits of time and memory. They
        are no sandbox: only for files that one trusts.

    Returns:
      For the id of each row at fault, what is wrong with it.
    """
    faults = {row["id"]: list(_rules(row)) for row in rows}
    if run_code:
        coded = [row for row in rows if is_checked(row) and row.get("check") and not faults[row["id"]]]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for row, fault in zip(coded, pool.map(_run, coded), strict=True):
                faults[row["id"]] += [fault] if fault else []
    return {name: listed for name, listed in faults.items() if listed}


def is_checked(row: dict[str, Any]) -> bool:
    """Whether a row states what its response is checked against."""
    if row["category"] not in RULES or row.get("response") is None:
        return False
    field, _ = RULES[row["category"]]
    return field is None or bool(row.get(field))


def _rules(row: dict[str, Any]) -> Iterable[str]:
    if not is_checked(row):
        return ()
    field, rules = RULES[row["category"]]
    kind = {"labels": list, "constraints": dict}.get(field or "", str)
    if field and not isinstance(row[field], kind):
        return (f"{field} is not a {kind.__name__}",)
    return rules(row)


def _classification(row: dict[str, Any]) -> Iterable[str]:
    labels = [str(label) for label in row["labels"]]
    if row["response"] not in labels:
        yield f"response {row['response']!r} is none of the labels"
    if missing := _lacking(row["instruction"], labels):
        yield f"labels not named in the instruction: {', '.join(missing)}"


def _code(row: dict[str, Any]) -> Iterable[str]:
    if not _has(row["check"], ast.Assert):
        yield "check has no assertion"


def _math(row: dict[str, Any]) -> Iterable[str]:
    stated = final_answer(row["response"])
    if stated is None:
        yield "response does not end with 'The answer is NUMBER.'"
        return
    if not _has(row["check"], (ast.BinOp, ast.Call, ast.For, ast.While, ast.comprehension)):
        yield "check works nothing out"
        return
    literals = {
        Fraction(str(node.value))
        for node in ast.walk(ast.parse(row["check"]))
        if isinstance(node, ast.Constant) and type(node.value) in (int, float)
    }
    if stated in literals - set(_numbers(row["instruction"])) and abs(stated) > SMALL:
        yield "check contains the answer"


def _fact(row: dict[str, Any]) -> Iterable[str]:
    if len(row["response"].split()) > QA_WORDS:
        yield f"response has more than {QA_WORDS} words"
    if _mentions(row["instruction"], row["response"].rstrip(".")):
        yield "the instruction contains the response"


def _generation(row: dict[str, Any]) -> Iterable[str]:
    stated = {
        NUMBER_WORDS.get(part, part) for word in words_of(row["instruction"]) for part in {word, *word.split("-")}
    }
    for name, value in row["constraints"].items():
        if name not in CONSTRAINTS:
            yield f"unknown constraint {name!r}"
            continue
        kind, is_met = CONSTRAINTS[name]
        if not isinstance(value, kind):
            yield f"constraint {name} is not a {kind.__name__}"
            continue
        if not is_met(row["response"], value):
            yield f"response breaks {name} {value!r}"
        if isinstance(value, int):
            if value not in stated and str(value) not in stated:
                yield f"the instruction does not state {name} {value}"
        elif missing := _lacking(row["instruction"], [value] if isinstance(value, str) else value):
            yield f"the instruction does not state {name} {', '.join(missing)}"


def _summary(row: dict[str, Any]) -> Iterable[str]:
    text = row["text"]
    if text not in row["instruction"]:
        yield "text is not part of the instruction"
        return
    if 2 * len(row["response"].split()) > len(text.split()):
        yield f"response has {len(row['response'].split())} words, more than half of the text's {len(text.split())}"
    values = set(_numbers(text))
    if added := [str(value) for value in _numbers(row["response"]) if value not in values]:
        yield f"numbers that the text lacks: {', '.join(added)}"
    if added := [name for name in _names(row["response"]) if not _mentions(text, name)]:
        yield f"names that the text lacks: {', '.join(added)}"


def _numbers(text: str) -> list[Fraction]:
    """Numbers in digits or in words; `one` is left out: it is a pronoun as often as a number."""
    digits = [Fraction(found.replace(",", "")) for found in re.findall(NUMBER, text)]
    return digits + [Fraction(NUMBER_WORDS[word]) for word in words_of(text) if word in NUMBER_WORDS and word != "one"]


def _names(text: str) -> list[str]:
    """Capitalised words, except where a sentence begins."""
    inner = [word for sentence in sentences_of(text) for word in sentence.split()[1:]]
    stripped = [re.sub("['\u2019]s?$", "", word.strip(AROUND_WORDS)) for word in inner]
    return [word for word in stripped if word[:1].isupper() and word != "I"]


def _has(code: Any, nodes: Any) -> bool:
    try:
        return any(isinstance(node, nodes) for node in ast.walk(ast.parse(code)))
    except (SyntaxError, TypeError, ValueError, RecursionError):
        return False


def final_answer(response: str) -> Fraction | None:
    """The number after the last "The answer is", where the response ends with it: `72`, `1,250`, `-0.5`, `3/4`."""
    found = re.search(r"[Tt]he answer is (-?\d[\d,]*(?:\.\d+|/[1-9]\d*)?)\.?$", response.strip())
    return Fraction(found[1].replace(",", "")) if found else None


def _run(row: dict[str, Any]) -> str | None:
    execute = row["category"] == "CODE" and row.get("language", "python") == "python"
    mark = secrets.token_hex()  # a response that leaves the program early has not been checked
    job = json.dumps({"response": row["response"], "check": row["check"], "execute": execute, "ends_with": mark})
    with tempfile.TemporaryDirectory() as directory:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", PROGRAM],
                input=job, capture_output=True, text=True, timeout=CODE_SECONDS, cwd=directory, env={},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"check ran longer than {CODE_SECONDS} s"
    if done.returncode:
        return f"check fails: {(done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]}"
    _, ended, answer = done.stdout.rpartition(mark)
    if not ended:
        return "check did not run to its end"
    return _compare(row, json.loads(answer)) if row["category"] == "MATH" else None


def _compare(row: dict[str, Any], worked_out: str) -> str | None:
    """A stated decimal may be rounded; a whole number or a fraction is exact."""
    stated = final_answer(row["response"])
    try:
        difference = abs(Fraction(worked_out) - (stated or 0))
    except ValueError:
        return f"check works out {worked_out}, which is no number"
    decimals = re.search(r"\.(\d+)\.?$", row["response"].strip())
    tolerance = Fraction(51, 100) / 10 ** len(decimals[1]) if decimals else Fraction(1, 10**9)
    return None if difference <= tolerance else f"response says {stated}, check works out {worked_out}"


# For each category: the field that a checked row has, none for QA, and the rules.
RULES: dict[str, tuple[str | None, Callable[[dict[str, Any]], Iterable[str]]]] = {
    "CLS": ("labels", _classification),
    "CODE": ("check", _code),
    "QA": (None, _fact),
    "GEN": ("constraints", _generation),
    "MATH": ("check", _math),
    "SUM": ("text", _summary),
}
