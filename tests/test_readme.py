"""The Python of the README, run as it stands."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from zarr.errors import ZarrUserWarning

from tests.synthetic import MIXED, make_run, random_masks, write_sets

README = Path(__file__).parents[1] / "README.md"


def test_the_blocks_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [i % 3 for i in range(72)]
    run = make_run(tmp_path / "outputs/demo/runs/moe-tuned", labels, groups=MIXED, categories=("CODE", "QA", "SUM"))
    write_sets(run, random_masks(run))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    known: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        exec("\n".join(blocks), known)
    assert known["units"].mask["routed"].shape == known["core"].shape
    assert known["count"].shape == run.count("mlp").shape
