"""Windows hold the tokens of their clips, and samplers give every window once, however training is stopped."""

from __future__ import annotations

import errno
import io
import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from corpus_helpers import begin, make, make_clips, tiny_weights
from helpers import TINY, inside, randomized
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import vtok_codec
from vtok_codec.corpus import storage
from vtok_codec.corpus.index import read_index, rows_of
from vtok_codec.corpus.plan import index_path, shard_path
from vtok_codec.corpus.sampler import WindowSampler
from vtok_codec.corpus.windows import TokenWindows
from vtok_codec.errors import DamageError, FormatError, InputError, SettingError
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.weights import dump_weights
from vtok_codec.prior_files import find_prior
from vtok_codec.stream.reading import read_tokens

SIZES = [("64x48", 60), ("48x64", 30), ("64x48", 13), ("64x48", 40), ("64x48", 3)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of five clips in three shards."""
    place = tmp_path_factory.mktemp("corpus")
    clips = make_clips(place / "clips", SIZES)
    (place / "list.csv").write_text("path,caption\n" + "".join(f"clips/{i:02d}.mp4,clip {i}\n" for i in range(5)))
    assert clips
    folder = place / "corpus"
    make(folder, begin(folder, [place / "list.csv"], tiny_weights(place), clips_per_shard=2))
    return folder


def whole_tokens(corpus: Path) -> dict[str, np.ndarray]:
    """All tokens of every clip, read as `vtok tokens` does."""
    found = {}
    for shard in range(3):
        data = shard_path(corpus, shard).read_bytes()
        for row in rows_of(read_index(index_path(corpus, shard))):
            found[row.key] = read_tokens(io.BytesIO(data[row.offset : row.offset + row.size]), find_prior)
    return found


@pytest.mark.parametrize("start", ["gop", "any", "every"])
@pytest.mark.parametrize("latents", [1, 3, 4, 7])
def test_windows_are_pieces_of_clips(corpus: Path, start: str, latents: int) -> None:
    whole = whole_tokens(corpus)
    windows = TokenWindows(corpus, latents=latents, start=start, columns=["caption", "frames"])
    seen: dict[str, list[int]] = {}
    for number in range(len(windows)):
        item = windows[number]
        first = item["latent"]
        tokens = item["tokens"]
        assert tokens.dtype == np.uint16 and tokens.flags["C_CONTIGUOUS"]
        assert np.array_equal(tokens, whole[item["key"]][first : first + latents])
        assert item["gop_start"].tolist() == [(first + i) % 4 == 0 for i in range(latents)]
        assert item["gop_latent"].tolist() == [(first + i) % 4 for i in range(latents)]
        assert item["caption"] == f"clip {int(item['key'][-1])}" and item["frames"] == SIZES[int(item["key"][-1])][1]
        seen.setdefault(item["key"], []).append(first)
    for key, clip in whole.items():
        begins = seen.get(key, [])
        if start == "every":
            assert begins == list(range(len(clip) - latents + 1))
            continue
        assert all(b - a >= latents for a, b in pairwise(begins))
        if start == "any":
            assert begins == list(range(0, len(clip) - latents + 1, latents))
        else:
            assert all(place % 4 == 0 for place in begins) and bool(begins) == (len(clip) >= latents)


def test_fewer_tokens_can_be_read(corpus: Path) -> None:
    assert TokenWindows(corpus, latents=4, tokens=1)[0]["tokens"].shape[-1] == 1
    assert TokenWindows(corpus, latents=4, tokens=None)[0]["tokens"].shape[-1] == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tokens": 3}, SettingError, "1 to 2 tokens"),
        ({"latents": 0}, SettingError, "at least 1"),
        ({"start": "middle"}, SettingError, "gop, any, every"),
        ({"columns": ["title"]}, SettingError, "the index has"),
        ({"columns": ["tokens"]}, SettingError, "every window has it"),
        ({"latents": 1000}, InputError, "no window"),
        ({"statuses": ["crashed"]}, InputError, "no shard"),
    ],
)
def test_what_cannot_be_is_told(corpus: Path, options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TokenWindows(corpus, **options)  # type: ignore[arg-type]


def test_a_folder_without_shards_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        TokenWindows(tmp_path)
    with pytest.raises(InputError, match="cannot read foo://corpus"):
        TokenWindows("foo://corpus")
    (tmp_path / "shards").mkdir()
    with pytest.raises(InputError, match="no shard"):
        TokenWindows(tmp_path)


def test_a_shard_that_was_cut_is_told(corpus: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    windows = TokenWindows(copy, latents=1)
    tar = shard_path(copy, 2)
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(InputError, match="shorter"):
        for number in range(len(windows)):
            windows[number]


def test_urls_and_copies_give_the_same(corpus: Path, tmp_path: Path) -> None:
    plain = TokenWindows(corpus, latents=1)
    there = TokenWindows(f"file://{corpus}", latents=1)
    cached = TokenWindows(f"file://{corpus}", latents=1, cache=tmp_path / "cache")
    for number in range(len(plain)):
        tokens = plain[number]["tokens"]
        assert np.array_equal(tokens, there[number]["tokens"]) and np.array_equal(tokens, cached[number]["tokens"])
    assert len(list((tmp_path / "cache").rglob("*.tar"))) == 3


def test_copies_of_other_shards_are_not_taken(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two corpora may have the same relative path, and a corpus may be made again."""
    other, cache = tmp_path / "there" / "corpus", tmp_path / "cache"
    make(other, begin(other, [make_clips(tmp_path / "clips", [("48x48", 20)])], tiny_weights(tmp_path)))
    monkeypatch.chdir(corpus.parent)
    assert TokenWindows("corpus", 2, cache=cache)[0]["tokens"].shape == (2, 6, 8, 2)
    monkeypatch.chdir(tmp_path / "there")
    assert TokenWindows("corpus", 2, cache=cache)[0]["tokens"].shape == (2, 6, 6, 2)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_data_loader_reads_in_workers(corpus: Path, method: str) -> None:
    windows = TokenWindows(corpus, latents=3)
    expected = [windows[number]["tokens"] for number in range(len(windows))]
    sampler = windows.sampler(2, seed=5)
    loader = DataLoader(windows, batch_sampler=sampler, num_workers=2, multiprocessing_context=method)
    batches = list(windows.sampler(2, seed=5))
    for batch, numbers in zip(loader, batches, strict=True):
        assert batch["tokens"].dtype == torch.uint16
        assert np.array_equal(batch["tokens"].numpy(), np.stack([expected[number] for number in numbers]))


def test_it_is_part_of_the_api_and_needs_no_torch(corpus: Path) -> None:
    assert vtok_codec.TokenWindows is TokenWindows
    script = (
        f"import sys, vtok_codec; w = vtok_codec.TokenWindows({str(corpus)!r}, 4); w[0]; print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout
    assert out == "False\n"
    assert len(pickle.loads(pickle.dumps(TokenWindows(corpus, 4)))) == len(TokenWindows(corpus, 4))


def test_webdataset_reads_the_shards(corpus: Path) -> None:
    whole = whole_tokens(corpus)
    seen = {}
    for shard in range(3):
        for sample in webdataset.WebDataset(str(shard_path(corpus, shard)), shardshuffle=False):
            seen[sample["__key__"]] = read_tokens(io.BytesIO(sample["vtk"]), find_prior)
    assert seen.keys() == whole.keys()
    assert all(np.array_equal(seen[key], whole[key]) for key in whole)


def test_ray_data_reads_the_shards(corpus: Path) -> None:
    """In a process of its own, since Ray keeps threads and signal handlers."""
    script = (
        "import ray, sys\n"
        "ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level='ERROR')\n"
        "for row in ray.data.read_webdataset(sys.argv[1:], decoder=False).take_all():\n"
        "    print('clip', row['__key__'], len(row['vtk']))\n"
    )
    paths = [str(shard_path(corpus, shard)) for shard in range(3)]
    ended = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, timeout=180)
    seen = {tuple(line.split()[1:]) for line in ended.stdout.splitlines() if line.startswith("clip ")}
    rows = [row for shard in range(3) for row in rows_of(read_index(index_path(corpus, shard)))]
    assert seen == {(row.key, str(row.size)) for row in rows}, ended.stderr[-2000:]


def test_two_processes_see_every_window_once(corpus: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("ddp_windows.py")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, corpus, tmp_path]
    ended = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr[-2000:]
    seen = [tuple(pair) for rank in (0, 1) for pair in json.loads((tmp_path / f"{rank}.json").read_text())]
    windows = TokenWindows(corpus, latents=1, start="any")
    assert sorted(seen) == sorted((windows[n]["key"], windows[n]["latent"]) for n in range(len(windows)))


def batches_of(corpus: Path, steps: int, done: int = 0) -> list[list[tuple[str, int]]]:
    """The windows of each step of a training loop that goes on after `done` steps."""
    windows = TokenWindows(corpus, latents=1, start="any")
    sampler = windows.sampler(batch_size=3, seed=8)
    sampler.seek(done)
    loader = DataLoader(windows, batch_sampler=sampler, num_workers=1)
    seen: list[list[tuple[str, int]]] = []
    while len(seen) < steps:
        for batch in loader:
            seen.append(list(zip(batch["key"], batch["latent"].tolist(), strict=True)))
            if len(seen) == steps:
                break
    return seen


def test_a_training_loop_goes_on_where_it_stopped(corpus: Path) -> None:
    """The loader's workers are ahead of the loop when it stops."""
    whole = batches_of(corpus, 200)
    assert len({tuple(batch) for batch in whole}) > 100
    assert batches_of(corpus, 87) + batches_of(corpus, 113, done=87) == whole


windows_of_shards = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), min_size=1, max_size=120)


