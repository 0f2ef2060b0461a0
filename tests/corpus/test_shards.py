"""Shards hold every clip once, whatever happens on the way; bad clips are rows, not errors."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import imageio_ffmpeg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_helpers import InlineEngine, begin, contents, make, make_clips, tiny_weights
from helpers import TINY, inside
from prior_helpers import random_prior

from vtok_codec.codec.encoder import encode_video
from vtok_codec.codec.tokenizer import load_tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.corpus import report, shards
from vtok_codec.corpus.encoding import CorpusPart, encode_shards, parse_part, parse_tolerance, require_few_bad
from vtok_codec.corpus.engines import Outcome, ShardWork
from vtok_codec.corpus.index import CRASHED, TIMEOUT, read_index, rows_of
from vtok_codec.corpus.journal import Journal, shards_in_work, verdict
from vtok_codec.corpus.plan import index_path, is_done, read_plan, shard_path, write_plan
from vtok_codec.corpus.report import bad_clips, check_corpus, stats_of, status_of, try_again, try_damaged_again
from vtok_codec.corpus.shard_tar import describe
from vtok_codec.corpus.sources import find_clips
from vtok_codec.corpus.windows import TokenWindows
from vtok_codec.errors import CorpusError, InputError, ModelError, SettingError
from vtok_codec.media.parts import make_part
from vtok_codec.media.reader import VideoReader
from vtok_codec.prior_files import find_prior
from vtok_codec.registry import find_weights
from vtok_codec.stream.verifying import verify

SIZES = [("64x48", 20), ("48x64", 9), ("64x48", 1), ("32x32", 40), ("64x48", 5)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clips(tmp_path_factory.mktemp("clips"), SIZES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpus(tmp_path: Path, clips: Path, model: Path, one_thread: None) -> Path:
    """A corpus of five clips in two shards."""
    folder = tmp_path / "corpus"
    assert make(folder, begin(folder, [clips], model)) == {"ok": 5}
    return folder


def test_the_index_tells_what_is_in_the_tar(corpus: Path) -> None:
    rows = [row for shard in (0, 1) for row in rows_of(read_index(index_path(corpus, shard)))]
    assert [row.key for row in rows] == ["00", "01", "02", "03", "04"]
    for shard in (0, 1):
        with tarfile.open(shard_path(corpus, shard)) as tar, shard_path(corpus, shard).open("rb") as raw:
            for row in rows_of(read_index(index_path(corpus, shard))):
                member = tar.getmember(f"{row.key}.vtk")
                assert (member.offset_data, member.size) == (row.offset, row.size)
                raw.seek(row.offset)
                summary = verify(io.BytesIO(raw.read(row.size)), find_prior)
                assert summary.totals.token_digest.hex() == row.tokens_sha256
                assert summary.totals.frames == row.frames == sum(row.gop_frames)
                assert summary.bits_per_pixel == pytest.approx(row.bits_per_pixel)
                assert summary.duration_s == pytest.approx(row.seconds)
                about = tar.extractfile(f"{row.key}.json")
                assert about and json.load(about)["gop_latents"] == list(row.gop_latents)
    assert [row.frames for row in rows] == [frames for _, frames in SIZES]
    # A GOP of 4 latent frames holds 13 frames; the other 7 of the first clip take 3.
    assert rows[0].gop_latents == (4, 3) and rows[2].gop_latents == (1,)


def test_a_corpus_is_the_same_however_it_is_made(corpus: Path, tmp_path: Path, clips: Path, model: Path) -> None:
    other = tmp_path / "other"
    plan = begin(other, [clips], model)
    for part in (2, 1):
        encode_shards(other, plan, CorpusPart(part, 2), InlineEngine())
    assert contents(other) == contents(corpus)


def test_a_rerun_does_nothing_and_a_lost_index_is_made_again(corpus: Path) -> None:
    before, plan = contents(corpus), read_plan(corpus)
    times = {path: path.stat().st_mtime_ns for path in (corpus / "shards").iterdir()}
    make(corpus, plan)
    assert times == {path: path.stat().st_mtime_ns for path in (corpus / "shards").iterdir()}
    index_path(corpus, 1).unlink()
    make(corpus, plan)
    assert contents(corpus) == before


def test_bad_clips_are_rows(tmp_path: Path, clips: Path, model: Path, one_thread: None) -> None:
    source = tmp_path / "in"
    make_clips(source, SIZES[:1])
    (source / "empty.mp4").write_bytes(b"")
    (source / "text.mp4").write_text("no video")
    (source / "cut.mp4").write_bytes((clips / "03.mp4").read_bytes()[:-900])
    make_clips(source / "large", [("1280x960", 2)])
    folder = tmp_path / "corpus"
    plan = begin(folder, [source], model, max_pixels=1_000_000)
    statuses = make(folder, plan)
    bad = {Path(name).name: (status, error) for name, status, error in bad_clips(folder, plan)}
    assert {name: status for name, (status, _) in bad.items()} == {
        "empty.mp4": "unreadable",
        "text.mp4": "unreadable",
        "cut.mp4": bad["cut.mp4"][0],
        "00.mp4": "too_large",
    }
    assert bad["cut.mp4"][0] in ("truncated", "unreadable") and all(error for _, error in bad.values())
    assert statuses["ok"] == 1
    assert not list(check_corpus(folder, plan))


def test_a_fault_of_ours_is_a_row_as_well(
    tmp_path: Path, clips: Path, model: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(key: str, *rest: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(shards, "encode_clip", broken)
    folder = tmp_path / "corpus"
    plan = begin(folder, [clips], model)
    assert make(folder, plan) == {"crashed": 5}
    assert "ZeroDivisionError: a fault" in next(bad_clips(folder, plan))[2]


def test_a_full_disk_loses_nothing(
    tmp_path: Path, corpus: Path, clips: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "other"
    plan = begin(folder, [clips], model)
    add = shards.ShardWriter.add
    calls = []

    def full(writer: shards.ShardWriter, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return add(writer, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shards.ShardWriter, "add", full)
    with pytest.raises(OSError, match="No space"):
        make(folder, plan)
    assert sorted(contents(folder)) == ["000000.parquet", "000000.tar"]
    make(folder, plan)
    assert contents(folder) == contents(corpus)


def test_user_columns_reach_index_and_tar(tmp_path: Path, clips: Path, model: Path, one_thread: None) -> None:
    (tmp_path / "list.csv").write_text(f"path,caption,label\n{clips}/00.mp4,a cat,7\n{clips}/01.mp4,,8\n")
    folder = tmp_path / "corpus"
    make(folder, begin(folder, [tmp_path / "list.csv"], model, keep=["caption"]))
    table = pq.read_table(index_path(folder, 0))
    assert table["caption"].to_pylist() == ["a cat", ""] and "label" not in table.column_names
    with tarfile.open(shard_path(folder, 0)) as tar:
        file = tar.extractfile(f"{table['key'][0]}.json")
        assert file and json.load(file)["caption"] == "a cat"
    with pytest.raises(SettingError, match="no such column"):
        begin(tmp_path / "c2", [tmp_path / "list.csv"], model, keep=["title"])
    (tmp_path / "taken.csv").write_text(f"path,status,tokens\n{clips}/00.mp4,x,y\n")
    plan = begin(tmp_path / "c3", [tmp_path / "taken.csv"], model)
    make(tmp_path / "c3", plan)
    table = pq.read_table(index_path(tmp_path / "c3", 0))
    assert table["user_status"].to_pylist() == ["x"] and table["user_tokens"].to_pylist() == ["y"]
    assert table["status"].to_pylist() == ["ok"]


def test_odd_values_are_stored(tmp_path: Path, clips: Path, model: Path, one_thread: None) -> None:
    rows = [
        f'{{"path": "{clips}/00.mp4", "id": 123456789012345678901234567890, "score": NaN, "text": "\\ud800x"}}',
        f'{{"path": "{clips}/01.mp4", "id": 1, "score": 0.5, "text": "plain"}}',
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(rows))
    folder = tmp_path / "corpus"
    make(folder, begin(folder, [tmp_path / "list.jsonl"], model))
    table = pq.read_table(index_path(folder, 0))
    assert table["id"].to_pylist() == ["123456789012345678901234567890", "1"]
    assert table["text"].to_pylist() == ["?x", "plain"]
    with tarfile.open(shard_path(folder, 0)) as tar:
        file = tar.extractfile(f"{table['key'][0]}.json")
        assert file and json.loads(file.read(), parse_constant=pytest.fail)["score"] is None


def test_a_name_that_is_no_utf8_is_told(tmp_path: Path, clips: Path, model: Path) -> None:
    folder = os.fsencode(tmp_path / "in")
    os.mkdir(folder)
    with open(os.path.join(folder, b"caf\xe9.mp4"), "wb"):
        pass
    with pytest.raises(InputError, match="not UTF-8"):
        begin(tmp_path / "corpus", [tmp_path / "in"], model)


def test_the_first_plan_counts(tmp_path: Path, clips: Path, model: Path) -> None:
    """Jobs of an array begin a corpus together, and a clip may arrive in between."""
    plan = begin(tmp_path / "corpus", [clips], model)
    inputs = (tmp_path / "corpus" / "inputs.parquet").read_bytes()
    late = find_clips([str(clips)])[:3]
    assert write_plan(tmp_path / "corpus", plan, late) == plan
    assert (tmp_path / "corpus" / "inputs.parquet").read_bytes() == inputs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens_per_position": 1}, "began with tokens_per_position 2, not 1"),
        ({"filters": "fps=5"}, "began with filters"),
        ({"clips_per_shard": 2}, "began with clips_per_shard 3, not 2"),
        ({"keep": ["caption"]}, "began with keep None"),
    ],
)
def test_other_settings_are_refused(
    corpus: Path, clips: Path, model: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        begin(corpus, [clips], model, **changes)


@pytest.mark.parametrize("option", [("--tokens", 4), ("--filter", "fps=5"), ("--model", "onevae-nano-4x16x16")])
def test_a_corpus_that_goes_on_takes_no_new_settings(corpus: Path, option: tuple[object, ...]) -> None:
    code, out, err = inside("corpus", "encode", "-o", corpus, *option)
    assert (code, out) == (2, "") and "it began with" in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens_per_position": 5}, "has 1 to 4 tokens"),
        ({"coder": "best"}, "choose from"),
        ({"gop_latents": 2_000_000}, "gop latents 2000000"),
        ({"filters": "sharpest"}, "no filter"),
        ({"rdo": -1.0}, "rdo"),
        ({"rdo": 0.02}, "choose coder prior"),
        ({"coder": "prior"}, "has no prior"),
    ],
)
def test_settings_are_checked_before_a_corpus_begins(
    tmp_path: Path, clips: Path, model: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        begin(tmp_path / "new", [clips], model, **changes)
    assert not (tmp_path / "new").exists()


def test_another_number_type_or_model_is_refused(corpus: Path, model: Path) -> None:
    path = corpus / "corpus.json"
    index_path(corpus, 0).unlink()
    text = path.read_text()
    path.write_text(text.replace('"dtype": "', '"dtype": "un'))
    with pytest.raises(SettingError, match="tokens could differ"):
        make(corpus, read_plan(corpus))
    path.write_text(text.replace('"weights_sha256": "', '"weights_sha256": "0'))
    with pytest.raises(SettingError, match="have changed"):
        make(corpus, read_plan(corpus))
    path.write_text(text)
    inputs = corpus / "inputs.parquet"
    inputs.write_bytes(inputs.read_bytes() + b" ")
    with pytest.raises(InputError, match="not the one that the corpus began with"):
        make(corpus, read_plan(corpus))


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2}', '{"version": 1}'])
def test_a_broken_plan_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "corpus.json").write_text(text)
    with pytest.raises(InputError):
        read_plan(tmp_path)


def test_the_journal_tells_who_is_to_blame(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 3)
    journal.start()
    journal.begin("good")
    journal.end("good", 1.5)
    journal.begin("bad")
    journal.note_death()
    assert shards_in_work(tmp_path) == {3}
    assert journal.state().failures == {"bad": [CRASHED]} and journal.state().under_way is None
    assert verdict(journal.state().failures["bad"], 2) is None
    journal.start()
    journal.begin("bad")
    journal.stall_path.write_text("Timeout (0:00:01)!")
    journal.note_death()
    assert verdict(journal.state().failures["bad"], 2) == (CRASHED, "its worker died in each of 2 attempts")
    assert verdict([TIMEOUT, TIMEOUT], 2) == (TIMEOUT, "it took too long in each of 2 attempts")
    journal.start()
    journal.begin("bad")
    journal.end("bad", 2.0)
    state = journal.state()
    assert not state.failures and (state.ended, state.seconds) == (1, 2.0)
    for _ in range(2):
        journal.start()
        journal.note_death()
    assert journal.state().lost_starts == 2
    journal.remove()
    assert not shards_in_work(tmp_path) and not list((tmp_path / "journal").iterdir())


def test_a_journal_that_is_removed_still_excludes(tmp_path: Path) -> None:
    """Who waits for a lock whose file is removed meanwhile takes that of the new file."""
    journal, inside_now, most = Journal(tmp_path, 3), 0, 0
    count = threading.Lock()

    def work() -> None:
        nonlocal inside_now, most
        for _ in range(20):
            with journal.locked():
                with count:
                    inside_now += 1
                    most = max(most, inside_now)
                time.sleep(0.001)
                with count:
                    inside_now -= 1
                journal.remove()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == 1


def test_status_stats_and_retry(corpus: Path, tmp_path: Path) -> None:
    plan = read_plan(corpus)
    status = status_of(corpus, plan)
    assert (status.shards_done, status.shards, status.statuses) == (2, 2, {"ok": 5})
    stats = stats_of(corpus, plan)
    assert stats.clips == 5 and stats.frames == 75 and stats.hours == pytest.approx(75 / 25 / 3600)
    assert stats.tokens == sum(row.tokens for s in (0, 1) for row in rows_of(read_index(index_path(corpus, s))))
    before = contents(corpus)
    assert try_again(corpus, plan, ["crashed"]) == 0 and contents(corpus) == before
    assert try_again(corpus, plan, ["ok"]) == 5
    # What there is stays until there is something better, and can be read meanwhile.
    assert contents(corpus) == before and stats_of(corpus, plan) == stats
    assert make(corpus, plan) == {"ok": 5} and contents(corpus) == before


def test_a_retry_encodes_bad_clips_only_and_gives_up_no_good_one(
    tmp_path: Path, clips: Path, model: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a corpus is there, its sources may go."""
    source, folder = tmp_path / "in", tmp_path / "corpus"
    shutil.copytree(clips, source)
    (source / "bad.mp4").touch()
    plan = begin(folder, [source], model, clips_per_shard=6)
    assert make(folder, plan) == {"ok": 5, "unreadable": 1}
    before = contents(folder)
    away = tmp_path / "away"
    source.rename(away)
    encoded = []
    usual = shards.encode_clip
    monkeypatch.setattr(shards, "encode_clip", lambda key, *rest: encoded.append(key) or usual(key, *rest))
    assert try_again(folder, plan, ["unreadable"]) == 1
    assert make(folder, plan) == {"ok": 5, "unreadable": 1} and encoded == ["bad"]
    # Even where all are asked for.
    assert try_again(folder, plan, ["ok"]) == 5
    assert make(folder, plan)["ok"] == 5 and not list(check_corpus(folder, plan))
    away.rename(source)
    shutil.copy(clips / "00.mp4", source / "bad.mp4")
    assert try_again(folder, plan, ["unreadable"]) == 1 and make(folder, plan) == {"ok": 6}
    assert not list(check_corpus(folder, plan)) and contents(folder) != before


