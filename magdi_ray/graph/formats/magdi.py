"""MAGDi's training data (github.com/dinobby/MAGDi, MIT): `MAG/<dataset>_1000.json`, published on the drive its README links to.

A JSON array; `utils.py` there reads the question, the gold answer and the outputs of three agents in up to four rounds:

    {"question": "Natalia sold clips to 48 of her friends in April ...", "gold_answer": "72",
     "claude_output_0": {"reasoning": "In May she sold 24 clips. 48 + 24 = 72.", "answer": "72", "confidence_level": 1.0},
     "gpt4_output_0": {"reasoning": "...", "answer": "72", "confidence_level": 1.0},
     "bard_output_0": {"reasoning": "...", "answer": "96", "confidence_level": 0.8},
     "claude_output_1": {...}, ... "bard_output_3": {...}}

The outputs of a round that did not take place are absent. (The format is known from the code that
reads it, which uses no `confidence_level`: it is ReConcile's field, read here where it is present.)
"""

from __future__ import annotations

from pathlib import Path

from magdi_ray.graph.formats.base import Import
from magdi_ray.graph.formats.round_table import read_round_table
from magdi_ray.tasks.base import Task

AGENTS = ("claude", "gpt4", "bard")


def read(path: Path, task: Task) -> Import:
    """Every debate of the file. Raises `GraphError` where the file as a whole cannot be read."""
    return read_round_table(path, task, agents=AGENTS)
