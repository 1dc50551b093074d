"""ReConcile's own run (github.com/dinobby/ReConcile, MIT): what `run.py` writes at its end, as JSON, with the questions added.

`run.py` pickles a list of records to `<dataset>_round_<n>.pkl`. A pickle is not read here (opening one can run any program), and
its records hold no question: they stand in the order of the test questions. Convert it where you trust it:

    records = pickle.load(open("GSM8k_round_2.pkl", "rb"))
    for record, sample in zip(records, GSM8k("dataset/GSM8k").get_test_samples()):
        record["question"] = sample["question"]
    json.dump(records, open("GSM8k_round_2.json", "w"))

A record (`gpt3` is gpt-3.5-turbo there; keys of the vote and of the prompt stand beside the outputs and are not needed):

    {"question": "Janet's ducks lay ...", "gold_answer": "18",
     "claude_output_0": {"reasoning": "16 - 3 - 4 = 9 eggs, 9 * 2 = 18.", "answer": "18", "confidence_level": 1.0},
     "gpt3_output_0": {"reasoning": "...", "answer": "26", "confidence_level": 0.9}, "bard_output_0": {...},
     "claude_pred_0": "18", "claude_exp_0": "I think the answer is 18 because ...", "vote_0": ["18", "26", "18"],
     "debate_prompt_0": "There are 2 agents think the answer is 18. One agent solution: ...", "majority_ans_0": "18",
     "claude_output_1": {...}, ...}

A round that follows a consensus is absent. GSM8K golds lost their minus sign on the way (only digits and "." were kept there).
"""

from __future__ import annotations

from pathlib import Path

from magdi_ray.graph.formats.base import Import
from magdi_ray.graph.formats.round_table import read_round_table
from magdi_ray.tasks.base import Task

AGENTS = ("claude", "gpt3", "bard")


def read(path: Path, task: Task) -> Import:
    """Every debate of the file. Raises `GraphError` where the file as a whole cannot be read."""
    return read_round_table(path, task, agents=AGENTS)
