from pathlib import Path
from typing import Any

from sparcom_jax.report.manifest import manifest
from sparcom_jax.results.reader import find_results
from tests.synthetic_results import EVALUATE, edit, make_results


def test_the_manifest_shows_what_is_recorded_and_names_what_is_not(tmp_path: Path) -> None:
    made = make_results(tmp_path)

    def described() -> list[str]:
        return manifest(find_results(made)).split("<details>")[1:]

    def forget(summary: dict[str, Any]) -> None:
        for side in (summary, summary.get("base", {}), summary.get("tuned", {})):
            side.pop("manifest", None)

    whole = described()
    assert len(whole) == 4
    assert sum("Not recorded" in table for table in whole) == 1  # the ablation, which was written by hand
    for path in made.rglob("summary.json"):
        edit(path.parent, forget)
    tables = described()
    assert len(tables) == 4
    assert all("Not recorded in the results: " in table and "tokenizer digest" in table for table in tables)
    edit(made / EVALUATE, lambda s: s.update(manifest={
        "tokenizer": {"digest": "d1g35t"}, "tokens": {"counted": 12345},
        "instructions": {"truncated": {"<i9>": 7}},
        "capture": {"convention": "gate", "truncate": True},
    }))  # fmt: skip
    recorded = next(table for table in described() if "d1g35t" in table)
    assert len(described()) == 4
    for cell in ("12,345", "convention gate, truncate yes", "1", "llama"):
        assert f"<td><bdi>{cell}</bdi></td>" in recorded
    assert "tokenizer digest" not in recorded.split("Not recorded")[1]
