r"""FORD (Xiong et al. 2023, github.com/Waste-Wood/FORD): two or three models that debate a question, speaking in turn.

The path is a setting's folder, such as `output/debate_chatgpt_davinci`, with a folder per round; the task chooses the dataset:

    round0/strategyqa_{agreed,candidate}.jsonl   round1_chatgpt/strategyqa_...   round2_davinci/strategyqa_...   ...

A line is a question with the whole history up to that round (Question, gold Answer, Options, Replies, Parsed answers, Models):

    {"Q": "Would a pear sink in water?", "A": "no", "O": "None", "R": [{"role": "system", "content": "You are in a debate ..."},
     {"role": "user", "content": "Question: Would ..."}, {"role": "assistant", "content": "A pear would sink in water ..."},
     {"role": "user", "content": "The density of a pear is about 0.6g/cm3 ... Thus, a pear would float"}],
     "P": ["None", "None", "yes", "no"], "M": ["system", "system", "chatgpt", "davinci"]}

With three models `R` is `[system, user, [replies of the first], [of the second], [of the third]]`, and `M` still tells the order.
A question stands in the files of every round it reached; lines that continue each other are one debate, the longest.

Round 0 holds the models' first answers, given alone (they are those of single-model runs); in every later round one model
speaks, having been shown all that was said before, its own replies among it. As a debate ends when the parsed answers agree,
its outcome is the vote of each model's last reply.

**Answers.** `R` holds explanations: where a reply ended in its answer, the publisher cut it off and kept it in `P`. A turn's
answer is what the text itself states, as the task reads it; where the text states none, it is `P`. (Where both exist they differ
in 3 of 1,147, and there the text is explicit.) The strings and nulls that mean "not parsed" are never an answer, and neither is a
`P` that is no answer of the task ("No" or "C" for two options). A reply that one round's file parses and a later one does not
keeps its `P`.

**Names.** In round 0 of the three-model setting `M` says "gpt4" where the replies are those of the model called "chatgpt0301"
later, so there it is read as "chatgpt0301"; in a setting whose folder names gpt4 it stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from magdi_ray.debate.transcript import Ask, Debate, Turn
from magdi_ray.errors import GraphError
from magdi_ray.graph.formats.base import (
    EXCERPT,
    Import,
    RecordError,
    Skipped,
    ended_debate,
    imported_question,
    read_lines,
    read_records,
    read_reply,
)
from magdi_ray.tasks.base import Question, Task
from magdi_ray.tasks.choices import lettered, options_of

DATASETS = {"strategyqa": "strategyqa", "commonsenseqa": "csqa", "ecare": "ecare"}
"""From a task's name to how the files call it."""

_ROUND = re.compile(r"round(?P<number>[0-9]+)(?:_|$)")


@dataclass(frozen=True, slots=True)
class _Said:
    """One reply of a history."""

    agent: str
    text: str
    parsed: str | None


@dataclass(frozen=True, slots=True)
class _History:
    """One line: all that was said about a question up to a round."""

    text: str
    gold: str
    said: tuple[_Said, ...]

    def continues(self, earlier: _History) -> bool:
        """Whether this is the same debate about its question, further on."""
        pairs = zip(earlier.said, self.said, strict=False)
        same = all((old.agent, old.text) == (new.agent, new.text) for old, new in pairs)
        return same and len(earlier.said) < len(self.said)

    def completed(self, earlier: _History) -> _History:
        """This history, with the parsed answers that only an earlier line of it holds."""
        held = [old.parsed for old in earlier.said] + [None] * (len(self.said) - len(earlier.said))
        pairs = zip(self.said, held, strict=True)
        return replace(self, said=tuple(replace(new, parsed=new.parsed or old) for new, old in pairs))


def read(path: Path, task: Task) -> Import:
    """Every debate of a setting about the task's dataset.

    Raises:
        GraphError: there is no such folder, it holds no file of the dataset, or a file holds no JSON.
    """
    if task.name not in DATASETS:
        raise GraphError(f"FORD's debates are required to be about one of {', '.join(DATASETS)}; found task {task.name!r}.")
    if not path.is_dir():
        raise GraphError(f"a folder of FORD's rounds (round0, round1_...) is required, found nothing at {path}. Check the path.")
    files = _files(path, DATASETS[task.name])
    if not files:
        raise GraphError(f"{path}: round*/{DATASETS[task.name]}_*.jsonl is required, found no such file. Check path and task.")
    aliases = {} if "gpt4" in path.name else {"gpt4": "chatgpt0301"}
    histories: dict[str, list[_History]] = {}
    bad: list[Skipped] = []
    for round_, file in files:
        for number, (line, record) in enumerate(read_lines(file)):
            try:
                _join(histories, _history(record, round_, aliases))
            except RecordError as error:
                bad.append(Skipped(f"{file.parent.name}/{file.name} {number}: {line[:EXCERPT]}", str(error)))
    longest = [history for debates in histories.values() for history in debates]
    held = read_records([(history.text, history) for history in longest], partial(_debate, task))
    return Import(held.debates, (*bad, *held.skipped))


