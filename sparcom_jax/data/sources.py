"""Reads public corpora in their native files as instructions: one row of the format of instruction files for each.

A file is recognised by what its first record looks like, not by its name. What a corpus does not say of a row, such as
its category, is taken from the corpus's own metadata (task names, categories, is_classification), else from its
words; rows for which neither tells are left out and counted.
"""

import csv
import gzip
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparcom_jax.errors import InputError

Record = dict[str, Any]

KINDS = (".jsonl", ".json", ".tsv", ".csv", ".parquet")
END_OF_TEXT = re.compile(r"<\|endoftext\|>|<\|end_of_text\|>|<\|im_end\|>|</?s>|<pad>|<eos>|<EOS>|\[EOS\]")
EMPTY_INPUTS = {"", "<noinput>", "noinput", "no input", "n/a", "none"}
INTENTS_OFFERED = (3, 14, 40)

# Words that tell the category of an instruction whose corpus does not; the first category that has one of its words.
TELLING_WORDS = {
    "SUM": {"condense", "summarise", "summarize", "summary", "summarization"},
    "CLS": {"categorise", "categorize", "classify", "label"},
    "GEN": {"brainstorm", "compose", "create", "describe", "design", "draft", "generate", "imagine", "invent", "make",
            "plan", "recommend", "suggest", "tell", "write"},
}  # fmt: skip
# An instruction with one of these words is of another kind, whatever its verb: "write a program", "write a proof".
OTHER_KINDS = frozenset({
    "bash", "bug", "calculate", "code", "convert", "css", "equation", "excel", "extract", "find", "function", "html",
    "java", "javascript", "json", "latex", "markdown", "math", "number", "program", "proof", "prove", "python", "query",
    "regex", "script", "solution", "solve", "sql", "translate", "translation", "verify",
})  # fmt: skip
CATEGORY_OF_DOLLY = {
    "classification": "CLS", "summarization": "SUM", "open_qa": "QA", "closed_qa": "QA", "general_qa": "QA",
    "creative_writing": "GEN", "brainstorming": "GEN",
}  # fmt: skip
# Parts of the names of tasks, of the FLAN Collection and of the task categories of Natural Instructions.
CATEGORY_OF_TASK = {
    "MATH": "aqua gsm8k svamp asdiv multiarith math_dataset mathematics arithmetic",
    "CODE": "text_to_code program_synthesis conala code_generation",
    "SUM": "cnn_dailymail xsum gigaword samsum multi_news newsroom aeslc ag_news_summ summarization title_generation",
    "CLS": "sst2 imdb sentiment140 yelp ag_news_subset ag_news dbpedia trec cola rte mnli qnli snli esnli creak anli "
           "paws qqp mrpc stsb wic sensemaking classification sentiment_analysis text_categorization "
           "textual_entailment toxic_language_detection spam",
    "QA": "natural_questions trivia_qa web_questions arc strategyqa ecqa qasc qed question_answering squad "
          "boolq openbookqa",
    "GEN": "common_gen e2e_nlg dart web_nlg story_composition poem_generation text_completion dialogue_generation",
}  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """One native format.

    Attributes:
      name: of the corpus, recorded as `source`.
      licence: of its rows, recorded as `licence`.
      recognises: whether a record is of this format.
      read: makes category, instruction, response and the fields of the checks of a record, given the file's name; None
        where the record is of no category.
    """

    name: str
    licence: str
    recognises: Callable[[Record], bool]
    read: Callable[[Record, str], Record | None]


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
            try:
                record = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}:{number}: not JSON: {error}") from error
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
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
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


def _human_eval(record: Record, file: str) -> Record:
    return {
        "category": "CODE",
        "instruction": record["prompt"],
        "response": record["prompt"].lstrip() + record["canonical_solution"],
        "check": f"{record['test']}\ncheck({record['entry_point']})",
    }


