"""Reports of any size, made up from a seed: the shape of the data a page is given, with texts that are hard to show."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

from magdi_ray.evaluate.report.page import CHUNK

HOSTILE = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"
TEXTS = (
    "A train travels 60 miles an hour for {n} hours and then {n} miles more. How many miles is that?",
    "Ben has {n} boxes of pencils with 12 in each. He gives away a third of them. How many are left?",
    r"Evaluate \(\int_0^{{{n}}} x^2\,dx\) and write it as \frac{{a}}{{b}} with \gcd(a, b) = 1.",
    "小明有{n}个苹果，吃掉了三个，还剩下几个苹果？",
    "كم عدد الكتب إذا كان في كل رف {n} كتابا وعدد الرفوف سبعة؟",
    "Would a {n}-year-old be able to remember the first moon landing?",
)
REASONS = (
    "First I write down what is known: the number is {n}. ",
    "The other agents multiplied where they should have added, so their result is too large. ",
    r"We have $\sum_{{i=1}}^{{{n}}} i = \frac{{{n}({n}+1)}}{{2}}$, which settles it. ",
    "Reading the question again, only the second half counts. ",
    "因此答案应该是{n}。",
)
KINDS = (
    ("right", "student right", "The student's answer is right."),
    ("wrong", "student wrong", "The student's answer is wrong."),
    ("fixed", "student fixed it", "The base model is wrong, the student right."),
    ("broke", "student broke it", "The base model is right, the student wrong."),
    ("beats_debate", "beats the debate", "The student is right, the debate's vote wrong."),
    ("turned_right", "turned right", "The vote was wrong in round 0 and right at the end."),
    ("disagreed", "no consensus", "The agents still disagreed at the end."),
    ("unanswered", "no answer read", "The student gave no answer that could be read."),
    ("failed", "failed", "The debate or a system failed."),
)
SYSTEMS = (
    *(("base", "base model", "base", 0.15, 31.0), ("level1", "level 1", "student", 0.52, 15.0)),
    *(("level2", "level2 student (the product)", "student", 0.66, 16.2), ("level4", "level 4", "student", 0.64, 16.4)),
    *(("ada", "ada", "teacher", 0.71, 14.1), ("ben", "ben", "teacher", 0.69, 14.3), ("cy", "cy", "teacher", 0.7, 14.0)),
    ("vote", "the debate's vote", "debate", 0.827, 87.0),
)
AGENTS = ("ada", "ben", "cy", "dora", "eli", "fay")


def wilson(share: float, count: int) -> tuple[float, float]:
    centre, width = share + 1.92 / count, 1.96 * math.sqrt(share * (1 - share) / count + 0.96 / count**2)
    return max(0.0, (centre - width) / (1 + 3.84 / count)), min(1.0, (centre + width) / (1 + 3.84 / count))


def data(
    *, questions: int = 600, runs: int = 1, agents: int = 3, outside: bool = True, seed: int = 0, far: bool = False
) -> dict[str, Any]:
    """A whole report. `outside` adds a set that is out of domain; `far`: the student is far below the debate."""
    rng = random.Random(seed)
    names = [f"tiny-{chr(97 + i)}" for i in range(runs)] if runs > 1 else ["tiny"]
    made = [run(name, agents=agents, outside=outside, rng=rng, far=far) for name in names]
    compared = [
        {**difference("level2", "level2", rng, "tiny/test"), "run": other["label"], "reference_run": made[0]["label"]}
        for other in made[1:]
    ]
    kinds = [{"id": id_, "title": title, "hint": hint, "count": 0} for id_, title, hint in KINDS]
    viewer = {"count": questions, "chunk": CHUNK, "chunks": math.ceil(questions / CHUNK), "kinds": kinds}
    return {
        "title": ", ".join(run_["label"] for run_ in made),
        "made": "2026-11-21T23:50:00Z",
        "version": "0.1.0",
        "runs": made,
        "comparisons": compared,
        "matched": [
            {
                "run": row["run"],
                "reference_run": row["reference_run"],
                "set": row["set"],
                "common": 590,
                "only_run": 10,
                "only_reference": 10,
            }
            for row in compared
        ],
        "viewer": viewer | {"systems": ["base", "level2", "level4", "ada"], "product": "level2", "left_out": 20}
        if questions
        else None,
    }


def small() -> dict[str, Any]:
    """One system, one set, no debate, nothing else."""
    whole = run("small", agents=2, outside=False, rng=random.Random(1))
    kept = {"label": "small", "facts": whole["facts"][:1], "sets": whole["sets"], "systems": whole["systems"][:1]}
    empty = {key: [] for key in ("differences", "orderings", "curves", "rounds", "influence", "calibration", "labelling", "cost")}
    return {**data(questions=0), "title": "small", "runs": [{**kept, "scores": whole["scores"][:1], **empty}]}


def run(label: str, *, agents: int, outside: bool, rng: random.Random, far: bool = False) -> dict[str, Any]:
    sets = [{"id": "tiny/test", "task": "tiny", "split": "test", "domain": "in", "questions": 600}]
    if outside:
        sets.append({"id": "tiny/far", "task": "tiny", "split": "far", "domain": "out", "questions": 250})
    keys = ("id", "title", "kind")
    return {
        "label": label,
        "facts": [
            ["task", "tiny"],
            ["student", "magdi_ray/tiny/models/base, 1.2M parameters, full"],
            ["debate", "reconcile, 2 rounds"],
        ],
        "sets": sets,
        "systems": [dict(zip(keys, system, strict=False)) | {"product": system[0] == "level2"} for system in SYSTEMS],
        "scores": [row for set_ in sets for row in scores(set_, rng)],
        "differences": [
            difference(system, reference, rng, set_["id"])
            for set_ in sets
            for system, reference in (("level2", "base"), ("level2", "level1"), ("level2", "vote"), ("level4", "level2"))
        ],
        "orderings": orderings(far),
        "curves": [curve(recipe, seed, rng) for recipe in ("level1", "level2", "level4") for seed in (0, 1)],
        "rounds": [row for split, count in (("train", 1400), ("test", 600)) for row in rounds(split, count)],
        "influence": influence(AGENTS[:agents], rng),
        "calibration": [
            *(calibration(who, kind, rng) for who, kind in (("ada", "teacher"), ("ben", "teacher"), ("level2", "student"))),
            {**calibration("ada", "teacher", rng), "set": "tiny/train"},
        ],
        "labelling": [
            labelled(split, *row)
            for split, whole in (("train", 1400), ("test", 600))
            for row in ((0.0, whole, 0.86, 0.84), (0.5, whole * 4 // 5, 0.92, 0.91), (0.7, whole // 2, 0.98, 0.98))
        ],
        "cost": [
            cost("debates", "1400 questions x 3 agents", 60.1, 380_000, 122_000, None),
            cost("distil", "level2, 2 seeds", 95.4, None, None, None),
            cost("evaluate", "8 systems x 850 questions", 3725.0, 272_000, 171_000, 0.42),
        ],
    }


def scores(set_: dict[str, Any], rng: random.Random) -> Iterator[dict[str, Any]]:
    for name, _, _, share, tokens in SYSTEMS:
        for method, samples in (("single", 1), ("majority", 8)) if name in {"base", "level2"} else (("single", 1),):
            value = share + 0.02 * (samples > 1) - 0.12 * (set_["domain"] == "out") + rng.uniform(-0.01, 0.01)
            value = round(value * set_["questions"]) / set_["questions"]
            low, high = wilson(value, set_["questions"])
            yield {
                **{
                    "set": set_["id"],
                    "system": name,
                    "method": method,
                    "samples": samples,
                    "seeds": 2 if name == "level2" else 1,
                },
                **{
                    "questions": set_["questions"],
                    "accuracy": value,
                    "low": low,
                    "high": high,
                    "sd": 0.01 if name == "level2" else None,
                },
                **{"unanswered": rng.randrange(6), "errors": 0, "tokens_out": tokens * samples, "tokens_in": 40.0 * samples},
                **{"seconds": 0.02 if samples == 1 else None, "usd": None},
            }


def difference(system: str, reference: str, rng: random.Random, set_: str) -> dict[str, Any]:
    share = {row[0]: row[3] for row in SYSTEMS}
    value = share[system] - share[reference] + rng.uniform(-0.02, 0.02)
    return {
        **{"set": set_, "system": system, "method": "single", "reference": reference, "reference_method": "single"},
        **{"questions": 600, "seeds": 1, "difference": value, "low": value - 0.04, "high": value + 0.04},
        **{"gained": 60 + int(300 * max(value, 0)), "lost": 58, "p_value": math.exp(-abs(value) * 90)},
    }


def orderings(far: bool) -> list[dict[str, Any]]:
    close = ("reversed", -0.167, -0.05) if far else ("not seen", -0.067, -0.05)
    rows = (
        *(("level 2 beats level 1", "holds", 0.14, 0.0), ("level 4 beats level 2", "not seen", -0.02, 0.0)),
        *(("the student is close to the debate", *close), ("level 3 beats level 2", "reversed", -0.12, 0.0)),
    )
    shared = {"source": "paper, table 2", "set": "tiny/test"}
    return [
        {
            "claim": said,
            "verdict": verdict,
            "difference": value,
            "low": value - 0.04,
            "high": value + 0.04,
            "bound": bound,
            **shared,
        }
        for said, verdict, value, bound in rows
    ]


def curve(recipe: str, seed: int, rng: random.Random) -> dict[str, Any]:
    names = {"level1": ["next_token"], "level2": ["next_token"], "level4": ["next_token", "contrast", "interaction"]}[recipe]
    parts = {
        name: [
            [step, (3.2 if name == "next_token" else 0.9) * math.exp(-step / 300) + rng.uniform(0.2, 0.3)]
            for step in range(0, 800, 4)
        ]
        for name in names
    }
    total = [[values[0][0], sum(value for _, value in values)] for values in zip(*parts.values(), strict=True)]
    dev = [[step, 3.0 * math.exp(-step / 280) + 0.4, 0.66 - 0.5 * math.exp(-step / 250)] for step in range(0, 800, 100)]
    return {"recipe": recipe, "seed": seed, "parts": {"loss": total, **parts}, "dev": dev}


def rounds(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            **{"split": split, "round": i, "debates": count, "agreement": 0.71 + 0.09 * i, "consensus": 0.45 + 0.16 * i},
            **{"vote_accuracy": 0.76 + 0.03 * i, "reply_accuracy": 0.7 + 0.05 * i},
        }
        for i in range(3)
    ]


def influence(agents: tuple[str, ...], rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for source in agents:
        for target in agents:
            if source != target:
                shown = rng.randrange(400, 900)
                adopted = rng.randrange(30, 220)
                right, wrong = int(adopted * rng.uniform(0.4, 0.7)), int(adopted * rng.uniform(0.05, 0.25))
                rows.append(
                    {"source": source, "target": target, "shown": shown, "adopted": adopted, "to_right": right, "to_wrong": wrong}
                )
    return rows


def labelled(split: str, least: float, debates: int, vote: float, taught_right: float) -> dict[str, Any]:
    kept = debates / (1400 if split == "train" else 600)
    counts = {"debates": debates, "kept": kept, "taught": 4 * debates, "right_taught": 0.95 * kept}
    return {"split": split, "least": least, "vote_accuracy": vote, "taught_right": taught_right, **counts}


def calibration(who: str, kind: str, rng: random.Random) -> dict[str, Any]:
    bins = []
    for i in range(10):
        count = int(20 + 80 * i**1.6)
        accuracy = min(1.0, max(0.0, 0.25 + 0.06 * i + rng.uniform(-0.05, 0.05)))
        edges = {"low": i / 10, "high": (i + 1) / 10, "count": count if i else 0}
        bins.append({**edges, "confidence": (i + 0.5) / 10 if i else None, "accuracy": accuracy if i else None})
    count = sum(bin_["count"] for bin_ in bins)
    source = "probability" if kind == "student" else "stated"
    return {"who": who, "kind": kind, "source": source, "set": "tiny/test", "ece": 0.08, "count": count, "bins": bins}


def cost(
    stage: str, what: str, seconds: float, tokens_in: int | None, tokens_out: int | None, usd: float | None
) -> dict[str, Any]:
    return {"stage": stage, "what": what, "seconds": seconds, "tokens_in": tokens_in, "tokens_out": tokens_out, "usd": usd}


def questions(count: int, *, agents: int = 3, seed: int = 0) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Index entry and detail of every question. Number 3 is hostile, 4 was not debated, 5 is very long, 6 a critique."""
    rng = random.Random(seed)
    for i in range(count):
        n = rng.randrange(2, 90)
        text = HOSTILE if i == 3 else TEXTS[i % len(TEXTS)].format(n=n)
        gold, other = str(n * 7), str(n * 7 + 1)
        debate = None if i == 4 else critique(gold, other) if i == 6 else discussion(AGENTS[:agents], gold, other, i, rng)
        answers = [
            answer(system, rng.choice((gold, gold, other, None)), gold, i) for system in ("base", "level2", "level4", "ada")
        ]
        base, student = (row["correct"] for row in answers[:2])
        answers.append({**answers[1], "method": "majority", "sample": 8, "text": ""})
        vote = debate and debate["correct"]
        flags = (
            *(student, not student, student and not base, base and not student, student and vote is False),
            *(i % 9 == 0, bool(debate and debate["agreement"] < 1), answers[1]["answer"] is None, i % 97 == 4),
        )
        mask = sum(bool(flag) << bit for bit, flag in enumerate(flags))
        shared = {
            "id": f"q-{i:05d}",
            "text": text,
            "set": "tiny/test" if i % 3 else "tiny/train",
            "gold": None if i == 5 else gold,
        }
        yield {**shared, "kinds": mask}, {**shared, "debate": debate, "answers": answers}


