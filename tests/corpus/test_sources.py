"""Folders, patterns, lists, tars and URLs name the clips of a corpus."""

from __future__ import annotations

import datetime
import decimal
import errno
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vtok_codec.corpus.clip_source import ClipSource, opened
from vtok_codec.corpus.sources import find_clips, keys_of
from vtok_codec.errors import InputError, SettingError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of files that look like clips."""
    for name in ("a.mp4", "b/a.mp4", "b/c d.MKV", "b/notes.md", "b/100%d.mov", "z.tiff"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def names(clips: list[ClipSource], folder: Path) -> list[str]:
    return [clip.name.removeprefix(f"{folder}/") for clip in clips]


def test_a_folder_is_searched_with_its_subfolders(folder: Path) -> None:
    clips = find_clips([str(folder)])
    assert names(clips, folder) == ["a.mp4", "b/100%d.mov", "b/a.mp4", "b/c d.MKV"]
    assert keys_of(clips) == ["a", "b/100_d", "b/a", "b/c_d"]


def test_sources_are_joined_sorted_and_not_repeated(folder: Path) -> None:
    clips = find_clips([str(folder / "b"), str(folder / "a.mp4"), str(folder / "**/a.mp4")])
    assert names(clips, folder) == ["a.mp4", "b/100%d.mov", "b/a.mp4", "b/c d.MKV"]


def test_equal_keys_get_numbers(folder: Path) -> None:
    clips = find_clips([str(folder / "a.mp4"), str(folder / "b/a.mp4")])
    assert keys_of(clips) == ["a", "a-2"]
    same = [ClipSource(name, root="/r") for name in ("/r/a-2.mp4", "/r/a.mkv", "/r/a.mp4", "/r/../x/a.mp4")]
    keys = keys_of(same)
    assert len(set(keys)) == len(keys)


def test_a_name_with_a_pattern_in_it_is_a_file(folder: Path) -> None:
    (folder / "[1].mp4").write_bytes(b"")
    assert names(find_clips([str(folder / "[1].mp4")]), folder) == ["[1].mp4"]


LISTS = {
    "list.txt": "a.mp4\n\nb/a.mp4\n",
    "list.csv": "path,caption,label\na.mp4,a dog,1\nb/a.mp4,,2\n",
    "list.jsonl": '{"video": "a.mp4", "caption": "a dog", "tags": ["x"]}\n{"video": "b/a.mp4", "caption": null}\n',
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_name_clips_and_carry_columns(folder: Path, name: str) -> None:
    (folder / name).write_text(LISTS[name], encoding="utf-8")
    first, second = find_clips([str(folder / name)])
    assert names([first, second], folder) == ["a.mp4", "b/a.mp4"]
    if name != "list.txt":
        assert first.columns["caption"] == "a dog" and not second.columns["caption"]
    if name == "list.jsonl":
        assert first.columns["tags"] == '["x"]'


def test_a_parquet_list_keeps_types(folder: Path) -> None:
    pq.write_table(pa.table({"source": ["a.mp4"], "score": [0.5], "year": [2020]}), folder / "list.parquet")
    (clip,) = find_clips([str(folder / "list.parquet")])
    assert clip.columns == {"score": 0.5, "year": 2020}


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_a_webdataset_tar_is_read_with_what_lies_beside_the_clips(tmp_path: Path) -> None:
    about = json.dumps({"label": 3}).encode()
    members = {"x/1.json": about, "x/1.mp4": b"one", "x/1.txt": b"a dog \n", "x/2.mp4": b"second", "x/2.jpg.cls": b"7"}
    write_tar(tmp_path / "in.tar", members)
    first, second = find_clips([str(tmp_path / "in.tar")])
    assert first.columns == {"label": 3, "text": "a dog"} and second.columns == {}
    stream = opened(second)
    assert isinstance(stream, io.BytesIO) and stream.read() == b"second"
    assert keys_of([first, second]) == ["x/1", "x/2"]


def test_urls_are_read_by_fsspec(folder: Path) -> None:
    clips = find_clips([f"file://{folder}/b"])
    assert [clip.name.rpartition("/")[2] for clip in clips] == ["100%d.mov", "a.mp4", "c d.MKV"]
    assert keys_of(clips) == ["100_d", "a", "c_d"]
    stream = opened(clips[1])
    assert not isinstance(stream, str) and stream.read() == b"b/a.mp4"
    write_tar(folder / "t.tar", {"k.mp4": b"inside"})
    (inside,) = find_clips([f"file://{folder}/t.tar"])
    stream = opened(inside)
    assert not isinstance(stream, str) and stream.read() == b"inside"


def test_patterns_pass_over_captions_and_hidden_files(folder: Path) -> None:
    (folder / "b" / "a.txt").write_text("a dog runs")
    (folder / "b" / "._a.mp4").touch()
    assert names(find_clips([str(folder / "b/*")]), folder) == ["b/100%d.mov", "b/a.mp4", "b/c d.MKV"]
    assert names(find_clips([str(folder / "b")]), folder) == ["b/100%d.mov", "b/a.mp4", "b/c d.MKV"]


def test_links_that_lead_back_are_followed_once(folder: Path) -> None:
    (folder / "b" / "loop").symlink_to(folder, target_is_directory=True)
    assert names(find_clips([str(folder)]), folder) == ["a.mp4", "b/100%d.mov", "b/a.mp4", "b/c d.MKV"]


def test_folders_of_tars_are_read(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    for name in ("1", "2"):
        write_tar(tmp_path / "tars" / f"{name}.tar", {f"{name}.mp4": name.encode()})
    assert [clip.member for clip in find_clips([str(tmp_path / "tars")])] == ["1.mp4", "2.mp4"]


def test_damage_in_a_tar_is_told_and_passed_over(tmp_path: Path) -> None:
    told: list[str] = []
    write_tar(tmp_path / "in.tar", {"1.mp4": b"one", "1.json": b"{", "2.mp4": bytes(2000)})
    data = (tmp_path / "in.tar").read_bytes()
    (tmp_path / "in.tar").write_bytes(data[:3000])
    clips = find_clips([str(tmp_path / "in.tar")], told.append)
    assert [clip.member for clip in clips] == ["(from byte 4608 on)", "1.mp4", "2.mp4"]
    assert clips[1].columns == {} and any("1.json is left out" in line for line in told)
    assert opened(clips[0]).read() == b""


@pytest.mark.parametrize("damage", ["flip", "zero", "member", "header", "no end"])
def test_clips_behind_damage_in_a_tar_are_not_lost_in_silence(tmp_path: Path, damage: str) -> None:
    """Python's reader of tars takes a bad header for the end."""
    told: list[str] = []
    write_tar(tmp_path / "in.tar", {f"{number}.mp4": bytes([number]) * 700 for number in range(4)})
    data = bytearray((tmp_path / "in.tar").read_bytes())
    third, size = 2 * (512 + 1024), 4 * (512 + 1024)
    if damage == "flip":
        data[third + 20] ^= 1
    elif damage == "zero":
        data[third : third + 512] = bytes(512)
    else:
        del data[{"member": third, "header": third + 100, "no end": size}[damage] :]
    (tmp_path / "in.tar").write_bytes(data)
    clips = find_clips([str(tmp_path / "in.tar")], told.append)
    found = [clip.member for clip in clips if not clip.member.startswith("(from byte")]
    assert found == ["0.mp4", "1.mp4", *(["2.mp4", "3.mp4"] if damage == "no end" else [])]
    assert len(clips) == len(found) + 1 and len(told) == 1 and "damaged or cut short" in told[0]