def sampler_of(windows: list[tuple[int, int]], **options: object) -> WindowSampler:
    shards = np.array(sorted(shard for shard, _ in windows))
    grids = np.array([(grid, 1) for _, grid in windows])
    return WindowSampler(shards, grids, **options)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(windows_of_shards, st.integers(1, 7), st.integers(1, 4), st.sampled_from(["shard", "all", "none"]))
def test_every_window_comes_once_per_epoch(
    windows: list[tuple[int, int]], batch_size: int, world: int, shuffle: str
) -> None:
    ranks = [sampler_of(windows, batch_size=batch_size, rank=r, world=world, shuffle=shuffle) for r in range(world)]
    for _ in range(2):
        batches = [list(rank) for rank in ranks]
        assert [len(each) for each in batches] == [len(rank) for rank in ranks]
        flat = [number for each in batches for batch in each for number in batch]
        assert sorted(flat) == list(range(len(windows)))
        for batch in (batch for each in batches for batch in each):
            assert len(batch) <= batch_size and len({windows[number][1] for number in batch}) == 1
    try:
        full = [sampler_of(windows, batch_size=batch_size, rank=r, world=world, drop_last=True) for r in range(world)]
    except SettingError:
        assert sum(count // batch_size for count in np.bincount([grid for _, grid in windows])) < world
        return
    dropped = [list(rank) for rank in full]
    assert len({len(each) for each in dropped}) == 1
    assert all(len(batch) == batch_size for each in dropped for batch in each)


@settings(max_examples=40, deadline=None)
@given(windows_of_shards, st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 40))
def test_training_resumes_where_it_stopped(
    windows: list[tuple[int, int]], batch_size: int, world: int, later: int, steps: int
) -> None:
    """What is left of an epoch is the same for any number of processes."""
    one = sampler_of(windows, batch_size=batch_size, seed=3)
    order = list(one)
    ranks = [sampler_of(windows, batch_size=batch_size, seed=3, rank=r, world=world) for r in range(world)]
    whole_steps = min(steps, len(order) // world)
    for rank in ranks:
        walk = iter(rank)
        for _ in range(whole_steps):
            next(walk)
    state = ranks[0].state_dict()
    resumed = [sampler_of(windows, batch_size=batch_size, seed=3, rank=r, world=later) for r in range(later)]
    left = []
    for rank in resumed:
        rank.load_state_dict(state)
        left.append(list(rank))
    together = [each[i] for i in range(max(map(len, left), default=0)) for each in left if i < len(each)]
    # After the last batch of an epoch comes the next one.
    assert together == (order[whole_steps * world :] or list(one))
    sought = sampler_of(windows, batch_size=batch_size, seed=3, world=world)
    sought.seek(whole_steps)
    assert (sought.epoch, sought.position) in ((0, whole_steps * world), (1, 0))


@settings(max_examples=60, deadline=None)
@given(windows_of_shards, st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 20))
def test_processes_resume_with_equal_numbers_of_full_batches(
    windows: list[tuple[int, int]], batch_size: int, world: int, later: int, steps: int
) -> None:
    """Whatever the number of processes was before; one that had a batch more would wait for the others without end."""
    try:
        first = sampler_of(windows, batch_size=batch_size, world=world, drop_last=True)
        ranks = [sampler_of(windows, batch_size=batch_size, rank=r, world=later, drop_last=True) for r in range(later)]
    except SettingError:
        return
    first.seek(steps)
    for _ in range(2):
        left = []
        for rank in ranks:
            rank.load_state_dict(first.state_dict())
            left.append(list(rank))
        assert len({len(each) for each in left}) == 1