def _mbpp(record: Record, file: str) -> Record:
    tests = [record["test_setup_code"], *record["test_list"]]
    return {
        "category": "CODE",
        "instruction": f"{record['text']}\nYour code should pass this test: {record['test_list'][0]}",
        "response": record["code"],
        "check": "\n".join(tests).strip().replace("\r\n", "\n"),
    }


def _gsm8k(record: Record, file: str) -> Record:
    rationale, answer = re.sub(r"<<.*?>>", "", record["answer"]).rsplit("####", 1)
    return {
        "category": "MATH",
        "instruction": record["question"],
        "response": f"{rationale.strip()}\nThe answer is {answer.strip()}.",
    }


def _math500(record: Record, file: str) -> Record:
    return {"category": "MATH", "instruction": record["problem"], "response": record["solution"]}


def _cot(record: Record, file: str) -> Record | None:
    category = _task_category(file)
    answer = record["cot_answer"]
    response = f"{record['cot_rationale']}\nThe answer is {answer}." if category == "MATH" else answer
    return (
        None
        if category is None
        else {"category": category, "instruction": record["cot_question"], "response": response}
    )


def _flan(record: Record, file: str) -> Record | None:
    if "fs_" in str(record.get("template_type", record.get("_template_type", ""))):
        return None  # several solved examples before the task
    task = next((record[key] for key in ("task_name", "_task_name", "task") if record.get(key)), file)
    category = _task_category(str(task))
    return (
        None
        if category is None
        else {"category": category, "instruction": record["inputs"], "response": record["targets"]}
    )


def _trivia_qa(record: Record, file: str) -> Record:
    question = record.get("Question") or record["question"]
    answer = record.get("Answer") or record["answer"]
    return {"category": "QA", "instruction": question, "response": answer.get("Value") or answer["value"]}


def _nq_open(record: Record, file: str) -> Record:
    return {"category": "QA", "instruction": record["question"], "response": record["answer"][0]}


def _alpaca(record: Record, file: str) -> Record | None:
    category = _told_category(record["instruction"])
    text = _with_input(record["instruction"], record["input"])
    return None if category is None else {"category": category, "instruction": text, "response": record["output"]}


def _dolly(record: Record, file: str) -> Record | None:
    category = CATEGORY_OF_DOLLY.get(record["category"])
    text = _with_input(record["instruction"], record["context"])
    return None if category is None else {"category": category, "instruction": text, "response": record["response"]}


def _natural_instructions(record: Record, file: str) -> Record | None:
    definition = record["Definition"]
    names = record["Categories"] or [file]
    category = next(filter(None, (_task_category(name) for name in names)), None)
    text = definition if isinstance(definition, str) else "\n".join(definition)
    output = record["output"] if isinstance(record["output"], str) else record["output"][0]
    return (
        None
        if category is None
        else {"category": category, "instruction": f"{text}\n\n{record['input']}", "response": output}
    )


def _self_instruct(record: Record, file: str) -> Record | None:
    instance = record["instances"][0]
    category = "CLS" if record.get("is_classification") else _told_category(record["instruction"])
    text = _with_input(record["instruction"], instance["input"])
    return None if category is None else {"category": category, "instruction": text, "response": instance["output"]}


def _banking77(record: Record, file: str) -> Record:
    return _intent(record["text"], record["category"], record["intents"])


def _clinc150(record: Record, file: str) -> Record | None:
    return _intent(record["text"], record["intent"], record["intents"]) if record["intent"] != "oos" else None


def _intent(message: str, intent: str, intents: list[str]) -> Record:
    """Offers the intent among others; how many differs by message, so that not all rows are equally long."""
    seed = int.from_bytes(hashlib.sha256(message.encode()).digest()[:8], "big")
    random = np.random.default_rng(seed)
    others = [other for other in intents if other != intent]
    offered = min(INTENTS_OFFERED[seed % len(INTENTS_OFFERED)], len(others))
    chosen = [others[index] for index in random.choice(len(others), offered, replace=False)] + [intent]
    labels = [_readable(chosen[index]) for index in random.permutation(len(chosen))]
    return {
        "category": "CLS",
        "instruction": f"{message.strip()}\nIntent, one of: {', '.join(labels)}.",
        "response": _readable(intent),
        "labels": labels,
    }


