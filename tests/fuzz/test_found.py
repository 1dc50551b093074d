"""What fuzzing has found, one rule each: none of it comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from magdi_ray.agents.base import Message
from magdi_ray.agents.completion import Completion, Failure, read_completion
from magdi_ray.agents.store import ReplyStore, encode_record
from magdi_ray.config.load import apply_override, load_config, parse_config
from magdi_ray.config.reading import read_yaml
from magdi_ray.debate.reading import read_reply, split_confidence
from magdi_ray.debate.structured import read_fields
from magdi_ray.distill.watch.lines import last_lines
from magdi_ray.distill.watch.steplog import read_trainings
from magdi_ray.errors import ConfigError, GraphError, TaskError
from magdi_ray.graph.formats import import_debates
from magdi_ray.graph.schema import MAG_SCHEMA
from magdi_ray.graph.store import read_mags, to_row
from magdi_ray.tasks.answers import MAX_TEXT, read_number
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k
from magdi_ray.tasks.load import task_named
from magdi_ray.tasks.math import Math
from magdi_ray.tasks.source import read_rows
from tests.fuzz.bounds import bounded
from tests.fuzz.files import FOUR, NAMES
from tests.fuzz.transcripts import MADE, NULLABLE, made, written

QUESTION = Question("q", "How many eggs?", "13")
DEEP = "[" * 20_000


@pytest.mark.parametrize(
    "text",
    [
        *(
            "confidence" + " " * 20_000,
            "confidence is very " + "'" * 20_000,
            "1" + " " * 20_000 + "x",
            "I am 9 out" + " " * 20_000,
        ),
        *(
            '{"answer": [' + '"a" ' * 5000,
            '{"answer": ["a"' + " " * 20_000,
            "answer : - " + "0" * 20_000 + "x",
            "answer 7" + " " * 20_000,
        ),
        *("The answer is " + "$" * 20_000, "! " * 10_000, "no, " + " " * 20_000 + "x", "\\boxed{" + "." * 20_000),
    ],
    ids=lambda text: text[:24],
)
@pytest.mark.parametrize("task", ["gsm8k", "math", "commonsenseqa", "boolq", "aqua", "tiny"])
def test_a_reply_is_read_in_little_time_whatever_is_repeated_in_it(task: str, text: str) -> None:
    judge = task_named(task)
    with bounded(4):
        judge.extract(QUESTION, text)
        judge.reasoning(split_confidence(text).text)
        read_fields(text)


def test_of_a_very_long_reply_the_end_is_read() -> None:
    assert read_number("The answer is 7. " + "so " * MAX_TEXT + "The answer is 13.") == "13"
    assert read_number("The answer is 7." + " " * 200 + "It is.") == "7"


def test_half_a_surrogate_pair_in_a_reply_is_no_obstacle_to_keeping_it() -> None:
    text, answer, _ = read_reply(Gsm8k(), QUESTION, "It is \ud800 so. The answer is 13.")
    assert (text.encode(), answer) == (b"It is ? so. The answer is 13.", "13")
    content = b'{"choices": [{"message": {"content": "4 \\ud800"}}], "model": "m\\udfff"}'
    got = read_completion(content, [Message("user", "?")], "m")
    assert isinstance(got, Completion)
    assert (got.text, got.model) == ("4 ?", "m?")


@pytest.mark.parametrize("count", ["-5", "1e30", "99999999999999999999"])
def test_counts_that_no_reply_has_are_estimated(count: str) -> None:
    usage = f'{{"prompt_tokens": {count}, "completion_tokens": {count}}}'
    content = '{"choices": [{"message": {"content": "4"}}], "usage": ' + usage + "}"
    got = read_completion(content.encode(), [Message("user", "2 + 2?")], "m")
    assert 0 < got.tokens_in < 100
    assert 0 < got.tokens_out < 100


@pytest.mark.parametrize("content", [DEEP, '{"choices": [{"message": {"content": "4"}}], "usage": {"prompt_tokens": 1e999}}'])
def test_an_answer_that_no_reader_can_hold_is_malformed(content: str) -> None:
    assert isinstance(read_completion(content.encode(), [Message("user", "?")], "m"), Failure)


def test_an_answer_too_long_to_be_stated_again_is_none() -> None:
    pytest.importorskip("math_verify")
    assert Math().extract(QUESTION, "The answer is " + "Y" * 5000) is None


@pytest.mark.parametrize("format", sorted(MADE))
def test_debates_nested_too_deeply_are_refused_with_the_file_s_name(format: str, tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text(DEEP)
    with pytest.raises(GraphError, match=r"deep\.json"):
        import_debates(format, tmp_path / "deep.json", Gsm8k())


def test_questions_nested_too_deeply_are_bad_rows_or_a_bad_file(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(DEEP + "\n")
    [(_, row)] = read_rows(str(tmp_path / "q.jsonl"), split="train")
    assert isinstance(row, ValueError)
    (tmp_path / "q.json").write_text("[" + DEEP)
    with pytest.raises(TaskError, match=r"q\.json"):
        list(read_rows(str(tmp_path / "q.json"), split="train"))


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "aliases"),
        ("a: &a [*a]", "levels"),
        ("a: " + DEEP[:600], "levels|YAML"),
        ("a: 2001-99-99", "cannot be read"),
        ("a: !!int ''", "cannot be read"),
        ("a: !!timestamp x", "cannot be read"),
        ("? [a, b]\n: c", "YAML"),
        ("2001-01-01: c", "texts as keys"),
    ],
    ids=lambda text: text[:16],
)
def test_yaml_that_no_configuration_holds_is_refused_in_words(text: str, told: str) -> None:
    with bounded(10), pytest.raises(ConfigError, match=f"here.*({told})"):
        read_yaml(text, "here")


def test_a_section_may_take_in_the_keys_of_another() -> None:
    assert read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "here")["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_configuration_that_is_no_utf_8_is_refused_with_its_name(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes("name: é".encode(encoding))
    with pytest.raises(ConfigError, match=r"run\.yaml cannot be read as UTF-8"):
        load_config(tmp_path / "run.yaml")


def test_what_is_wrong_is_said_in_few_words_however_long_it_is() -> None:
    with pytest.raises(ConfigError) as told:
        parse_config({"x" * 50_000: 1, **{f"y{number}": 1 for number in range(500)}}, "here")
    assert len(str(told.value)) < 20_000
    with pytest.raises(ConfigError, match="100 parts"):
        apply_override({}, "a." * 3000 + "b=1")


def test_a_damaged_line_of_the_store_is_no_reply_and_counts_no_money(tmp_path: Path) -> None:
    line = encode_record(NAMES[0], FOUR, agent="a", run="r", usd=0.5)
    for before, after in ((b'"usd": 0.5', b'"usd": 0."5'), (b'"tokens_in": 5', b'"tokens_in": "5"'), (b'"stop"', b'"st- op"')):
        (tmp_path / "a.jsonl").write_bytes(line.replace(before, after))
        store = ReplyStore(str(tmp_path))
        assert store.get(NAMES[0]) is None
        assert store.damaged == 1 or not store.spent()
        store.spent("r")
    (tmp_path / "a.jsonl").write_bytes(line.replace(b'"agent": "a"', b'"agent": "\\x"'))
    assert ReplyStore(str(tmp_path)).spent() == {}


def test_a_damaged_log_of_a_training_is_read_without_its_damaged_lines(tmp_path: Path) -> None:
    head = {"stage": "distil", "recipe": "r", "step": 1}
    bad = [head | {"attempt": {}}, head | {"event": "dev"}, head | {"step": "1"}, head | {"recipe": []}, [1]]
    lines = [json.dumps(line) for line in (*bad, head | {"loss": "much"}, head | {"step": 2, "loss": 1.5})]
    (tmp_path / "metrics.jsonl").write_text("\n".join(['{"torn', DEEP[:5000], *lines, ""]))
    assert read_trainings(tmp_path / "metrics.jsonl", ["loss"])["r", 0].steps == {1: {}, 2: {"loss": 1.5}}
    assert last_lines(tmp_path / "metrics.jsonl")[-1]["loss"] == 1.5


def test_a_graph_with_a_hole_is_refused_with_the_file_s_name(tmp_path: Path) -> None:
    import pyarrow as pa

    row = to_row(made()[0])
    for damaged in (row | {"nodes": None}, row | {"nodes": [row["nodes"][0] | {"round": None}]}, row | {"agents": [None]}):
        (tmp_path / "mags.parquet").write_bytes(written(pa.Table.from_pylist([damaged], schema=NULLABLE)))
        with pytest.raises(GraphError, match=r"mags\.parquet: a graph has nothing under (nodes|agents)"):
            read_mags(tmp_path / "mags.parquet")


def test_a_graph_file_with_a_damaged_page_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    whole = bytearray(written(pa.Table.from_pylist([to_row(mag) for mag in made()], schema=MAG_SCHEMA)))
    refused = 0
    for place in range(4, len(whole) - 8, 97):
        (tmp_path / "mags.parquet").write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        try:
            read_mags(tmp_path / "mags.parquet")
        except GraphError:
            refused += 1
    assert refused