def test_numbers_may_be_of_any_integer_type(corpus: Path) -> None:
    windows = TokenWindows(corpus, latents=np.uint8(2), start="any")
    assert windows[0]["tokens"].shape[0] == 2
    state = windows.sampler(2, seed=1).state_dict()
    other = windows.sampler(np.int64(2), seed=np.int64(1), drop_last=0)
    other.load_state_dict(state)
    other.seek(np.int64(1))
    assert json.loads(json.dumps(other.state_dict())) == other.state_dict()
    for wrong in (-1, 2.5, "3", None):
        with pytest.raises(SettingError, match="step"):
            other.seek(wrong)
    for damage in (None, [], {"order": state["order"]}, {**state, "epoch": -1}, {**state, "position": -3}):
        with pytest.raises(SettingError, match="state of the sampler"):
            other.load_state_dict(damage)
    for options in ({"latents": 2.5}, {"latents": "5"}, {"latents": 2, "columns": None}):
        with pytest.raises(SettingError):
            TokenWindows(corpus, **options)


def test_epochs_differ_and_seeds_repeat(corpus: Path) -> None:
    windows = TokenWindows(corpus, latents=1, start="any")
    sampler, again = windows.sampler(4, seed=1), windows.sampler(4, seed=1)
    first, second = list(sampler), list(sampler)
    assert first != second and sampler.epoch == 2 and list(again) == first
    assert list(windows.sampler(4, seed=2)) != first
    state = sampler.state_dict()
    with pytest.raises(SettingError, match="another seed"):
        windows.sampler(5, seed=1).load_state_dict(state)
    for options in ({"rank": 2, "world": 2}, {"shuffle": "well"}, {"bucket": "size"}):
        with pytest.raises(SettingError):
            windows.sampler(4, **options)
    with pytest.raises(SettingError):
        windows.sampler(0)
    with pytest.raises(SettingError, match="no full batch"):
        windows.sampler(1000, drop_last=True)


