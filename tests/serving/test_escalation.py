"""The debate behind an endpoint: held once, kept as a graph, paid for once; and told in words a client may read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import serve
from ray.exceptions import RayActorError, RayTaskError

from benchmarks.openai_server import running_server
from magdi_ray.agents.admission import LocalLimiter
from magdi_ray.agents.base import Message, Reply, Sampling
from magdi_ray.agents.budget import Budget
from magdi_ray.agents.failures import TimedOut, Unauthorised
from magdi_ray.agents.metered import MeteredEngine
from magdi_ray.agents.pool import retire_engines
from magdi_ray.agents.store import ReplyStore
from magdi_ray.config.engines import ApiEngine, Limits, Price, RecordedEngine
from magdi_ray.config.protocols import ReconcileConfig
from magdi_ray.config.sections import AgentConfig, DebateConfig
from magdi_ray.config.serving import StudentArgs
from magdi_ray.debate.hold import Seat
from magdi_ray.debate.reconcile import Reconcile
from magdi_ray.errors import ConfigError, EngineError
from magdi_ray.graph.store import read_mags
from magdi_ray.serving.backend import Escalated
from magdi_ray.serving.debating import NO_ANSWER, Room
from magdi_ray.serving.escalation import PAYER, DebateRoom, RoomTeachers, room_application, seats_of
from magdi_ray.tasks.gsm8k import Gsm8k

ROOT = Path(__file__).parent.parent.parent
ASKED = "How many are 2 and 3?"


@dataclass
class Scripted:
    """Says the same to everybody, after a while; an error is raised."""

    text: str | Exception
    confidence: float | None = None
    after_s: float = 0.0
    calls: int = 0
    hits: int = 0

    async def generate(self, messages: Sequence[Message], sampling: Sampling, *, sample: int = 0) -> Reply:
        self.calls += 1
        await asyncio.sleep(self.after_s)
        if isinstance(self.text, Exception):
            raise self.text
        return Reply(self.text, 7, 3, self.confidence, "stop", "scripted")


def room(directory: Path, *teachers: Scripted, **options: Any) -> Room:
    seats = {f"t{place}": Seat(teacher, Sampling()) for place, teacher in enumerate(teachers)}
    return Room(Reconcile(Gsm8k(), rounds=1), seats, graphs=directory, seed=0, **({"identity": "a", "at_once": 8} | options))


def test_a_debate_is_held_once_and_its_graph_is_kept_and_read_back(tmp_path: Path) -> None:
    teachers = [
        Scripted("It is 5. The answer is 5.", 0.3),
        Scripted("Surely 5. The answer is 5.", 0.9),
        Scripted("The answer is 4."),
    ]
    first = asyncio.run(room(tmp_path, *teachers).debate(ASKED))
    assert (first.answer, first.text, first.stored, first.error) == ("5", "Surely 5. The answer is 5.", False, None)
    assert (first.rounds, first.agents, first.tokens_in, first.tokens_out) == (2, ("t0", "t1", "t2"), 42, 18)
    [mag] = read_mags(tmp_path)
    assert (mag.question.id, mag.question.text, mag.question.gold, mag.question.split) == (first.id, ASKED, None, "train")
    assert (mag.labels, [node.correct for node in mag.nodes]) == ("vote", [True, True, False] * 2)
    # another room, as after a restart
    again = asyncio.run(room(tmp_path, *teachers).debate(ASKED))
    assert again == replace(first, stored=True, tokens_in=0, tokens_out=0)
    assert [teacher.calls for teacher in teachers] == [2, 2, 2]


def test_two_who_ask_at_the_same_time_share_one_debate_and_its_tokens_are_told_once(tmp_path: Path) -> None:
    teacher = Scripted("The answer is 5.", after_s=0.02)

    async def both() -> list[Escalated]:
        held = room(tmp_path, teacher)
        return await asyncio.gather(held.debate(ASKED), held.debate(ASKED))

    one, other = asyncio.run(both())
    assert teacher.calls == 1
    assert (one.stored, one.tokens_out, other.stored, other.tokens_out) == (False, 3, True, 0)


def test_a_debate_goes_on_when_the_one_who_asked_leaves(tmp_path: Path) -> None:
    teacher = Scripted("The answer is 5.", after_s=0.02)

    async def leave() -> Escalated:
        held = room(tmp_path, teacher)
        asked = asyncio.create_task(held.debate(ASKED))
        await asyncio.sleep(0.01)
        asked.cancel()
        return await held.debate(ASKED)

    assert asyncio.run(leave()).answer == "5"
    assert teacher.calls == 1


def test_a_failed_debate_is_no_graph_and_neither_client_nor_log_see_a_providers_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teachers = [Scripted("The answer is 5."), Scripted(Unauthorised("key sk-123 of org-7 was refused for 'How many'"))]
    with caplog.at_level(logging.WARNING):
        found = asyncio.run(room(tmp_path, *teachers).debate(ASKED))
    assert (found.answer, found.text, found.stored, found.id[:6]) == (None, "", False, "gsm8k-")
    assert found.error == "The teachers' debate failed: a teacher's provider does not accept the server's key (Unauthorised)."
    assert list(tmp_path.glob("*")) == []
    assert "Unauthorised" in caplog.text
    assert "sk-123" not in caplog.text
    asyncio.run(room(tmp_path, *teachers, log_texts=True).debate(ASKED))
    assert "sk-123" in caplog.text


def test_a_debate_without_an_answer_is_kept_and_says_so(tmp_path: Path) -> None:
    for stored in (False, True):
        found = asyncio.run(room(tmp_path, Scripted("Hm.")).debate(ASKED))
        assert (found.answer, found.text, found.error, found.stored) == (None, "", NO_ANSWER, stored)
    assert read_mags(tmp_path)[0].labels == "none"


def test_a_debate_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magdi_ray.serving.debating.LONGEST_S", 0.02)
    found = asyncio.run(room(tmp_path, Scripted("The answer is 5.", after_s=60.0)).debate(ASKED))
    assert found.error is not None
    assert "it took longer than" in found.error


def test_no_more_debates_are_held_at_once_than_there_are_places(tmp_path: Path) -> None:
    most = now = 0

    class Counting(Scripted):
        async def generate(self, messages: Sequence[Message], sampling: Sampling, *, sample: int = 0) -> Reply:
            nonlocal most, now
            now += 1
            most = max(most, now)
            try:
                return await super().generate(messages, sampling, sample=sample)
            finally:
                now -= 1

    async def many() -> None:
        held = room(tmp_path, Counting("The answer is 5.", after_s=0.005), at_once=2)
        await asyncio.gather(*(held.debate(f"{ASKED} ({number})") for number in range(6)))

    asyncio.run(many())
    assert most == 2
    assert len(read_mags(tmp_path)) == 6


def test_a_damaged_graph_is_neither_believed_nor_replaced(tmp_path: Path) -> None:
    held = room(tmp_path, Scripted("The answer is 5."))
    file = tmp_path / f"{asyncio.run(held.debate(ASKED)).id}.a.parquet"
    file.write_bytes(b"damaged")
    found = asyncio.run(room(tmp_path, Scripted("The answer is 5.")).debate(ASKED))
    assert found.error is not None
    assert "stored graph cannot be read" in found.error
    assert file.read_bytes() == b"damaged"


def config(tmp_path: Path, names: Sequence[str] = ("ada", "ben"), **changes: Any) -> DebateConfig:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "replies.jsonl").touch()
    engine = RecordedEngine(type="recorded", path=str(tmp_path / "replies.jsonl"))
    agents = tuple(AgentConfig(name=name, engine=engine) for name in names)
    return DebateConfig(protocol=ReconcileConfig(name="reconcile", rounds=1), agents=agents, **changes)


def counted_room(tmp_path: Path, debate: DebateConfig, *teachers: Scripted) -> Room:
    """A room as the deployment builds it, over scripted engines."""
    store = ReplyStore(str(tmp_path / "kept"), run=PAYER)
    budget = Budget(usd=debate.budget_usd, tokens=debate.budget_tokens, spent=store.spent(PAYER))
    limiter = LocalLimiter(budget=budget)
    engines = {a.name: MeteredEngine(t, limiter, a.name) for a, t in zip(debate.agents, teachers, strict=True)}
    seats = seats_of(debate, store, engines)
    return Room(Reconcile(Gsm8k(), 1), seats, graphs=tmp_path / "graphs", identity="a", seed=0, at_once=8)


def test_the_budget_holds_for_the_rooms_life_and_over_restarts(tmp_path: Path) -> None:
    debate = config(tmp_path, budget_tokens=1300)  # 20 tokens a debate; a call reserves its prompt and 512
    teachers = [Scripted("The answer is 5."), Scripted("The answer is 5.")]
    assert asyncio.run(counted_room(tmp_path, debate, *teachers).debate(ASKED)).error is None
    tight = debate.model_copy(update={"budget_tokens": 530})
    held = counted_room(tmp_path, tight, *teachers)
    assert asyncio.run(held.debate("And 4?")).error == (
        "The teachers' debate failed: the budget of the teachers' debates is spent (BudgetSpent)."
    )
    assert asyncio.run(held.debate(ASKED)).stored  # what is kept costs nothing
    assert sum(teacher.calls for teacher in teachers) == 2


def test_replies_of_a_debate_that_failed_are_not_asked_for_again(tmp_path: Path) -> None:
    debate = config(tmp_path)
    sound, broken = Scripted("The answer is 5."), Scripted(TimedOut("2 s"))
    assert asyncio.run(counted_room(tmp_path, debate, sound, broken).debate(ASKED)).error is not None
    broken.text = "The answer is 5."
    assert asyncio.run(counted_room(tmp_path, debate, sound, broken).debate(ASKED)).answer == "5"
    assert (sound.calls, broken.calls) == (1, 2)


def test_agents_on_the_same_model_draw_replies_of_their_own(tmp_path: Path) -> None:
    seats = seats_of(config(tmp_path, ["a", "b"]), ReplyStore(str(tmp_path / "kept")), {"a": Scripted(""), "b": Scripted("")})
    assert [(seat.twin, seat.twins) for seat in seats.values()] == [(0, 2), (1, 2)]


def api_room(tmp_path: Path, engine: ApiEngine, **changes: Any) -> DebateRoom:
    agents = tuple(AgentConfig(name=name, engine=engine) for name in ("one", "two"))
    debate = config(tmp_path).model_copy(update={"agents": agents, **changes})
    return DebateRoom(debate, {}, task="gsm8k", graphs=str(tmp_path / "graphs"), seed=0, log_texts=False)


def test_providers_are_asked_by_the_room_itself_within_their_limits_and_its_budget(tmp_path: Path) -> None:
    async def ask(held: DebateRoom, *questions: str) -> list[Escalated]:
        return await asyncio.gather(*map(held.debate, questions))

    with running_server(latency=0.01) as server:
        limits, price = Limits(concurrency=2), Price(input=1.0, output=1000.0)
        engine = ApiEngine(type="api", model="m", base_url=server.url, structured="never", limits=limits, price=price)
        held = asyncio.run(ask(api_room(tmp_path / "one", engine), *(f"{ASKED} ({n})" for n in range(6))))
        assert server.stats()["peak_open"] == 2
        spent = sum(spend.usd for spend in ReplyStore(str(tmp_path / "one" / "graphs-replies")).spent(PAYER).values())
        # A call may cost 0.512 dollars: enough for a room that begins anew, and not for the one that has spent some.
        [refused] = asyncio.run(ask(api_room(tmp_path / "one", engine, budget_usd=spent + 0.5), "And 4?"))
        [afforded] = asyncio.run(ask(api_room(tmp_path / "two", engine, budget_usd=spent + 0.5), "And 4?"))
    assert spent > 0.1
    assert [one.error for one in [*held, afforded]] == [None] * 7
    assert "(BudgetSpent)" in (refused.error or "")


def test_a_room_without_its_providers_key_does_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY, which is not set"):
        api_room(tmp_path, ApiEngine(type="api", model="m", base_url="http://localhost:1/v1", api_key_env="NO_SUCH_KEY"))


@dataclass
class Handle:
    """A Serve handle to a room that fails so often, and then answers."""

    failures: list[Exception] = field(default_factory=list)
    found: Any = None
    cancelled: int = 0

    @property
    def debate(self) -> Handle:
        return self

    def remote(self, question: str) -> Handle:
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        if self.failures:
            raise self.failures.pop(0)
        return self.found


def test_a_room_that_dies_is_asked_again_and_one_that_stays_away_is_told_as_an_error() -> None:
    found = Escalated("q", "5", "5", 1.0, 1, ("a",), 1, 1, stored=False, error=None)
    assert asyncio.run(RoomTeachers(Handle([RayActorError()], found)).debate(ASKED)) == found  # type: ignore[arg-type]
    away = asyncio.run(RoomTeachers(Handle([RayActorError()] * 9)).debate(ASKED))  # type: ignore[arg-type]
    assert away.error is not None
    assert "cannot be asked at the moment" in away.error


def test_a_mistake_in_the_rooms_own_code_is_no_verdict_but_an_error() -> None:
    bug = RayTaskError("debate", "Traceback ...", KeyError("x"))
    with pytest.raises(EngineError, match="The debate room failed: KeyError"):
        asyncio.run(RoomTeachers(Handle([bug])).debate(ASKED))  # type: ignore[arg-type]


def test_a_client_that_leaves_lets_go_of_the_room() -> None:
    handle = Handle([asyncio.CancelledError()])  # type: ignore[list-item]
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(RoomTeachers(handle).debate(ASKED))  # type: ignore[arg-type]
    assert handle.cancelled == 1


def test_an_unknown_task_is_refused_before_anything_is_deployed(tmp_path: Path) -> None:
    args = StudentArgs(model="m", model_name="m", task="chess", escalate=True, debate=config(tmp_path), escalations=str(tmp_path))
    with pytest.raises(ConfigError, match="no task 'chess'; the tasks are gsm8k"):
        room_application(args)


@pytest.fixture
def tiny_args(tmp_path: Path) -> StudentArgs:
    """The bundled teachers, as configs/tiny.yaml lets them debate."""
    written = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())["debate"]
    debate = DebateConfig.model_validate(written, strict=False)
    return StudentArgs(
        model="pkg://magdi_ray/tiny/models/student",
        model_name="tiny",
        task="tiny",
        escalate=True,
        debate=debate,
        escalations=str(tmp_path / "escalations"),
    )


@pytest.mark.cluster
def test_a_question_is_debated_by_deployed_teachers_kept_and_not_debated_again(ray_cluster: None, tiny_args: StudentArgs) -> None:
    question = "kim has 8 figs . kim fills 3 bags with that many figs each . kim loses 9 figs . how many figs does kim have ?"
    serve.start(proxy_location="Disabled")
    handle: Any = serve.run(room_application(tiny_args), name="room", route_prefix=None)
    try:
        deployed = set(serve.status().applications["room"].deployments)
        first = asyncio.run(RoomTeachers(handle).debate(question))
        again = asyncio.run(RoomTeachers(handle).debate(question))
    finally:
        retire_engines(["room"])
    assert deployed == {"debate-room", "teacher-ada", "teacher-ben", "teacher-cleo"}
    assert first.error is None
    assert (first.stored, again.stored, again.tokens_out) == (False, True, 0)
    assert (first.answer, first.text) == (again.answer, again.text)
    assert f"answer {first.answer}" in first.text
    [mag] = read_mags(str(tiny_args.escalations))
    assert (mag.question.text, mag.answer, mag.agents, mag.labels) == (question, first.answer, ("ada", "ben", "cleo"), "vote")
    assert sum(node.tokens_out for node in mag.nodes) == first.tokens_out > 0