def answer(system: str, said: str | None, gold: str, i: int) -> dict[str, Any]:
    text = HOSTILE if i == 3 else "" if i % 50 == 7 else f"The answer is {said}." if said else "I am not sure what is asked."
    return {
        **{
            "system": system,
            "seed": 0,
            "method": "single",
            "sample": 0,
            "text": text,
            "answer": said,
            "correct": said == gold,
            "tokens_out": len(text) // 4,
        },
        "error": "EngineError: the endpoint closed the connection" if i % 97 == 4 and system == "level4" else None,
    }


def discussion(agents: tuple[str, ...], gold: str, other: str, i: int, rng: random.Random) -> dict[str, Any]:
    rounds_ = rng.choice((1, 2, 3, 3))
    nodes: list[dict[str, Any]] = []
    edges = []
    for round_ in range(rounds_):
        for position, agent in enumerate(agents):
            agreed = rounds_ < 3 and round_ == rounds_ - 1
            said = gold if agreed else rng.choice((gold, gold, other)) if rng.random() < 0.93 else None
            nodes.append(node(agent, round_, said, gold, i, rng))
            for place in range(len(agents)) if round_ else ():
                source = (round_ - 1) * len(agents) + place
                edges.append({"source": source, "target": len(nodes) - 1, "type": "self" if place == position else "peer"})
    final = [node_["answer"] for node_ in nodes[-len(agents) :]]
    vote = max(set(final), key=final.count)
    return {
        **{
            "agents": list(agents),
            "answer": vote,
            "correct": None if i == 5 else vote == gold,
            "agreement": final.count(vote) / len(final),
        },
        **{"stopped": "consensus" if rounds_ < 3 else "rounds", "nodes": nodes, "edges": edges},
    }


