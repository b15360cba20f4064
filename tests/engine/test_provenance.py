"""Where scenes came from: what is written is what is read, and what files claim does no harm."""

import hashlib
import json
from pathlib import Path

import pytest

from lyra.engine.errors import InputError
from lyra.engine.scene.provenance import (
    LIMIT,
    Provenance,
    Source,
    provenance_of,
    read_note,
    read_sidecar,
    sidecar_of,
    source_of,
    write_note,
    write_sidecar,
)

DEEP = Source("a.ply", 3, "00", Provenance(licence="MIT", sources=(Source("b.spz", 4, "11"),)))


def test_a_note_says_the_same_when_it_is_read() -> None:
    provenance = provenance_of([DEEP], [{"convert": {"sh": 1}}], consent='"ja"\n\u2028 \x1b[31m')
    note = write_note(provenance)
    assert read_note(note) == provenance
    assert note.isascii() and note.isprintable()  # one line, no control characters
    assert provenance.licence == "MIT"  # the source's own


def test_licences_carry_over_only_where_all_sources_agree() -> None:
    other = Source("c.ply", 1, "22", Provenance(licence="CC0-1.0"))
    assert provenance_of([DEEP, DEEP], []).licence == "MIT"
    assert provenance_of([DEEP, other], []).licence is None
    assert provenance_of([DEEP, Source("d.ply", 1, "33")], []).licence is None
    assert provenance_of([DEEP, other], [], licence="mine").licence == "mine"


def test_old_history_gives_way() -> None:
    provenance = Provenance()
    for step in range(40):
        provenance = Provenance(
            operations=({"step": step, "pad": "x" * 4000},), sources=(Source("s", 1, "", provenance),)
        )
    note = write_note(provenance)
    assert 0.8 * LIMIT < len(note) <= LIMIT
    read = read_note(note)
    assert read is not None and read.operations[0]["step"] == 39
    with pytest.raises(InputError, match="too long"):
        write_note(Provenance(licence="x" * LIMIT))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "nonsense",
        "[]",
        "{}",
        "null",
        '{"made_by": 3}',
        '{"made_by": "x", "operations": [3]}',
        '{"made_by": "x", "operations": 5}',
        '{"made_by": "x", "sources": [{"name": "y"}]}',
        '{"made_by": "x", "sources": [{"name": "y", "bytes": "many", "sha256": ""}]}',
        '{"made_by": "x", "licence": {}}',
        '{"made_by": "x", "sources": [{"name": "y", "bytes": 1e999, "sha256": ""}]}',
        "[" * 10_000,
        '{"made_by": "' + "x" * LIMIT + '"}',
    ],
)
def test_what_is_no_note_is_none(text: str | None) -> None:
    assert read_note(text) is None


def test_files_and_folders_are_hashed_by_content_and_name(tmp_path: Path) -> None:
    file = tmp_path / "scene.ply"
    file.write_bytes(b"abc")
    assert source_of(file, None) == Source("scene.ply", 3, hashlib.sha256(b"abc").hexdigest())
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "x").write_bytes(b"12")
    (folder / "y").write_bytes(b"345")
    found = source_of(folder, None)
    assert (found.name, found.bytes) == ("folder", 5)
    assert found.sha256 == hashlib.sha256(b"inner/x\x0012y\x00345").hexdigest()
    (folder / "y").rename(folder / "z")
    assert source_of(folder, None).sha256 != found.sha256


def test_a_sidecar_holds_for_its_own_file_only(tmp_path: Path) -> None:
    file = tmp_path / "scene.splat"
    file.write_bytes(b"abc")
    note = write_note(provenance_of([DEEP], []))
    write_sidecar(file, note)
    assert read_note(read_sidecar(file)) == read_note(note)
    file.write_bytes(b"abd")
    assert read_sidecar(file) is None
    write_sidecar(file, None)
    assert not sidecar_of(file).exists() and read_sidecar(file) is None
    for damaged in (b"", b"{}", b"[1]", b"\xff", b'{"sha256": 3}', b" " * 3 * LIMIT):
        sidecar_of(file).write_bytes(damaged)
        assert read_sidecar(file) is None


def test_no_folder_name_and_no_time_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "secret-person"
    folder.mkdir()
    (folder / "scene.ply").write_bytes(b"abc")
    note = write_note(provenance_of([source_of(folder / "scene.ply", None)], [{"convert": {}}]))
    assert "secret" not in note
    assert set(json.loads(note)) == {"made_by", "operations", "sources"}