def test_tars_one_after_the_other_are_read(tmp_path: Path) -> None:
    for name in ("1", "2"):
        write_tar(tmp_path / f"{name}.tar", {f"{name}.mp4": name.encode()})
    both = (tmp_path / "1.tar").read_bytes() + (tmp_path / "2.tar").read_bytes()
    (tmp_path / "both.tar").write_bytes(both)
    clips = find_clips([str(tmp_path / "both.tar")], pytest.fail)
    assert [clip.member for clip in clips] == ["1.mp4", "2.mp4"]
    assert opened(clips[1]).read() == b"2"


def test_sparse_files_and_folders_in_a_tar_are_no_damage(tmp_path: Path) -> None:
    told: list[str] = []
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    with (tmp_path / "s.mp4").open("wb") as file:
        file.truncate(10 << 20)
        file.seek(5 << 20)
        file.write(b"data")
    names = ["a.mp4", "s.mp4", "b.mp4"]
    subprocess.run(["tar", "-S", "-cf", tmp_path / "in.tar", "-C", tmp_path, *names], check=True)
    clips = find_clips([str(tmp_path / "in.tar")], told.append)
    assert [clip.member for clip in clips] == ["a.mp4", "b.mp4", "s.mp4"]
    assert [opened(clip).read() for clip in clips] == [b"a.mp4", b"b.mp4", b""]
    assert len(told) == 1 and "s.mp4 is stored as a sparse file" in told[0]
    with tarfile.open(tmp_path / "folder.tar", "w") as tar:
        folder = tarfile.TarInfo("x")
        folder.type, folder.size = tarfile.DIRTYPE, 1000
        tar.addfile(folder)
    with pytest.raises(InputError, match="has no video"):
        find_clips([str(tmp_path / "folder.tar")], pytest.fail)