def test_the_shuffle_by_shards_reads_few_shards_at_a_time() -> None:
    shards = np.repeat(np.arange(64), 10)
    sampler = WindowSampler(shards, np.zeros((640, 2), np.int64), batch_size=10)
    batches = list(sampler)
    for first in range(0, 64, 8):
        read = {int(shards[number]) for batch in batches[first : first + 8] for number in batch}
        assert len(read) == 8


def test_what_is_missing_is_told(corpus: Path, tmp_path: Path) -> None:
    """Shards that are not there, and what a clip lacks: a batch needs a value of one type for each."""
    folder = tmp_path / "some"
    shutil.copytree(corpus, folder)
    index_path(folder, 2).unlink()
    with pytest.warns(UserWarning, match="2 of 3 shards are done"):
        TokenWindows(folder, latents=1)
    code, out, _ = inside("corpus", "stats", folder)
    assert code == 0 and "some: 2 of 3 shards" in out.splitlines()[0]
    bare = tmp_path / "bare.jsonl"
    rows = {"path": "00.mp4"}, {"path": "01.mp4", "caption": "here", "score": 1.5, "label": 3}
    bare.write_text("\n".join(map(json.dumps, rows)))
    make_clips(tmp_path, SIZES[:2])
    make(tmp_path / "gaps", begin(tmp_path / "gaps", [bare], tiny_weights(tmp_path)))
    windows = TokenWindows(tmp_path / "gaps", latents=1, columns=["caption", "score", "label"])
    assert [windows.values(name) for name in ("caption", "score", "label")] == [{"here"}, {"1.5"}, {"3"}]
    items = {item["key"]: item for item in (windows[number] for number in range(len(windows)))}
    assert (items["00"]["caption"], items["01"]["caption"], items["01"]["score"]) == ("", "here", 1.5)
    assert np.isnan(items["00"]["score"]) and items["01"]["label"] == 3.0
    # Whichever clips a batch has, its values are of one type.
    assert {type(item["label"]) for item in items.values()} == {float}