def critique(gold: str, other: str) -> dict[str, Any]:
    rng = random.Random(6)
    nodes = [
        node("ada", 0, other, gold, 6, rng),
        *(node(who, 1, None, gold, 6, rng) for who in ("ben", "cy")),
        node("ada", 2, gold, gold, 6, rng),
    ]
    for critic in nodes[1:3]:
        critic.update(role="critic", status="ok", answer=gold, correct=True)
    ends = ((0, 1, "peer"), (0, 2, "peer"), (0, 3, "self"), (1, 3, "critique"), (2, 3, "critique"))
    edges = [{"source": source, "target": target, "type": type_} for source, target, type_ in ends]
    return {
        "agents": ["ada", "ben", "cy"],
        "answer": gold,
        "correct": True,
        "agreement": 1.0,
        "stopped": "rounds",
        "nodes": nodes,
        "edges": edges,
    }


def node(agent: str, round_: int, said: str | None, gold: str, i: int, rng: random.Random) -> dict[str, Any]:
    reason = "".join(rng.choice(REASONS).format(n=gold) for _ in range(400 if i == 5 else rng.randrange(2, 9)))
    text = HOSTILE if i == 3 else "" if i % 50 == 8 else f"{reason}\nThe answer is {said}." if said else reason
    return {
        **{"agent": agent, "round": round_, "role": "debater", "model": f"example/{agent}-7b", "text": text, "answer": said},
        **{"confidence": round(rng.uniform(0.3, 1.0), 2) if said else None, "correct": None if i == 5 else said == gold},
        **{"status": "ok" if said else "unparsed", "tokens_out": len(text) // 4},
    }