def test_a_tar_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    """Its clips would get each other's captions."""
    write_tar(tmp_path / "in.tar", {"x.mp4": b"one", "y.mp4": b"two"})
    clips = find_clips([str(tmp_path / "in.tar")])
    assert [opened(clip).read() for clip in clips] == [b"one", b"two"]
    write_tar(tmp_path / "in.tar", {"y.mp4": b"two", "x.mp4": b"one"})
    for clip in clips:
        with pytest.raises(InputError, match="its tar has changed"):
            opened(clip)


def test_a_long_name_in_a_tar_is_read(tmp_path: Path) -> None:
    name = "folder/" + 30 * "long-" + "ü.mp4"
    write_tar(tmp_path / "in.tar", {name: b"one"})
    (clip,) = find_clips([str(tmp_path / "in.tar")])
    assert clip.member == name and opened(clip).read() == b"one"


def test_a_thumbnail_is_no_clip(tmp_path: Path) -> None:
    members = {"000.mp4": b"video", "000.jpg": b"picture", "000.cls": b"7", "001.jpg": b"picture"}
    write_tar(tmp_path / "in.tar", members)
    clips = find_clips([str(tmp_path / "in.tar")])
    assert [clip.member for clip in clips] == ["000.mp4", "001.jpg"] and keys_of(clips) == ["000", "001"]
    assert clips[0].columns == {"class": "7"}


def test_a_list_adds_its_columns_to_a_clip_of_a_folder(folder: Path) -> None:
    """In whatever order they are named, and however the list spells the path."""
    (folder / "list.csv").write_text("source,path,caption\nyoutube,./b/../a.mp4,hello\n")
    for sources in ([folder, folder / "list.csv"], [folder / "list.csv", folder]):
        clips = find_clips([str(source) for source in sources])
        (captioned,) = (clip for clip in clips if clip.location == str(folder / "a.mp4"))
        assert captioned.columns == {"source": "youtube", "caption": "hello"}


def test_times_that_nobody_cuts_by_are_told(folder: Path) -> None:
    told: list[str] = []
    (folder / "list.tsv").write_text("path\tstart\tend\na.mp4\t1\t2\n")
    (clip,) = find_clips([str(folder / "list.tsv")], told.append)
    assert clip.end_s is None and len(told) == 1 and "columns end, start; --cut START,END" in told[0]


def test_a_folder_that_cannot_be_read_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"cannot read the folder .*: Permission denied"):
        find_clips([str(folder)])


def test_values_of_a_table_keep_their_text(folder: Path) -> None:
    day, price = datetime.date(2024, 1, 1), decimal.Decimal("3.50")
    table = pa.table({"path": ["a.mp4"], "day": [day], "price": [price], "tags": [["x", "y"]], "start": [1e-05]})
    pq.write_table(table, folder / "list.parquet")
    (clip,) = find_clips([str(folder / "list.parquet")])
    assert clip.columns == {"day": "2024-01-01", "price": "3.50", "tags": '["x", "y"]', "start": 1e-05}
    pq.write_table(pa.table({"path": ["a.mp4"], "start": [1e-05], "end": [float("nan")]}), folder / "list.parquet")
    (clip,) = find_clips([str(folder / "list.parquet")], cut=("start", "end"))
    assert (clip.start_s, clip.end_s) == (1e-05, None)