def test_every_epoch_has_batches_if_a_loop_counts_them(corpus: Path) -> None:
    """Such a loop leaves the sampler right after its last batch."""
    windows = TokenWindows(corpus, latents=1, start="any")
    sampler = windows.sampler(4, seed=1)
    loader = DataLoader(windows, batch_sampler=sampler, collate_fn=len)
    epochs = [sum(size for _, size in zip(range(len(sampler)), loader, strict=False)) for _ in range(3)]
    assert epochs == [len(windows)] * 3 and sampler.epoch == 2


def test_ranks_with_unequal_numbers_of_batches_have_no_empty_epoch() -> None:
    def sampler(rank: int) -> WindowSampler:
        return WindowSampler(np.zeros(10, np.int64), np.ones((10, 2), np.int64), batch_size=2, rank=rank, world=2)

    for rank, batches in ((0, 3), (1, 2)):
        each = sampler(rank)
        assert len(each) == batches
        assert [len([batch for _, batch in zip(range(batches), each, strict=False)]) for _ in range(3)] == [batches] * 3
        assert each.epoch == 2


def test_threads_may_share_windows(corpus: Path) -> None:
    windows = TokenWindows(corpus, latents=1, start="any")
    wanted = [windows[number]["tokens"].tobytes() for number in range(len(windows))]

    def read(number: int) -> bool:
        return bool(windows[number % len(wanted)]["tokens"].tobytes() == wanted[number % len(wanted)])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(40 * len(wanted))))


def test_short_clips_and_wrong_statuses_are_told(corpus: Path) -> None:
    with pytest.warns(UserWarning, match="2 of 5 clips have fewer than 5 latent frames"):
        TokenWindows(corpus, latents=5)
    with pytest.raises(InputError, match=r"its longest clip has \d+"):
        TokenWindows(corpus, latents=99)
    with pytest.raises(InputError, match="no shard with clips of status timeout"):
        TokenWindows(corpus, latents=1, statuses=iter(["timeout"]))
    for statuses, told in ((["okay"], "status 'okay'"), ("ok", "give a list")):
        with pytest.raises(SettingError, match=told):
            TokenWindows(corpus, latents=1, statuses=statuses)


