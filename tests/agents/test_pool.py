"""Pooled engines: started together, found by name, and still answering after a replica was killed. Real Ray Serve."""

from __future__ import annotations

import asyncio
import pickle
import signal
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.agents.pool import PooledEngine, PoolSpec, _Looks, ask_replica, deploy_engines, retire_engines, stands_still
from magdi_ray.agents.recorded import record
from magdi_ray.config.engines import RecordedEngine, TransformersEngine
from magdi_ray.errors import EngineError

pytestmark = pytest.mark.cluster

ASKED = [Message("user", "2 + 2?")]
FOUR = Reply(text="4", tokens_in=5, tokens_out=2, confidence=0.5, finish_reason="stop", model="ada")


@pytest.fixture(scope="module")
def pool(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two recorded engines, "ada" and "bob"."""
    path = tmp_path_factory.mktemp("pool") / "replies.jsonl"
    record(path, ASKED, FOUR)
    engine = RecordedEngine(type="recorded", path=str(path))
    specs = [PoolSpec("ada", engine, num_cpus=0.5), PoolSpec("bob", engine, replicas=(1, 2), num_cpus=0.5)]
    deploy_engines(specs, timeout_s=120)
    yield
    retire_engines(["ada", "bob", "never deployed"])


def ask(engine: PooledEngine, times: int = 1) -> list[Reply]:
    async def run() -> list[Reply]:
        return await asyncio.gather(*(engine.generate(ASKED, Sampling()) for _ in range(times)))

    return asyncio.run(run())


def test_a_pooled_engine_answers_and_travels_by_pickle(pool: None) -> None:
    for engine in (PooledEngine("ada"), PooledEngine("bob")):
        assert ask(engine) == [FOUR]
        assert ask(pickle.loads(pickle.dumps(engine))) == [FOUR]


def test_an_engines_own_error_comes_through_as_it_was_raised(pool: None) -> None:
    with pytest.raises(EngineError, match=r"holds no reply to this conversation .1 messages, the last one 'hm'") as caught:
        asyncio.run(PooledEngine("ada").generate([Message("user", "hm")], Sampling()))
    assert type(caught.value) is EngineError


def test_an_engine_that_is_not_deployed_is_named(pool: None) -> None:
    with pytest.raises(EngineError, match="No engine 'eve' is deployed"):
        ask(PooledEngine("eve"))


def replica_of(app: str) -> psutil.Process:
    """The process of an engine's only replica, among this test session's own."""
    title = f"ServeReplica:{app}:"
    [process] = [child for child in psutil.Process().children(recursive=True) if title in "".join(child.cmdline())]
    return process


def test_requests_that_wait_at_a_replica_survive_its_death(pool: None) -> None:
    engine = PooledEngine("ada")

    async def run() -> list[Reply]:
        await engine.generate(ASKED, Sampling())
        replica = replica_of("ada")
        replica.send_signal(signal.SIGSTOP)  # what is asked now arrives, and waits
        asked = asyncio.gather(*(engine.generate(ASKED, Sampling()) for _ in range(8)))
        await asyncio.sleep(0.5)
        assert not asked.done()
        replica.kill()
        return await asked

    assert asyncio.run(run()) == [FOUR] * 8


def test_an_engine_that_cannot_start_is_an_error_in_its_own_words_and_leaves_nothing(pool: None, tmp_path: Path) -> None:
    from ray import serve

    engine = TransformersEngine(type="transformers", model=str(tmp_path / "nothing"))
    with pytest.raises(EngineError, match="Engine 'lost' cannot start: No model directory at") as caught:
        deploy_engines([PoolSpec("lost", engine, num_cpus=0.5)], timeout_s=120)
    assert "Traceback" not in str(caught.value)
    retire_engines(["lost"])
    assert set(serve.status().applications) >= {"ada", "bob"}
    assert "lost" not in serve.status().applications


def running_replicas(app: str) -> int:
    from ray import serve

    return serve.status().applications[app].deployments["engine"].replica_states.get("RUNNING", 0)


def test_a_pool_grows_to_its_largest_number_of_replicas_while_requests_wait(pool: None) -> None:
    engine = PooledEngine("bob")

    async def run() -> list[Reply]:
        await engine.generate(ASKED, Sampling())
        first = replica_of("bob")
        first.send_signal(signal.SIGSTOP)
        asked = asyncio.gather(*(engine.generate(ASKED, Sampling()) for _ in range(150)))
        try:
            async with asyncio.timeout(120):
                while await asyncio.to_thread(running_replicas, "bob") < 2:
                    await asyncio.sleep(0.5)
        finally:
            first.send_signal(signal.SIGCONT)
        return await asked

    assert running_replicas("bob") == 1
    assert asyncio.run(run()) == [FOUR] * 150


def test_an_engine_without_a_replica_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magdi_ray.agents.pool.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("magdi_ray.agents.pool.LOST_SECONDS", 0.03)
    monkeypatch.setattr("magdi_ray.agents.pool.stands_still", lambda app: True)
    monkeypatch.setattr("magdi_ray.agents.pool._words_of", lambda app: "RuntimeError: no memory")

    class Never:
        def remote(self, *_: object) -> Never:
            return self

        def __await__(self) -> Generator[Any, None, None]:
            return asyncio.sleep(60).__await__()

        def cancel(self) -> None:
            pass

    handle = SimpleNamespace(generate=Never())
    with pytest.raises(EngineError, match=r"no running replica for 0 s\. RuntimeError: no memory"):
        asyncio.run(ask_replica(handle, [Message("user", "?")], Sampling(), name="lost"))  # type: ignore[arg-type]


def test_thousands_that_wait_look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    running = SimpleNamespace(replica_states={"RUNNING": 1})
    starting = SimpleNamespace(replica_states={"STARTING": 1})
    found = {name: SimpleNamespace(deployments={"engine": one}) for name, one in (("a", running), ("b", starting))}
    looked: list[int] = []

    def status() -> Any:
        looked.append(1)
        return SimpleNamespace(applications=found)

    monkeypatch.setattr("magdi_ray.agents.pool.serve.status", status)
    monkeypatch.setattr("magdi_ray.agents.pool._LOOKS", _Looks())
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(stands_still, ["a", "b", "unknown"] * 100)) == [False, True, False] * 100
    assert len(looked) == 1