def test_one_bad_tar_keeps_none_of_the_others(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "0.tar").touch()
    (tmp_path / "1.tar").write_bytes(bytes(range(256)) * 40)
    write_tar(tmp_path / "2.tar", {"2.mp4": b"two"})
    found = find_clips([str(tmp_path)], told.append)
    assert [clip.member for clip in found] == ["(from byte 0 on)", "(from byte 0 on)", "2.mp4"]
    assert len(told) == 2


def test_a_clip_that_a_tar_no_longer_holds_is_not_read_short(tmp_path: Path) -> None:
    write_tar(tmp_path / "in.tar", {"1.mp4": bytes(2000)})
    (clip,) = find_clips([str(tmp_path / "in.tar")])
    (tmp_path / "in.tar").write_bytes((tmp_path / "in.tar").read_bytes()[:1500])
    with pytest.raises(InputError, match="cut short"):
        opened(clip)


def test_a_list_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    (folder / "list.csv").write_bytes(b"\xef\xbb\xbfpath,caption\na.mp4,x\n")
    assert names(find_clips([str(folder / "list.csv")]), folder) == ["a.mp4"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nothing", None, "no such file"),
        ("none.csv", "caption\nx\n", "names no clip"),
        ("bad.jsonl", "{", "cannot read"),
        ("late.jsonl", '{"path": "a.mp4"}\n\n{bad\n', "line 3, column 2"),
        ("twice.csv", "path,label,label\na.mp4,x,y\n", "two columns are called label"),
        ("array.json", "[]", "is no clip"),
        ("long.csv", "path,caption\na.mp4,red, green\n", "line 2 has not as many cells"),
        ("short.csv", "path,caption\na.mp4\n", "line 2 has not as many cells"),
        ("empty.txt", "", "no video"),
        ("odd.parquet", "no parquet", "cannot read"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        find_clips([str(tmp_path / name)])


def test_a_file_that_is_listed_twice_with_other_columns_is_refused(folder: Path) -> None:
    """One of its rows would be lost."""
    (folder / "parts.csv").write_text("path,start,caption\na.mp4,0,turns\na.mp4,2,runs\n")
    with pytest.raises(InputError, match=r"a\.mp4 is listed twice, with other columns; .* \(--cut start,end\)"):
        find_clips([str(folder / "parts.csv")])
    (folder / "same.csv").write_text("path,caption\na.mp4,turns\na.mp4,turns\n")
    assert len(find_clips([str(folder / "same.csv"), str(folder / "a.mp4")])) == 1


def test_rows_may_be_parts_of_a_file(folder: Path) -> None:
    (folder / "parts.csv").write_text(
        "path,begins,ends,caption\na.mp4,1:05,,runs\na.mp4,,12.5,turns\na.mp4,9,0:00:20,\n"
    )
    clips = find_clips([str(folder / "parts.csv")], cut=("begins", "ends"))
    assert [(clip.start_s, clip.end_s) for clip in clips] == [(0.0, 12.5), (9.0, 20.0), (65.0, None)]
    assert [clip.name.removeprefix(str(folder)) for clip in clips] == [
        "/a.mp4#t=0,12.5",
        "/a.mp4#t=9,20",
        "/a.mp4#t=65",
    ]
    assert keys_of(clips) == ["a", "a-2", "a-3"]
    # The columns stay, as the user's.
    assert clips[0].columns == {"begins": "", "ends": "12.5", "caption": "turns"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.mp4,5,5", "ends at 5 s, not after its start"),
        ("a.mp4,soon,9", "'soon' is no time"),
        ("a.mp4,-1,9", "'-1' is no time"),
        ("a.mp4,nan,9", "'nan' is no time"),
    ],
)
def test_times_that_make_no_part_are_told(folder: Path, row: str, message: str) -> None:
    (folder / "parts.csv").write_text(f"path,start,end\n{row}\n")
    with pytest.raises(InputError, match=message):
        find_clips([str(folder / "parts.csv")], cut=("start", "end"))
    with pytest.raises(SettingError, match="cut to: no clip has such a column"):
        find_clips([str(folder / "a.mp4"), str(folder / "parts.csv")][:1], cut=("to", "end"))