def test_a_cache_that_cannot_be_written_is_named(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = TokenWindows(corpus, latents=1, cache=tmp_path / "cache")
    monkeypatch.setattr(
        storage, "replacing", lambda path: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left"))
    )
    with pytest.raises(InputError, match=r"cannot copy a shard to the cache .*/cache: No space left"):
        windows[0]


def test_a_clip_of_a_shard_opens_from_its_bytes(corpus: Path) -> None:
    sample = next(iter(webdataset.WebDataset(str(shard_path(corpus, 0)), shardshuffle=False)))
    with vtok_codec.open(sample["vtk"]) as clip:
        assert np.array_equal(clip.tokens(), whole_tokens(corpus)[sample["__key__"]])
    with pytest.raises(FormatError, match=r"the \.vtk file: not a \.vtk file"):
        vtok_codec.open(b"no clip")


def test_damage_names_the_clip_and_the_shard(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(corpus, folder)
    row = rows_of(read_index(index_path(folder, 0)))[0]
    data = bytearray(shard_path(folder, 0).read_bytes())
    data[row.offset + row.gop_offsets[0] + 12] ^= 1
    shard_path(folder, 0).write_bytes(data)
    with pytest.raises(DamageError, match=f"{row.key} in shards/000000.tar: "):
        TokenWindows(folder, latents=1)[0]
    index_path(folder, 0).write_bytes(b"PAR1 not")
    with pytest.raises(InputError, match=r"cannot read the index .*bad/shards/000000.parquet"):
        TokenWindows(folder, latents=1)


def test_several_corpora_are_read_as_one(corpus: Path, tmp_path: Path, one_thread: None) -> None:
    """Clips that come later are a corpus of their own; an epoch goes through the windows of all."""
    weights = tiny_weights(corpus.parent)
    make(tmp_path / "more", begin(tmp_path / "more", [corpus.parent / "clips"], weights, filters="hflip"))
    parts = [TokenWindows(corpus, 3), TokenWindows(tmp_path / "more", 3, start="any")]
    joined = vtok_codec.JoinedWindows(parts)
    loader = DataLoader(joined, batch_sampler=joined.sampler(2, seed=3), collate_fn=list)
    seen = sorted(item["tokens"].tobytes() for batch in loader for item in batch)
    assert seen == sorted(part[number]["tokens"].tobytes() for part in parts for number in range(len(part)))
    (tmp_path / "other").mkdir()
    foreign = tmp_path / "other/tiny.safetensors"
    foreign.write_bytes(dump_weights(randomized(OneVAE(TINY), seed=9), TINY, {}))
    make(tmp_path / "foreign", begin(tmp_path / "foreign", [corpus.parent / "clips/01.mp4"], foreign))
    for part, what in {
        TokenWindows(corpus, 2): "latents",
        TokenWindows(corpus, 3, tokens=1): "tokens",
        TokenWindows(corpus, 3, columns=["caption"]): "columns",
        TokenWindows(tmp_path / "foreign", 3): "weights",
    }.items():
        with pytest.raises(SettingError, match=f"windows of different {what} cannot be joined"):
            vtok_codec.JoinedWindows([parts[0], part])
    nested = vtok_codec.JoinedWindows([joined, parts[0]])
    assert len(nested) == len(joined) + len(parts[0]) and nested.latents == 3
    texts, numbers = (TokenWindows(corpus, 3, columns=["caption"]) for _ in range(2))
    numbers._user["caption"] = [1.0] * len(numbers._user["caption"])
    with pytest.raises(SettingError, match="'caption' is text in one corpus and numbers in another"):
        vtok_codec.JoinedWindows([texts, numbers])
    with pytest.raises(SettingError, match="at least one corpus"):
        vtok_codec.JoinedWindows([])
    with pytest.raises(SettingError, match="list of TokenWindows"):
        vtok_codec.JoinedWindows([tmp_path])
