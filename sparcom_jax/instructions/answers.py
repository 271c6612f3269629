"""Whether an answer is right, by what a row says of its response; for rows and kinds that a machine can settle.

- CLS `labels`: the answer names the label of the response, and no other.
- QA: the answer names the response.
- MATH: the last number of the answer is the one that the response ends with.
- CODE `check`: the first block of code of the answer, or all of it, passes the assertions. It is run.
"""

import re
from fractions import Fraction
from typing import Any

from sparcom_jax.instructions.checks import check_rows, final_answer, first_mention

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+|/[1-9]\d*)?")
BLOCK = re.compile(r"```(?:[\w+-]*\n)?(.*?)(?:```|\Z)", re.DOTALL)


def is_settled(row: dict[str, Any], execute: bool) -> bool:
    """Whether `is_right` can say anything of answers to a row.

    Args:
      row: of an instruction file.
      execute: whether code may be run.
    """
    response = row.get("response")
    if not response:
        return False
    match row["category"]:
        case "CLS":
            return bool(row.get("labels")) and response in row["labels"]
        case "QA":
            return True
        case "MATH":
            return final_answer(response) is not None
        case "CODE":
            return execute and bool(row.get("check")) and row.get("language", "python") == "python"
    return False


def are_right(rows: list[dict[str, Any]], answers: list[str]) -> list[bool]:
    """Whether each answer is right; code is run, in subprocesses with limits of time and memory, which are no sandbox.

    Args:
      rows: those that are settled.
      answers: to each.
    """
    code = [{**row, "id": str(at), "response": code_of(answer)} for at, (row, answer) in
            enumerate(zip(rows, answers, strict=True)) if row["category"] == "CODE"]  # fmt: skip
    failed = check_rows(code, run_code=True)
    return [str(at) not in failed if row["category"] == "CODE" else _is_right(row, answer)
            for at, (row, answer) in enumerate(zip(rows, answers, strict=True))]  # fmt: skip


def code_of(answer: str) -> str:
    """The first block of code of an answer; all of it where it has none."""
    found = BLOCK.search(answer)
    return (found[1] if found else answer).strip()


def _is_right(row: dict[str, Any], answer: str) -> bool:
    response = row["response"]
    if row["category"] == "MATH":
        numbers = NUMBER.findall(answer)
        return bool(numbers) and Fraction(numbers[-1].replace(",", "")) == final_answer(response)
    if row["category"] == "CLS":
        return {label for label in row["labels"] if first_mention(answer, str(label)) is not None} == {response}
    return first_mention(answer, response.rstrip(".")) is not None