def test_a_death_between_tar_and_index_loses_nothing(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, before = read_plan(corpus), contents(corpus)
    Journal(corpus, 0).ask_again(["00", "01", "02"])
    usual = os.replace

    def dying(source: Path, target: Path) -> None:
        if Path(target) == index_path(corpus, 0):
            raise KeyboardInterrupt
        usual(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        make(corpus, plan)
    monkeypatch.undo()
    # The sources are gone, and the old index with them.
    index_path(corpus, 0).unlink()
    monkeypatch.setattr(shards, "encode_clip", lambda key, *rest: pytest.fail(key))
    Journal(corpus, 1).remove()
    assert make(corpus, plan) == {"ok": 5} and contents(corpus) == before


@pytest.mark.parametrize("damage", ["page", "cut", "no index", "no tar"])
def test_an_index_or_a_tar_that_is_lost_is_made_again(
    tmp_path: Path, clips: Path, model: Path, one_thread: None, damage: str
) -> None:
    """Also where the sources are gone, as far as the tar is there."""
    source, folder = tmp_path / "in", tmp_path / "corpus"
    shutil.copytree(clips, source)
    (source / "bad.mp4").touch()
    plan = begin(folder, [source], model, clips_per_shard=6)
    make(folder, plan)
    before, index = contents(folder), index_path(folder, 0)
    if damage == "no tar":
        shard_path(folder, 0).unlink()
    else:
        source.rename(tmp_path / "away")
        data = bytearray(index.read_bytes())
        data[40] ^= 1
        index.write_bytes(data if damage == "page" else data[:100])
    if damage == "no index":
        index.unlink()
    code, _, told = inside("corpus", "retry", folder, "--damaged", "--status", "crashed", "-j", 1, "--max-bad", 1, "-q")
    assert (code, told) == (0, "") and not list(check_corpus(folder, plan))
    if damage == "no tar":
        assert contents(folder) == before
    else:
        # What was wrong with the bad clip is another thing now.
        assert contents(folder)["000000.tar"] == before["000000.tar"]


def test_a_retry_never_shortens_a_clip(tmp_path: Path, clips: Path, model: Path, one_thread: None) -> None:
    source, folder = tmp_path / "in", tmp_path / "corpus"
    source.mkdir()
    whole = make_clip_in_pieces(source / "a.mkv")
    (source / "a.mkv").write_bytes(whole[: len(whole) * 3 // 4])
    plan = begin(folder, [source], model)
    assert make(folder, plan) == {"truncated": 1}
    frames = rows_of(read_index(index_path(folder, 0)))[0].frames
    for part in (len(whole) // 2, len(whole)):
        (source / "a.mkv").write_bytes(whole[:part])
        try_again(folder, plan, ["truncated"])
        make(folder, plan)
        row = rows_of(read_index(index_path(folder, 0)))[0]
        assert row.frames >= frames > 10
    assert row.status == "ok" and row.frames == 60


def make_clip_in_pieces(path: Path) -> bytes:
    """A clip that decodes up to where it is cut."""
    make_clips(path.parent / "made", [("64x48", 60)])
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    source = path.parent / "made" / "00.mp4"
    subprocess.run([ffmpeg, "-v", "error", "-i", source, "-c:v", "libx264", "-g", "5", path], check=True)
    shutil.rmtree(path.parent / "made")
    return path.read_bytes()


def test_what_is_asked_for_while_a_shard_is_made_comes_next(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, encoded = read_plan(corpus), []
    usual = shards.encode_clip

    def encode(key: str, *rest: object) -> object:
        encoded.append(key)
        if len(encoded) == 1:
            Journal(corpus, 0).ask_again(["02"])
        return usual(key, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "encode_clip", encode)
    Journal(corpus, 0).ask_again(["00"])
    assert make(corpus, plan) == {"ok": 5} and encoded == ["00", "02"]
    assert not list((corpus / "journal").iterdir())


def test_a_corpus_can_be_checked_where_its_weights_are_not(corpus: Path, model: Path) -> None:
    away = model.with_suffix(".away")
    model.rename(away)
    try:
        assert inside("corpus", "verify", corpus, "-q") == (0, "", "")
        assert len(TokenWindows(corpus, 3)[0]["tokens"]) == 3
    finally:
        away.rename(model)


def test_a_torn_line_of_a_journal_is_passed_over(corpus: Path) -> None:
    plan, before = read_plan(corpus), contents(corpus)
    for path in (corpus / "shards").glob("000000.*"):
        path.unlink()
    (corpus / "journal" / "000000.log").write_bytes(b"start\t\nbegin\t00\nend 0.8\xff\0\0begin\t01\nend x\t01\n")
    assert status_of(corpus, plan).in_work == {"000000": "00"}
    assert make(corpus, plan) == {"ok": 5} and contents(corpus) == before


def test_runs_share_the_work(corpus: Path) -> None:
    """A shard at which another run works is left to the end."""
    plan, order = read_plan(corpus), []
    for path in (corpus / "shards").iterdir():
        path.unlink()

    class Watched(InlineEngine):
        def run(self, work: ShardWork, numbers: Sequence[int]) -> Iterator[Outcome | None]:
            for outcome in super().run(work, numbers):
                order.append([shard for shard in (0, 1) if is_done(corpus, shard)])
                if len(order) == 2:
                    # The other run ends.
                    held.__exit__(None, None, None)
                yield outcome

    held = Journal(corpus, 0).locked()
    held.__enter__()
    assert encode_shards(corpus, plan, CorpusPart(), Watched()) == {"ok": 5}
    assert order == [[], [1], [0, 1]]


def test_a_retry_that_cannot_be_gives_nothing_up(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(corpus)
    inputs = (corpus / "inputs.parquet").read_bytes()
    (corpus / "inputs.parquet").write_bytes(inputs + b"x")
    assert inside("corpus", "retry", corpus, "--status", "ok", "-q")[0] == 3 and contents(corpus) == before
    (corpus / "inputs.parquet").write_bytes(inputs)
    monkeypatch.setattr("vtok_codec.corpus.engines.find_spec", lambda name: None)
    for engine in ("local", "ray"):
        code, _, told = inside("corpus", "retry", corpus, "--status", "ok", "--engine", engine, "-q")
        assert code == 6 and "needs the package" in told and contents(corpus) == before


def test_every_changed_byte_of_a_clip_is_found(corpus: Path) -> None:
    plan = read_plan(corpus)
    assert not list(check_corpus(corpus, plan))
    row = rows_of(read_index(index_path(corpus, 0)))[1]
    whole = shard_path(corpus, 0).read_bytes()
    for place in range(0, row.size, 37):
        data = bytearray(whole)
        data[row.offset + place] ^= 1
        shard_path(corpus, 0).write_bytes(data)
        (fault,) = check_corpus(corpus, plan)
        assert str(fault).startswith("shard 000000, 01:")
    shard_path(corpus, 0).write_bytes(whole[: row.offset + 10])
    assert len(list(check_corpus(corpus, plan))) == 2
    shard_path(corpus, 0).unlink()
    index_path(corpus, 1).unlink()
    first, second = check_corpus(corpus, plan)
    assert "No such file" in str(first) and str(second) == "shard 000001 is not done"


def test_lost_rows_and_broken_indexes_are_found_and_made_again(corpus: Path) -> None:
    plan, before = read_plan(corpus), contents(corpus)
    pq.write_table(pq.read_table(index_path(corpus, 0)).slice(0, 2), index_path(corpus, 0))
    (fault,) = check_corpus(corpus, plan)
    assert str(fault) == "shard 000000: its index has other clips than the plan"
    try_damaged_again(corpus, fault.shard)
    index_path(corpus, 1).write_bytes(b"")
    assert status_of(corpus, plan).shards_done == 1
    make(corpus, plan)
    assert contents(corpus) == before and not list(check_corpus(corpus, plan))


def test_settings_that_go_back_to_their_defaults_are_noticed(tmp_path: Path, clips: Path, one_thread: None) -> None:
    # Only a model with a prior takes a cost of bits.
    model = find_weights("onevae-nano-4x8x8").path
    begin(tmp_path / "corpus", [clips], model, filters="fps=5", coder="prior", rdo=0.1)
    with pytest.raises(SettingError, match=r"began with rdo 0\.1, not 0\.0"):
        begin(tmp_path / "corpus", [clips], model, filters="fps=5", coder="prior")
    with pytest.raises(SettingError, match="began with filters 'fps=5', not ''"):
        begin(tmp_path / "corpus", [clips], model, coder="prior", rdo=0.1)


def test_parts_and_tolerances() -> None:
    assert parse_part("2/8") == CorpusPart(2, 8)
    for text in ("0/8", "9/8", "1", "a/b", "1/0"):
        with pytest.raises(SettingError):
            parse_part(text)
    assert parse_tolerance("2%").admits(2, 100) and not parse_tolerance("2%").admits(3, 100)
    assert parse_tolerance("3").admits(3, 5) and not parse_tolerance("3").admits(4, 5)
    for text in ("-1", "x", "1.5", "%"):
        with pytest.raises(SettingError):
            parse_tolerance(text)
    with pytest.raises(CorpusError, match=r"3 of 5 clips are bad \(2 crashed, 1 timeout\)"):
        require_few_bad(Counter({"ok": 2, "crashed": 2, "timeout": 1}), parse_tolerance("2"))


def test_turned_clips_enter_upright(clips: Path, model: Path, tmp_path: Path, ffmpeg: str) -> None:
    """As phones record them: whoever trains on the tokens does not know how to turn them."""
    (tmp_path / "turned").mkdir()
    turned = ["-display_rotation", "90", "-i", clips / "00.mp4", "-c", "copy", tmp_path / "turned" / "t.mp4"]
    subprocess.run([ffmpeg, "-v", "error", *turned], check=True)
    shapes = []
    for name, filters in (("plain", ""), ("filtered", "null")):
        plan = begin(tmp_path / name, [tmp_path / "turned"], model, filters=filters)
        assert make(tmp_path / name, plan) == {"ok": 1}
        (row,) = rows_of(read_index(index_path(tmp_path / name, 0)))
        shapes.append((row.width, row.height, row.tokens_sha256))
    width, height = map(int, SIZES[0][0].split("x"))
    assert shapes[0] == shapes[1] and shapes[0][:2] == (height, width)


def test_clips_may_be_parts_of_a_file(tmp_path: Path, clips: Path, model: Path, one_thread: None) -> None:
    """A part has the tokens that it has as a video of its own, and the rest of the file is not in it."""
    (tmp_path / "list.csv").write_text(
        f"path,start,end\n{clips}/03.mp4,0.4,1.2\n{clips}/03.mp4,,0.4\n{clips}/00.mp4,,\n"
    )
    plan = begin(tmp_path / "corpus", [tmp_path / "list.csv"], model, cut=("start", "end"))
    assert read_plan(tmp_path / "corpus") == plan
    assert make(tmp_path / "corpus", plan) == {"ok": 3}
    rows = rows_of(read_index(index_path(tmp_path / "corpus", 0)))
    assert [(Path(row.source).name, row.frames) for row in rows] == [
        ("00.mp4", 20),
        ("03.mp4#t=0,0.4", 10),
        ("03.mp4#t=0.4,1.2", 20),
    ]
    out = io.BytesIO()
    tokenizer = load_tokenizer(find_weights(str(model)), "cpu")
    with VideoReader(clips / "03.mp4", audio=False, part=make_part(0.4, 0.8)) as reader:
        encode_video(reader.info, reader.events(), tokenizer, plan.settings, out)
    assert describe(out.getvalue()).tokens_sha256 == rows[2].tokens_sha256
    assert not list(check_corpus(tmp_path / "corpus", plan))
    with pytest.raises(SettingError, match="began with cut"):
        begin(tmp_path / "corpus", [tmp_path / "list.csv"], model)


def test_a_corpus_that_began_before_clips_could_be_parts_goes_on(tmp_path: Path, clips: Path, model: Path) -> None:
    folder = tmp_path / "corpus"
    plan = begin(folder, [clips], model)
    table = pq.read_table(folder / "inputs.parquet").drop_columns(["part_start_s", "part_end_s"])
    pq.write_table(table, folder / "inputs.parquet", row_group_size=plan.clips_per_shard)
    members = json.loads((folder / "corpus.json").read_text())
    members["inputs_sha256"] = hashlib.sha256((folder / "inputs.parquet").read_bytes()).hexdigest()
    del members["cut"]
    (folder / "corpus.json").write_text(json.dumps(members))
    assert make(folder, begin(folder, [clips], model)) == {"ok": 5}


def test_own_weights_have_a_prior_of_their_own(
    tmp_path: Path, clips: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies beside them, and everything that reads the corpus finds it there."""
    model = tiny_weights(tmp_path)
    levels = TINY.fsq_levels
    codec = hashlib.sha256(model.read_bytes()).hexdigest()
    prior = random_prior(levels, TINY.max_tokens, codec_sha256=codec)
    # A run's folder is as good as its weights.
    (tmp_path / "run").mkdir()
    shutil.copy(model, tmp_path / "run/ema.safetensors")
    (tmp_path / "run/prior.safetensors").write_bytes(prior)
    plan = begin(tmp_path / "of-run", [clips], tmp_path / "run", coder="prior")
    assert make(tmp_path / "of-run", plan) == {"ok": 5} and not list(check_corpus(tmp_path / "of-run", plan))
    assert len(TokenWindows(tmp_path / "of-run", 3)[0]["tokens"]) == 3
    (tmp_path / "prior.safetensors").write_bytes(prior)
    folder = tmp_path / "corpus"
    plan = begin(folder, [clips], model, coder="prior")
    assert make(folder, plan) == {"ok": 5}
    before = contents(folder)
    row = rows_of(read_index(index_path(folder, 0)))[0]
    data = shard_path(folder, 0).read_bytes()[row.offset : row.offset + row.size]
    assert VtkReader(io.BytesIO(data)).header.prior_sha256
    assert not list(check_corpus(folder, plan))
    assert len(TokenWindows(folder, 3)[0]["tokens"]) == 3
    assert inside("corpus", "verify", folder, "-q")[0] == 0
    # Another prior would pack other shards in another way.
    (tmp_path / "prior.safetensors").write_bytes(random_prior(levels, TINY.max_tokens, codec_sha256=codec, seed=9))
    with pytest.raises(SettingError, match="prior_sha256"):
        begin(folder, [clips], model, coder="prior")
    index_path(folder, 0).rename(tmp_path / "index")
    with pytest.raises((SettingError, ModelError), match=r"the prior of .* has changed|which is not here"):
        make(folder, plan)
    (tmp_path / "index").rename(index_path(folder, 0))
    (tmp_path / "prior.safetensors").write_bytes(prior)
    # A prior that is away, or a disk that does not answer, says nothing about the shards.
    (tmp_path / "prior.safetensors").rename(tmp_path / "away.safetensors")
    for command in (["verify", folder], ["retry", folder, "--damaged", "-j", 1]):
        code, _, told = inside("corpus", *command)
        assert code == 6 and "which is not here" in told and contents(folder) == before
    (tmp_path / "away.safetensors").rename(tmp_path / "prior.safetensors")
    monkeypatch.setattr(
        report, "wrong_with", lambda *args: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error"))
    )
    code, _, told = inside("corpus", "retry", folder, "--damaged", "-j", 1)
    assert code != 0 and "Input/output error" in told and contents(folder) == before


def test_changes_of_index_and_tar_are_found(corpus: Path) -> None:
    plan = read_plan(corpus)
    assert not list(check_corpus(corpus, plan))
    index, tar = index_path(corpus, 0).read_bytes(), shard_path(corpus, 0).read_bytes()
    table = pq.read_table(index_path(corpus, 0))
    for name, value, told in (
        ("width", 65, "its width is 64"),
        ("gop_offsets", [1, 2], "its gop_offsets"),
        ("offset", 1, ""),
    ):
        rows = table.to_pylist()
        rows[0][name] = value
        pq.write_table(pa.Table.from_pylist(rows, table.schema), index_path(corpus, 0))
        assert told in str(next(check_corpus(corpus, plan)))
    index_path(corpus, 0).write_bytes(index)
    with tarfile.open(shard_path(corpus, 0)) as open_tar:
        about = open_tar.getmember("01.json")
    for place in (about.offset_data + 5, about.offset + 3, len(tar) - 1):
        data = bytearray(tar)
        data[place] ^= 1
        shard_path(corpus, 0).write_bytes(data)
        assert [str(fault) for fault in check_corpus(corpus, plan)] == [
            "shard 000000: its tar holds something else than its clips"
        ]
    shard_path(corpus, 0).write_bytes(tar + b"more")
    assert len(list(check_corpus(corpus, plan))) == 1
    # The index has a sum of its own for every page.
    shard_path(corpus, 0).write_bytes(tar)
    for place in range(4, len(index) - 8, 101):
        data = bytearray(index)
        data[place] ^= 1
        index_path(corpus, 0).write_bytes(data)
        faults = list(check_corpus(corpus, plan))
        same = not faults and read_index(index_path(corpus, 0)).equals(table)
        assert faults or same, place
