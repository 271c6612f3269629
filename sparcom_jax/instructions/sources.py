"""Reads the files of public corpora, record by record; a file is of the corpus that its first record looks like."""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparcom_jax.errors import InputError
from sparcom_jax.instructions.corpora import CORPORA, Record
from sparcom_jax.strict_json import loads, require_plain

KINDS = (".jsonl", ".json", ".tsv", ".csv", ".parquet")
END_OF_TEXT = re.compile(r"<\|endoftext\|>|<\|end_of_text\|>|<\|im_end\|>|</?s>|<pad>|<eos>|<EOS>|\[EOS\]")


@dataclass(frozen=True)
class SourceFile:
    """A file that was read.

    Attributes:
      path: relative to the sources.
      corpus: name of the corpus that it is of; none if not recognised.
      rows: rows read.
      left_out: records that gave no row.
    """

    path: str
    corpus: str | None
    rows: int
    left_out: int


def read_sources(directory: str | Path) -> tuple[list[Record], list[SourceFile]]:
    """Reads every file of a directory, and below it, that is of a known corpus.

    Returns:
      Rows with category, instruction, response, source, licence and origin (`file:record`), in the order of the files'
      names; and what became of each file.

    Raises:
      InputError: the directory is missing, or a file of a known format is damaged; the message names file and line.
    """
    directory = Path(directory).expanduser()
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory")
    rows: list[Record] = []
    files = []
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = str(path.relative_to(directory))
        found, file = _read_file(path, name) if _kind(path) in KINDS else ([], SourceFile(name, None, 0, 0))
        rows += found
        files.append(file)
    return rows, files


def clean(text: str) -> str:
    """Line ends as newlines, no end-of-text markers, no quoting left over from CSV, no space around."""
    text = END_OF_TEXT.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ")).strip()
    inner = text[1:-1]
    quoted = len(text) > 1 and text[0] == text[-1] == '"' and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"').strip() if quoted else text


def _read_file(path: Path, name: str) -> tuple[list[Record], SourceFile]:
    rows: list[Record] = []
    corpus = None
    left_out = 0
    for number, (where, record) in enumerate(_records(path)):
        if number == 0:
            corpus = next((one for one in CORPORA if one.recognises(record)), None)
            if corpus is None:
                return [], SourceFile(name, None, 0, 0)
        assert corpus is not None
        try:
            row = corpus.read(record, path.name)
        except KeyError as error:
            raise InputError(f"{path}:{where}: {corpus.name} row lacks field {error.args[0]!r}") from error
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(f"{path}:{where}: {corpus.name} row is malformed: {error}") from error
        if row is None:
            left_out += 1
            continue
        for field in ("instruction", "response"):
            if not isinstance(row[field], str):
                raise InputError(f"{path}:{where}: {corpus.name} row is malformed: its {field} is not text")
            row[field] = clean(row[field])
        require_plain(row, f"{path}:{where}")
        if not row["instruction"] or not row["response"]:
            left_out += 1
            continue
        rows.append(row | {"source": corpus.name, "licence": corpus.licence, "origin": f"{name}:{where}"})
    return rows, SourceFile(name, corpus.name if corpus else None, len(rows), left_out)


def _records(path: Path) -> Iterator[tuple[int, Record]]:
    """The records of a file with their line, or their number where a record is no line."""
    if path.suffix == ".parquet":
        yield from enumerate(_parquet(path), 1)
        return
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if _kind(path) == ".tsv":
        yield from _tsv(path, text)
    elif _kind(path) == ".csv":
        yield from _csv(path, text)
    elif _kind(path) == ".json" and (whole := _whole_json(path, text)) is not None:
        yield from enumerate(whole, 1)
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            record = loads(line, f"{path}:{number}")
            if not isinstance(record, dict):
                raise InputError(f"{path}:{number}: not a JSON object")
            yield number, record


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix


def _csv(path: Path, text: str) -> list[tuple[int, Record]]:
    records: list[tuple[int, Record]] = []
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        for record in reader:
            if None in record or None in record.values():
                raise InputError(f"{path}:{reader.line_num}: the row has not as many columns as the header")
            records.append((reader.line_num, dict(record)))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num + 1}: not CSV: {error}") from error
    if reader.fieldnames == ["text", "category"]:  # each row offers some of the intents of all rows
        intents = sorted({record["category"] for _, record in records})
        records = [(line, record | {"intents": intents}) for line, record in records]
    return records


def _whole_json(path: Path, text: str) -> list[Record] | None:
    """The records within one JSON value; None where the file holds one object a line."""
    try:
        whole = loads(text, str(path))
    except InputError as error:
        fault = error.__cause__
        if not isinstance(fault, json.JSONDecodeError):
            raise
        if fault.msg == "Extra data":
            return None
        raise InputError(f"{path}:{fault.lineno}: not JSON: {fault.msg}") from fault
    if not isinstance(whole, list | dict):
        raise InputError(f"{path}: neither a list nor an object")
    if isinstance(whole, list):
        records = whole
    elif isinstance(whole.get("Data"), list):
        records = whole["Data"]
    elif isinstance(whole.get("Instances"), list):
        shared = {"Definition": whole.get("Definition"), "Categories": whole.get("Categories")}
        records = [shared | one if isinstance(one, dict) else one for one in whole["Instances"]]
    elif whole and all(isinstance(split, list) for split in whole.values()):
        pairs = [pair for split in whole.values() for pair in split if pair]
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return [whole]
        intents = sorted({intent for _, intent in pairs} - {"oos"})
        records = [{"text": message, "intent": intent, "intents": intents} for message, intent in pairs]
    else:
        records = [whole]
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise InputError(f"{path}:{number}: not a JSON object")
    return records


def _tsv(path: Path, text: str) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(text.splitlines(), 1):
        columns = line.split("\t")
        if len(columns) != 3:
            raise InputError(f"{path}:{number}: {len(columns)} columns, not question, answer and rationale")
        question, answer, rationale = (column.replace("\\n", "\n") for column in columns)
        yield number, {"cot_question": question, "cot_answer": answer, "cot_rationale": rationale}


def _parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError(f"{path}: reading Parquet needs pyarrow: pip install 'sparcom_jax[parquet]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
