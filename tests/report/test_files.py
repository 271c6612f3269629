from pathlib import Path

import pytest

from sparcom_jax.errors import InputError
from sparcom_jax.report.files import write_whole


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "below/file", b"first")
    write_whole(tmp_path / "below/file", b"second")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "below").iterdir()] == [("file", b"second")]


def test_nothing_is_left_where_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(InputError, match="directory: cannot be written"):
        write_whole(tmp_path / "directory", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]
