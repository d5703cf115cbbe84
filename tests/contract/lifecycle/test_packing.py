"""Packed jobs: one segment that holds what the folders would hold, written once, at the end, and made again at will."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from batch_jobs.errors import StoreError, UserError, WrongMoment
from batch_jobs.lifecycle import cells, packing
from batch_jobs.lifecycle.advance import Came, advance
from batch_jobs.lifecycle.control import approve, cancel, discard
from batch_jobs.lifecycle.packing import answers_of_rows, pack_job
from batch_jobs.lifecycle.plan import layout_of
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.rebuild import rebuild
from batch_jobs.lifecycle.receive import Order, receive
from batch_jobs.lifecycle.unpack import unpack
from batch_jobs.models import Layout, Mode, Phase
from batch_jobs.storage import jobs
from batch_jobs.storage.call_cache import Answer
from batch_jobs.storage.folders import FolderStore
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.packed import PackedStore
from batch_jobs.storage.results import Filed, ResultStore
from tests.contract.lifecycle.conftest import MakeWorld
from tests.contract.lifecycle.kit import EVENTS, ITEMS, Crash, FakeProvider, World, failed, ok, open_fake, write_project


def packed(world: World) -> World:
    """The planned job, as if it were a large one."""
    with world.project.ledger.write() as connection:
        plan = {**(jobs.get(connection, world.task_id).plan or {}), "layout": "packed"}
        jobs.change(connection, world.task_id, plan=plan)
    assert layout_of(world.job) is Layout.PACKED
    return world


def segment_of(world: World) -> Path:
    return PackedStore(world.project.workspace.store, "loss").segment("summarize", world.task_id)


def waiting_of(world: World) -> Path:
    return PackedStore(world.project.workspace.store, "loss").waiting("summarize", world.task_id)


def contents(store: ResultStore) -> list[Filed]:
    return sorted(store.stream(), key=lambda filed: (filed.identity, filed.name))


def files(store: Path) -> dict[str, bytes]:
    """Every file below a data case."""
    root = store / "loss"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def lines(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


@pytest.mark.parametrize("mode", [Mode.BATCH, Mode.CONCURRENT])
def test_a_segment_holds_what_the_folders_would(make_world: MakeWorld, mode: Mode) -> None:
    by_folders, by_segment = make_world(mode), packed(make_world(mode))
    for world in (by_folders, by_segment):
        assert world.run() is Came.DONE
        world.check(calls_billed=ITEMS)
    folders, store = (FolderStore(world.project.workspace.store, "loss") for world in (by_folders, by_segment))
    assert contents(PackedStore(by_segment.project.workspace.store, "loss")) == contents(folders)
    assert folders.count() == ITEMS
    assert list(files(by_segment.project.workspace.store)) == [f"processed/summarize-{by_segment.task_id}.parquet"]
    assert store.count() == 0


def test_what_waits_is_one_segment_until_the_results_are_there(world: World) -> None:
    packed(world).provider.end = lambda _: None
    assert world.advance().came is Came.WAIT
    store = world.project.workspace.store
    assert list(files(store)) == [f"to_process/summarize-{world.task_id}.parquet"]
    waiting = lines(waiting_of(world))
    assert [dict(line["details"])["what"] for line in waiting] == EVENTS[:ITEMS]
    world.provider.end = world.provider.complete_batch
    assert world.run() is Came.DONE
    assert [line["identity"] for line in lines(segment_of(world))] == [line["identity"] for line in waiting]
    assert not waiting_of(world).exists()


def test_failed_items_are_not_in_it_even_if_another_job_has_their_answer(world: World) -> None:
    packed(world).provider.reply = lambda sent: [failed(sent, 400) if sent.event == "event-2" else ok(sent)]
    assert world.run() is Came.DONE
    events = [dict(line["details"])["what"] for line in lines(segment_of(world))]
    assert events == ["event-0", "event-1", "event-3", "event-4", "event-5"]
    assert [dict(line["details"])["number"] for line in lines(segment_of(world))] == ["0", "1", "3", "4", "5"]
    one, other = world.records[1], world.records[2]
    bought = world.project.cache.get([one.fingerprint])[one.fingerprint]._replace(fingerprint=other.fingerprint)
    world.project.cache.put([bought])
    assert pack_job(world.project, world.job) == ITEMS - 1


@pytest.mark.parametrize("at", ["before the segment", "after the segment"])
def test_a_crash_while_it_is_written(world: World, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    packed(world)

    def dies(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        if at == "before the segment":
            patch.setattr(cells, "results_table", dies)
        else:
            patch.setattr(packing, "remove_file", dies)
        with pytest.raises(Crash):
            world.run()
    assert world.job.phase is Phase.WRITING
    assert segment_of(world).exists() is (at == "after the segment")
    assert waiting_of(world).exists()
    assert world.run() is Came.DONE
    assert len(lines(segment_of(world))) == ITEMS
    assert list(files(world.project.workspace.store)) == [f"processed/summarize-{world.task_id}.parquet"]


@pytest.mark.parametrize("rows_at_once", [1, 2, 4, 100])
def test_whoever_passes_over_the_rows_may_feed_it_in_any_sizes(world: World, rows_at_once: int) -> None:
    assert packed(world).run() is Came.DONE
    before = segment_of(world).read_bytes()
    answers: dict[bytes, Answer] = {}
    for _, _, some in answers_of_rows(world.project, world.job):
        answers.update(some)
    rows = packing.PackedRows(world.project, world.job)
    with packing.packing(world.project, world.job) as segment, contextlib.closing(rows):
        for _ in range(0, len(EVENTS), rows_at_once):
            segment.add(rows.results(rows_at_once, answers))
    assert segment_of(world).read_bytes() == before
    assert pack_job(world.project, world.job) == ITEMS
    assert segment_of(world).read_bytes() == before


def test_a_cancelled_job_keeps_what_was_answered(world: World) -> None:
    packed(world).provider.end = lambda _: None
    world.advance()
    cancel(world.project, world.task_id)
    batch = world.provider.batches["batch-1"]
    batch.lines = [line for sent in batch.requests[:2] for line in world.provider.reply(sent)]
    assert world.run() is Came.DONE
    assert [dict(line["details"])["what"] for line in lines(segment_of(world))] == EVENTS[:2]


def test_a_job_without_any_answer_has_an_empty_segment(make_world: MakeWorld) -> None:
    world = packed(make_world(approved=False))
    cancel(world.project, world.task_id)
    assert world.run() is Came.DONE
    assert lines(segment_of(world)) == []


def test_a_discarded_job_leaves_nothing_waiting(make_world: MakeWorld) -> None:
    world = packed(make_world(approved=False))
    packing.pack_waiting(world.project, world.job)
    assert waiting_of(world).exists()
    discard(world.project, world.task_id)
    assert files(world.project.workspace.store) == {}


def test_a_stop_ends_the_preparation(world: World) -> None:
    packed(world).stop.set()
    world.advance()
    assert world.job.phase is Phase.PLANNED
    world.stop.clear()
    assert world.run() is Came.DONE
    assert len(lines(segment_of(world))) == ITEMS


def test_rebuilding_makes_the_same_bytes(world: World) -> None:
    assert packed(world).run() is Came.DONE
    store = world.project.workspace.store
    before = files(store)
    segment_of(world).write_bytes(b"damaged")
    assert rebuild(world.project) == (ITEMS, 0)
    assert files(store) == before


def test_rebuilding_while_it_is_under_way_makes_what_waits(world: World) -> None:
    packed(world).provider.end = lambda _: None
    world.advance()
    before = files(world.project.workspace.store)
    waiting_of(world).unlink()
    assert rebuild(world.project) == (0, ITEMS)
    assert files(world.project.workspace.store) == before
    world.sql("UPDATE items SET outcome = 'succeeded' WHERE item < 4")
    assert rebuild(world.project) == (0, 2)
    assert [dict(line["details"])["what"] for line in lines(waiting_of(world))] == EVENTS[4:ITEMS]


def test_the_layout_is_chosen_once(tmp_path: Path) -> None:
    """A changed config never splits a job."""
    project, _, task_id = planned(tmp_path, store={"packed_above_rows": 3})
    assert layout_of(job_of(project, task_id)) is Layout.PACKED
    project.close()
    project, _, _ = open_fake(write_project(tmp_path, store={"layout": "folders"}))
    approve(project, task_id)
    assert advance(project, task_id).came is Came.DONE
    assert list(files(project.workspace.store)) == [f"processed/summarize-{task_id}.parquet"]
    project.close()


def planned(folder: Path, **sections: Any) -> tuple[Project, FakeProvider, str]:
    """A job in which two of three identities have two items each."""
    config = write_project(folder, **sections)
    document = json.loads(config.read_text())
    document["tasks"]["summarize"]["data_cases"]["loss"]["identity_columns"] = ["group"]
    config.write_text(json.dumps(document))
    project, provider, _ = open_fake(config)
    upload = folder / "events.csv"
    upload.write_text("group,what\na,event-0\nb,event-1\na,event-2\na,event-0\nc,event-1\nb,event-3\n")
    task_id = receive(project, Order(upload, upload.name, "summarize", "loss")).task_id
    assert advance(project, task_id).came is Came.CONFIRM
    return project, provider, task_id


def job_of(project: Project, task_id: str) -> Job:
    with project.ledger.read() as connection:
        return jobs.get(connection, task_id)


def finished(folder: Path, layout: str) -> tuple[Project, str]:
    project, provider, task_id = planned(folder, store={"layout": layout})
    approve(project, task_id)
    came = advance(project, task_id)
    while came.came is Came.WAIT:
        provider.clock.now += 30
        came = advance(project, task_id)
    assert came.came is Came.DONE
    return project, task_id


def test_alternates_and_shared_items_come_out_as_in_folders(tmp_path: Path) -> None:
    found = []
    for layout in ("folders", "packed"):
        project, task_id = finished(tmp_path / layout, layout)
        if layout == "packed":
            assert set(files(project.workspace.store)) == {f"processed/summarize-{task_id}.parquet"}
            written = unpack(project, task_id, [], None)
            assert written == {project.workspace.store / "loss" / "processed": 5}
        tree = {name: content for name, content in files(project.workspace.store).items() if name.endswith(".json")}
        found.append({name: content.replace(task_id.encode(), b"task_id") for name, content in tree.items()})
        project.close()
    assert found[0] == found[1]
    assert len([name for name in found[0] if "ai_results" in name]) == 5
    assert len([name for name in found[0] if name.endswith("details.json")]) == 3


def test_unpacking_writes_the_folders_byte_for_byte_and_again_changes_nothing(make_world: MakeWorld) -> None:
    by_folders, by_segment = make_world(), packed(make_world())
    assert {world.run() for world in (by_folders, by_segment)} == {Came.DONE}
    segment = segment_of(by_segment).read_bytes()
    for _ in range(2):
        assert sum(unpack(by_segment.project, by_segment.task_id, [], None).values()) == ITEMS
        there = files(by_segment.project.workspace.store)
        assert there.pop(f"processed/summarize-{by_segment.task_id}.parquet") == segment
        assert there == files(by_folders.project.workspace.store)


def test_unpacking_a_selection(world: World) -> None:
    assert packed(world).run() is Came.DONE
    every = [line["identity"] for line in lines(segment_of(world))]
    processed = world.project.workspace.store / "loss" / "processed"

    def unpacked() -> set[str]:
        return {path.name for path in processed.iterdir() if path.is_dir()}

    assert unpack(world.project, None, [every[4].upper(), every[4]], None) == {processed: 1}
    assert unpacked() == {every[4]}
    assert unpack(world.project, world.task_id, every[:2], 1) == {processed: 1}
    assert unpacked() == {every[0], every[4]}
    assert unpack(world.project, None, [], 3) == {processed: 3}
    assert unpacked() == {*every[:3], every[4]}


def test_what_can_not_be_unpacked_is_said(make_world: MakeWorld) -> None:
    world, other = packed(make_world()), make_world()
    with pytest.raises(WrongMoment, match="not done yet"):
        unpack(world.project, world.task_id, [], None)
    assert unpack(world.project, None, [], 5) == {}
    assert {each.run() for each in (world, other)} == {Came.DONE}
    with pytest.raises(UserError, match="nothing is selected"):
        unpack(world.project, None, [], None)
    with pytest.raises(UserError, match="64 characters"):
        unpack(world.project, None, ["../x"], None)
    for task_id in (None, world.task_id):
        with pytest.raises(UserError, match=f"identity {'a' * 64}; nothing was written"):
            unpack(world.project, task_id, [lines(segment_of(world))[0]["identity"], "a" * 64], None)
    with pytest.raises(UserError, match="is not packed: its folders"):
        unpack(other.project, other.task_id, [], None)
    assert list(files(world.project.workspace.store)) == [f"processed/summarize-{world.task_id}.parquet"]
    segment_of(world).unlink()
    with pytest.raises(StoreError, match="rebuild-store"):
        unpack(world.project, world.task_id, [], None)
