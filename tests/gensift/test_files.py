"""Folders that are there whole, or not at all."""

from pathlib import Path

import pytest

from gensift.files import folder_written_whole


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder"
    with folder_written_whole(target) as folder:
        (folder / "file").write_text("text")
        assert not target.exists()
    assert (target / "file").read_text() == "text"
    assert list(target.parent.iterdir()) == [target]


def test_nothing_is_left_of_one_that_failed(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with pytest.raises(RuntimeError), folder_written_whole(target) as folder:
        (folder / "file").write_text("text")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    with pytest.raises(OSError), folder_written_whole(tmp_path / "folder") as folder:
        (folder / "file").write_text("text")
    assert [file.name for file in tmp_path.rglob("*")] == ["folder", "mine"]
