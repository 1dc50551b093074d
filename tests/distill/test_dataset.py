"""Tokenised graphs on disk: what is written is read, by memory map, and each training finds its own."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from magdi_ray.config.distil import DevConfig, StudentConfig, TrainConfig
from magdi_ray.config.recipes import NodeSelection, RecipeConfig, resolve_recipe
from magdi_ray.config.sections import FileTask
from magdi_ray.distill.dataset import INDEX, MARKER, PartWriter, TokenFacts, TokenStore, commit, hold_out, is_complete, part_path
from magdi_ray.distill.job import Job
from magdi_ray.distill.plan import measure
from magdi_ray.distill.tokenising import Reading, cut, tokenise_graphs, tokenise_unit, tokenizer_hash
from magdi_ray.distill.tokens import GraphTokens, NodeTokens, tokenise
from magdi_ray.errors import ConfigError, GraphError
from magdi_ray.graph.schema import Mag
from magdi_ray.graph.store import MagGroup, mag_groups, to_row, write_mags
from magdi_ray.storage import fetched
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

from .conftest import MAGS, Workbench, make_mag

SWITCHES: list[dict[str, Any]] = [
    {"next_token": next_token, "loss_on_prompt": prompt, "packed": packed}
    for next_token in (True, False)
    for prompt in (True, False)
    for packed in (True, False)
]
MANY = (*MAGS, make_mag(5, ("18", "18", "3"), split="dev"), make_mag(6, ("1", "18", "3"), split="test"))


def stored(directory: Path, graphs: tuple[GraphTokens, ...], *dev: GraphTokens) -> TokenStore:
    with PartWriter(directory, 0) as writer:
        writer.add("train", graphs)
        writer.add("dev", dev)
    commit(directory, pa.Table.from_pylist(writer.index, schema=INDEX), TokenFacts(graphs=len(graphs)))
    return TokenStore(directory)


def long_graph(number: int, tokens: int) -> GraphTokens:
    nodes = tuple(NodeTokens(tuple(range(tokens)), i % 2 == 0, f"q{number}/{i}") for i in range(2))
    return GraphTokens(f"q{number}", (1, 2), nodes, ())


def test_units_are_read_as_they_were_written_in_order_of_their_questions(bench: Workbench, tmp_path: Path) -> None:
    graphs = bench.graphs()
    store = stored(tmp_path, graphs[::-1])
    assert [store.graph("train", i) for i in range(len(graphs))] == list(graphs)
    assert store.question_ids("train") == [graph.question_id for graph in graphs]


def test_nodes_that_are_units_of_their_own_stand_in_order_of_their_position(tmp_path: Path) -> None:
    keys = [f"q1/{position}" for position in (10, 9, 2)] + ["q1/solution"]
    store = stored(tmp_path, tuple(GraphTokens("q1", (1,), (NodeTokens((2,), True, key),), ()) for key in keys))
    assert [store.graph("train", i).nodes[0].key for i in range(4)] == keys[::-1]


@pytest.mark.parametrize("switches", SWITCHES)
def test_the_index_alone_gives_the_sizes_that_the_tokens_give(bench: Workbench, tmp_path: Path, switches: dict[str, Any]) -> None:
    graphs = bench.graphs()
    assert stored(tmp_path, graphs).sizes("train", **switches) == tuple(measure(graph, **switches) for graph in graphs)


def test_what_is_measured_on_is_kept_apart(bench: Workbench, tmp_path: Path) -> None:
    first, *rest = bench.graphs()
    store = stored(tmp_path, tuple(rest), first)
    assert store.graph("dev", 0) == first
    assert store.question_ids("train") == [graph.question_id for graph in rest]


def test_token_ids_stay_in_the_mapped_file_and_take_no_memory(tmp_path: Path) -> None:
    store = stored(tmp_path, tuple(long_graph(number, 50_000) for number in range(20)))
    assert part_path(tmp_path, 0).stat().st_size > 8_000_000
    before = pa.total_allocated_bytes()
    batch = store._part(0).get_batch(0)
    assert store.graph("train", 7).question_id == store.question_ids("train")[7]
    assert batch.nbytes > 8_000_000
    assert pa.total_allocated_bytes() - before < 100_000


def test_a_directory_without_its_marker_or_with_half_a_part_is_no_dataset(bench: Workbench, tmp_path: Path) -> None:
    stored(tmp_path, bench.graphs())
    part = part_path(tmp_path, 0)
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    assert not is_complete(tmp_path)
    part.write_bytes(whole)
    assert is_complete(tmp_path)
    (tmp_path / MARKER).unlink()
    with pytest.raises(GraphError, match="whole tokenised graphs are required"):
        TokenStore(tmp_path)


def test_a_part_appears_only_when_it_is_whole(bench: Workbench, tmp_path: Path) -> None:
    def broken_off() -> None:
        with PartWriter(tmp_path, 0) as writer:
            writer.add("train", bench.graphs())
            assert not part_path(tmp_path, 0).exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken_off()
    assert list(tmp_path.iterdir()) == []


def test_the_same_questions_are_held_out_in_whatever_order_they_come() -> None:
    questions = [Question(f"q{i}", f"How many are {i} and {i}?") for i in range(30)]
    held = hold_out(questions, 5, seed=1)
    assert hold_out(questions[::-1], 5, seed=1) == held != hold_out(questions, 5, seed=2)
    assert held < hold_out(questions, 6, seed=1)
    assert len(held) == 5


def test_a_twin_of_a_held_out_question_is_held_out_too() -> None:
    questions = [Question(f"{copy}{i}", f"How many are {i} and {i}?") for i in range(20) for copy in "ab"]
    held = hold_out(questions, 5, seed=1)
    assert {name[1:] for name in held if name.startswith("a")} == {name[1:] for name in held if name.startswith("b")}
    assert len(held) == 6


def test_holding_out_more_graphs_than_there_are_says_how_many_there_are() -> None:
    questions = [Question("a", "a?"), Question("b", "b?"), Question("c", "c?", split="dev")]
    with pytest.raises(ConfigError, match="holds out 2 graphs, but there are only 2 of training questions"):
        hold_out(questions, 2, seed=0)


def test_work_is_cut_into_at_most_a_few_hundred_parts() -> None:
    few = [MagGroup("a", number, 256) for number in range(10)]
    assert cut(few) == [[group] for group in few]
    units = cut([MagGroup("a", number, 256) for number in range(4000)])
    assert len(units) <= 256
    assert [group.number for unit in units for group in unit] == list(range(4000))


def test_a_tokenizer_is_known_again_wherever_it_lies(bench: Workbench, tmp_path: Path) -> None:
    from magdi_ray.distill.student import load_tokenizer

    bench.tokenizer.save_pretrained(tmp_path / "elsewhere")
    other = load_tokenizer(str(tmp_path / "elsewhere"))
    assert tokenizer_hash(other) == tokenizer_hash(bench.tokenizer)
    other.chat_template = "{{ messages[0]['content'] }}"
    assert tokenizer_hash(other) != tokenizer_hash(bench.tokenizer)


def test_a_task_that_is_tried_again_writes_the_same_file_again(bench: Workbench, tmp_path: Path) -> None:
    reading = Reading(
        str(tmp_path / "graphs"),
        str(tmp_path),
        FileTask(name="gsm8k", path="none.jsonl"),
        resolve_recipe("level4"),
        256,
        bench.tokenizer,
        frozenset({"q5"}),
    )
    groups = [asdict(group) for group in mag_groups(write_mags(tmp_path / "graphs", MANY))]
    batch = pa.table({"unit": [3], "groups": [json.dumps(groups)]})
    first = (tokenise_unit(batch, reading=reading), part_path(tmp_path, 3).read_bytes())
    assert (tokenise_unit(batch, reading=reading), part_path(tmp_path, 3).read_bytes()) == first
    assert first[0]["questions"][0].as_py() == [f"q{n}" for n in range(1, 7)]


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
class TestOnRayData:
    """The same units, made by tasks from graph files."""

    def job(self, bench: Workbench, directory: Path, recipe: RecipeConfig | str = "level4", **changes: Any) -> Job:
        fixed = {name: str(directory / name) for name in ("graphs", "tokens", "output", "log", "tensorboard")}
        chosen = recipe if isinstance(recipe, RecipeConfig) else resolve_recipe(recipe)  # type: ignore[arg-type]
        student = StudentConfig(model=str(bench.directory), max_length=256)
        values: dict[str, Any] = {"seed": 7, "inputs": {"graphs": "g"}, **changes}
        task = FileTask(name="gsm8k", test_path="none.jsonl")
        return Job(
            **fixed, task=task, student=student, model=str(bench.directory), recipe=chosen, train=TrainConfig(epochs=1), **values
        )

    def write(self, directory: Path, mags: tuple[Mag, ...] = MANY) -> None:
        for number, mag in enumerate(mags):
            write_mags(directory / "graphs" / f"part-{number}.parquet", [mag])

    @pytest.mark.parametrize("recipe", ["level1", "level2", "level4"])
    def test_tasks_make_the_units_that_one_process_would_make(self, bench: Workbench, tmp_path: Path, recipe: str) -> None:
        self.write(tmp_path, MANY[::-1])
        store = TokenStore(fetched(tokenise_graphs(self.job(bench, tmp_path, recipe))))
        alone = tokenise(MAGS, Gsm8k(), tokenizer=bench.tokenizer, recipe=resolve_recipe(recipe), max_length=256)  # type: ignore[arg-type]
        assert tuple(store.graph("train", i) for i in range(len(store.question_ids("train")))) == alone.graphs
        others = {f"graph of the split {split}, not learned from": 1 for split in ("dev", "test")}
        assert store.facts == replace(TokenFacts.of(alone), notes=alone.notes | others)

    def test_dev_graphs_are_counted_apart_and_the_best_agent_is_chosen_without_them(
        self, bench: Workbench, tmp_path: Path
    ) -> None:
        dev = tuple(make_mag(n, ("3", "18", "18"), split="dev") for n in (6, 7, 8, 9))
        self.write(tmp_path, (*MAGS, *dev, make_mag(5, ("18", "3", "3"), split="dev")))
        store = TokenStore(fetched(tokenise_graphs(self.job(bench, tmp_path, "level1", dev=DevConfig()))))
        assert (store.question_ids("train"), store.question_ids("dev")) == (["q1", "q2", "q4"], ["q5"])
        left_out = {"incorrect, and no objective uses it": 4, "not selected by the recipe": 10}
        assert store.facts.graphs == 3
        assert store.facts.dev == TokenFacts(1, 1, skipped_nodes=left_out, skipped_graphs={"no usable node": 4})

    def test_dev_graphs_without_a_usable_reply_are_refused(self, bench: Workbench, tmp_path: Path) -> None:
        self.write(tmp_path, (*MAGS, make_mag(5, ("3", "3", "3"), split="dev")))
        with pytest.raises(ConfigError, match=r"none of the 1 dev graphs holds a usable reply .*incorrect"):
            tokenise_graphs(self.job(bench, tmp_path, "level2", dev=DevConfig()))

    def test_training_graphs_are_held_out_where_so_many_are_asked_for(self, bench: Workbench, tmp_path: Path) -> None:
        self.write(tmp_path)
        store = TokenStore(fetched(tokenise_graphs(self.job(bench, tmp_path, dev=DevConfig(graphs=1)))))
        assert len(store.question_ids("train")) == 3
        assert store.question_ids("dev") == sorted(hold_out([mag.question for mag in MANY], 1, seed=7))

    def test_measuring_on_dev_questions_needs_graphs_of_them(self, bench: Workbench, tmp_path: Path) -> None:
        self.write(tmp_path, MAGS)
        with pytest.raises(ConfigError, match=r"distil\.dev\.graphs=N"):
            tokenise_graphs(self.job(bench, tmp_path, dev=DevConfig()))

    def test_recipes_that_read_alike_share_their_tokens_and_others_do_not(self, bench: Workbench, tmp_path: Path) -> None:
        self.write(tmp_path)
        made = tokenise_graphs(self.job(bench, tmp_path, "level3"))
        when = (Path(made) / MARKER).stat().st_mtime_ns
        assert tokenise_graphs(self.job(bench, tmp_path, "level4", seed=8)) == made
        assert (Path(made) / MARKER).stat().st_mtime_ns == when
        for changes in ({"recipe": "level2"}, {"dev": DevConfig()}, {"inputs": {"graphs": "h"}}):
            assert tokenise_graphs(self.job(bench, tmp_path, **changes)) != made

    def test_trainings_at_the_same_time_do_not_collide(self, bench: Workbench, tmp_path: Path) -> None:
        self.write(tmp_path)
        jobs = [self.job(bench, tmp_path, recipe) for recipe in ("level3", "level4", "level2", "dpo")]
        with ThreadPoolExecutor(4) as threads:
            made = list(threads.map(tokenise_graphs, jobs))
        assert made[0] == made[1] == made[3] != made[2]
        assert all(is_complete(directory) for directory in made)

    def test_what_was_broken_off_is_made_again(self, bench: Workbench, tmp_path: Path) -> None:
        self.write(tmp_path)
        made = tokenise_graphs(self.job(bench, tmp_path))
        part_path(Path(made), 0).write_bytes(b"half")
        again = TokenStore(fetched(tokenise_graphs(self.job(bench, tmp_path))))
        assert (str(again.directory), again.graph("train", 0)) == (made, bench.graphs()[0])

    def test_tokens_and_graphs_at_urls_give_the_same_units(
        self, bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MAGDI_CACHE", str(tmp_path / "cache"))
        self.write(tmp_path)
        job = self.job(bench, tmp_path)
        urls = {name: f"file://{getattr(job, name)}" for name in ("graphs", "tokens")}
        near, far = tokenise_graphs(job), tokenise_graphs(job.model_copy(update=urls | {"tokens": f"file://{tmp_path}/far"}))
        assert far == f"file://{tmp_path}/far/{Path(near).name}"
        stores = [TokenStore(fetched(place)) for place in (near, far)]
        assert stores[0].directory != stores[1].directory
        units = [[store.graph("train", n) for n in range(len(store.question_ids("train")))] for store in stores]
        assert units[0] == units[1] != []

    def test_a_damaged_graph_is_named_with_its_file(self, bench: Workbench, tmp_path: Path) -> None:
        import pyarrow.parquet as pq

        from magdi_ray.graph.schema import MAG_SCHEMA

        self.write(tmp_path)
        damaged = to_row(replace(make_mag(9, ("18",)), agents=()))
        pq.write_table(pa.Table.from_pylist([damaged], schema=MAG_SCHEMA), tmp_path / "graphs" / "bad.parquet")
        with pytest.raises(GraphError, match=r"^\S*bad\.parquet, question 'q9': .* is none of"):
            tokenise_graphs(self.job(bench, tmp_path))

    def test_two_graphs_of_one_question_are_refused_across_files(self, bench: Workbench, tmp_path: Path) -> None:
        self.write(tmp_path, (*MAGS, MAGS[0]))
        with pytest.raises(GraphError, match="second one of 'q1'"):
            tokenise_graphs(self.job(bench, tmp_path))

    def test_graphs_of_which_nothing_is_left_are_counted_not_lost(self, bench: Workbench, tmp_path: Path) -> None:
        self.write(tmp_path)
        recipe = RecipeConfig(name="x", nodes=NodeSelection(agents=("nobody",)), objectives=resolve_recipe("level2").objectives)
        store = TokenStore(fetched(tokenise_graphs(self.job(bench, tmp_path, recipe))))
        assert store.sizes("train", next_token=True, loss_on_prompt=False, packed=True) == ()
        assert store.facts.skipped_graphs == {"no usable node": 4}
        assert store.facts.skipped_nodes == {"not selected by the recipe": 18}