def _files(path: Path, dataset: str) -> list[tuple[int, Path]]:
    found = [(_ROUND.match(file.parent.name), file) for file in path.glob(f"round*/{dataset}_*.jsonl")]
    return sorted((int(match["number"]), file) for match, file in found if match)


def _join(histories: dict[str, list[_History]], history: _History) -> None:
    """Put a history in place of the shortest one it continues: a question that occurs twice stays two debates."""
    debates = histories.setdefault(history.text, [])
    earlier = [i for i, known in enumerate(debates) if history.continues(known)]
    if earlier:
        place = min(earlier, key=lambda i: len(debates[i].said))
        debates[place] = history.completed(debates[place])
    else:
        debates.append(history)


def _history(record: Any, round_: int, aliases: dict[str, str]) -> _History:
    if not isinstance(record, dict) or not all(isinstance(record.get(key), list) for key in "RPM"):
        raise RecordError("a line must be an object with lists under R, P and M")
    text, gold = record.get("Q"), record.get("A")
    if not isinstance(text, str) or not isinstance(gold, str):
        raise RecordError("a line must hold texts under Q and A")
    options = options_of(str(record.get("O")))
    authors = [aliases.get(str(name), str(name)) for name in record["M"]]
    first = sum(name == "system" for name in authors)
    authors, parsed = authors[first:], record["P"][first:]
    models = len(set(authors))
    if not authors or len(set(authors[:models])) != models or round_ != len(authors) - models or len(parsed) != len(authors):
        raise RecordError(f"M and P must name one reply of each model and {round_} more, found {len(authors)} and {len(parsed)}")
    texts = list(_texts(record["R"][first:], authors))
    said = (_Said(*one) for one in zip(authors, texts, map(_parsed, parsed), strict=True))
    # A question of yes or no is put as it stands; where `O` spells its choices out, "(A) yes (B) no.", they are no options.
    plain = not options or [option.strip(". ") for option in options] == ["yes", "no"]
    return _History(text if plain else lettered(text, options), gold, tuple(said))


def _texts(replies: list[Any], authors: list[str]) -> Iterator[str]:
    """The replies in the order they were given."""
    queues = {}
    if any(isinstance(reply, list) for reply in replies):
        queues = {name: iter(own) for name, own in zip(dict.fromkeys(authors), replies, strict=False) if isinstance(own, list)}
    if sum(len(own) if isinstance(own, list) else 1 for own in replies) != len(authors):
        raise RecordError(f"R must hold the {len(authors)} replies that M names")
    for name, reply in zip(authors, replies if not queues else [None] * len(authors), strict=True):
        held = next(queues.get(name, iter(())), None) if queues else reply
        text = held.get("content") if isinstance(held, dict) else None
        if not isinstance(text, str):
            raise RecordError(f"a reply of {name} must be a message with a text")
        yield text


def _parsed(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip().lower() not in ("", "none") else None


def _debate(task: Task, text: str, history: _History) -> Debate:
    question = imported_question(task, text, history.gold)
    agents = tuple(dict.fromkeys(said.agent for said in history.said))
    turns = []
    for position, said in enumerate(history.said):
        round_ = max(0, position - len(agents) + 1)
        ask = Ask(said.agent, round_, (), tuple(range(position)) if round_ else ())
        turns.append(_turn(task, question, ask, said))
    return ended_debate(task, question, agents, turns, protocol="ford", standing=True)


def _turn(task: Task, question: Question, ask: Ask, said: _Said) -> Turn:
    turn = read_reply(task, question, ask, said.text, said.agent)
    if turn.answer is not None or said.parsed is None:
        return turn
    answer = task.extract(question, said.parsed)
    return replace(turn, answer=answer, status="unparsed" if answer is None else "ok")