def _scitldr(record: Record, file: str) -> Record:
    article = " ".join(sentence.strip() for sentence in record["source"])
    return {"category": "SUM", "instruction": f"Summarise in a sentence:\n\n{article}", "response": record["target"][0]}


def _article(article: str, summary: str) -> Callable[[Record, str], Record]:
    def read(record: Record, file: str) -> Record:
        text = f"Summarise this news report:\n\n{record[article].strip()}"
        return {"category": "SUM", "instruction": text, "response": record[summary]}

    return read


def _readable(intent: str) -> str:
    return intent.replace("_", " ").strip("? ").lower()


def _told_category(instruction: str) -> str | None:
    words = set(re.findall(r"[a-z]+", instruction.lower()))
    if OTHER_KINDS & words:
        return None
    return next((category for category, telling in TELLING_WORDS.items() if telling & words), None)


def _with_input(instruction: str, text: str | None) -> str:
    text = (text or "").strip()
    return instruction if text.lower() in EMPTY_INPUTS else f"{instruction.strip()}\n\n{text}"


def _task_category(name: str) -> str | None:
    """By the longest whole words that are known: `ag_news_summ` is not `ag_news`, `quarter` is not `rte`."""
    plain = f"_{re.sub(r'[^a-z0-9]+', '_', name.lower())}_"
    known = [(len(part), category) for category, parts in CATEGORY_OF_TASK.items() for part in parts.split()
             if f"_{part}_" in plain]  # fmt: skip
    return max(known)[1] if known else None


def _has(*fields: str) -> Callable[[Record], bool]:
    return lambda record: all(field in record for field in fields)


def _question_with(answer: type) -> Callable[[Record], bool]:
    def recognises(record: Record) -> bool:
        folded = {key.lower(): value for key, value in record.items()}
        found = folded.get("answer")
        return "question" in folded and isinstance(found, answer) and (not isinstance(found, str) or "####" in found)

    return recognises


# In this order; the first that recognises a file's first record reads the file.
CORPORA = (
    Corpus("human-eval", "MIT", _has("prompt", "canonical_solution", "test", "entry_point"), _human_eval),
    Corpus("mbpp", "CC-BY-4.0", _has("text", "code", "test_list"), _mbpp),
    Corpus("math-500", "MIT", _has("problem", "solution", "answer"), _math500),
    Corpus("flan-cot", "Apache-2.0", _has("cot_question"), _cot),
    Corpus("flan", "Apache-2.0", _has("inputs", "targets"), _flan),
    Corpus("trivia-qa", "Apache-2.0", _question_with(dict), _trivia_qa),
    Corpus("nq-open", "CC-BY-SA-3.0", _question_with(list), _nq_open),
    Corpus("gsm8k", "MIT", _question_with(str), _gsm8k),
    Corpus("dolly-15k", "CC-BY-SA-3.0", _has("instruction", "context", "response", "category"), _dolly),
    Corpus("alpaca", "CC-BY-NC-4.0", _has("instruction", "input", "output"), _alpaca),
    Corpus("natural-instructions", "Apache-2.0", _has("Definition", "input", "output"), _natural_instructions),
    Corpus("self-instruct", "Apache-2.0", _has("instruction", "instances"), _self_instruct),
    Corpus("clinc150", "CC-BY-3.0", _has("text", "intent", "intents"), _clinc150),
    Corpus("banking77", "CC-BY-4.0", _has("text", "category", "intents"), _banking77),
    Corpus("scitldr", "Apache-2.0", _has("source", "target"), _scitldr),
    Corpus("cnn-dailymail", "Apache-2.0", _has("article", "highlights"), _article("article", "highlights")),
    Corpus("xsum", "not stated", _has("document", "summary"), _article("document", "summary")),
)
