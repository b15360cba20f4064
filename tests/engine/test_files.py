"""Files that are replaced: whole or not at all, and nothing but files."""

import os
from pathlib import Path

import pytest

from lyra.engine.errors import InputError
from lyra.engine.files import check_writable, replacing


def write(path: Path, text: str = "new") -> None:
    with replacing(path) as stream:
        stream.write(text.encode())


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as stream:
        stream.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]
    write(path)
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    real, link = tmp_path / "inner" / "real", tmp_path / "link"
    real.write_text("old")
    link.symlink_to(real)
    check_writable(link)
    write(link)
    assert link.is_symlink() and real.read_text() == "new"
    real.unlink()  # the link dangles
    write(link, "again")
    assert link.is_symlink() and real.read_text() == "again"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_folders_are_refused(tmp_path: Path) -> None:
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for path, told in ((pipe, "is a pipe or a device"), (folder, "is a folder")):
        for attempt in (check_writable, write):
            with pytest.raises(InputError, match=told):
                attempt(path)
    assert pipe.is_fifo() and sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.symlink_to(two)
    two.symlink_to(one)
    for attempt in (check_writable, write):
        with pytest.raises(InputError, match="give a name in a folder"):
            attempt(one)
