"""`docs/errors.md`: every message a person can be shown, with its cause and its cure, read from the code.

The cause and the cure are the message's own words: its sentences up to the first one that says what to do, and the rest. A
message that states only what is required is cured by giving that. What remains belongs to a group that has one cure for all.

    python -m tests.docs.errors           # prints the page
    python -m tests.docs.errors --write   # writes docs/errors.md
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docs.messages import Message, family, find_messages, read_modules

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "magdi_ray"
PAGE = ROOT / "docs" / "errors.md"

VERBS = (
    ""
    ""
    ""
    ""
    ""
    "add|ask|calibrate|call|check|chmod|choose|close|continue|convert|copy|correct|delete|download|evaluate|export|find|finish|fix|"
    "free|give|grow|hold|import|install|leave|let|look|lower|make|measure|mend|merge|move|name|open|point|put|quote|raise|read|"
    "remove|rename|repair|repeat|report|retire|run|save|see|send|serve|set|shorten|show|spell|split|start|state|stop|take|"
    "to go on|to try again|train|try|turn|unset|upgrade|use|wait|write"
)
IMPERATIVE = re.compile(
    rf"(?:^|(?<=[.;:,!?)])\s+|\n|(?<=>)\s+(?-i:(?=[A-Z])))(?=(?:or )?(?:{VERBS})\b)",
    re.IGNORECASE,
)
"""Where a sentence, or a clause of one, begins with what to do."""

REQUIREMENT = re.compile(
    r"\b(must|required?|needs?|takes?|at most|at least|only|belongs? (to|under)|has no place|have no place|cannot go with|one of|"
    r"no such|unknown key|not given|exactly|distinct)\b|did you mean|pip install"
)
"""A message that says what has to be; to give it that is the cure."""

WRAPS = re.compile(r"[:>]\s*<(problem|problems|lacking|lines)>\.?$|:\n?<(problems|lacking|lines)>$")
"""A message that only says where another one arose."""

SAID = "Give what it says is required."
INNER = "What the message inside says; it stands on this page."


@dataclass(frozen=True)
class Group:
    """Messages that come from one place: a heading, when they are said, and the cure of those that name none."""

    title: str
    when: str
    places: tuple[str, ...]
    """Beginnings of module paths; the first group that fits a message has it."""
    cure: str = ""
    kinds: tuple[str, ...] = ()
    """Only these classes; none means all."""


FROM_CLIENTS = ("ApiError", "PromptError", "ContextLengthError", "BusyError", "HTTPException", "broken", "PydanticCustomError")
STRICT = ("ConfigError", "TaskError", "GraphError", "RunError")
"""Classes whose messages have to bring their own cure: they are what the command line says."""

GROUPS = (
    Group(
        "Commands", "An argument or an option cannot be used. Exit code 2; nothing was begun.", ("cli/", "report_parts/outputs")
    ),
    Group(
        "Configurations",
        "Any verb that takes a CONFIG, and `--set`. All broken rules are told at once, each with the key it is about: "
        "`CONFIG is not a valid configuration:` and a line each.",
        ("config/",),
        "Change that value in the file or by `--set`. `magdi config schema` documents every key; `magdi config show "
        "CONFIG` shows "
        "what is in force.",
    ),
    Group(
        "Before anything starts",
        "`magdi run`, `debate`, `distill`, `evaluate` and `plan` look first at what the configuration points to: files, models, "
        "machines, keys. Several problems are told together: `This run cannot start:` and a line each.",
        ("preflight", "learning", "examining", "placement", "planning", "stages", "cluster"),
    ),
    Group(
        "Question files",
        "`task.path`, `task.test_path`, `evaluate.tasks` and `magdi tasks check`. A rule that a row breaks is told "
        "with its count and "
        "the first five lines of it.",
        ("tasks/", "tiny/", "small/"),
        "Repair the row, map its columns by `task.columns`, or leave such rows out: `task.bad_rows=skip`.",
    ),
    Group(
        "Requests to a served student",
        "HTTP errors, in OpenAI's shape; [serving-api.md](serving-api.md#errors) has the codes. With 500 the cause is in the "
        "server's log, under the request's id.",
        ("serving/", "agents/"),
        "4xx: change the request. 408, 429, 5xx: send it again, after `Retry-After` where that is said.",
        FROM_CLIENTS,
    ),
    Group(
        "Models and adapters",
        "A teacher, a student or an adapter is looked at or loaded: before a run, when its replica starts, and by `magdi serve`.",
        ("agents/weights", "agents/adapters", "agents/transformers", "agents/vllm", "agents/load", "agents/continuous"),
        "The model's own error is at the end of the message, and in the log of the replica (`RUN/ray.log` says where). "
        "Check that the "
        "directory is whole and that the model fits the memory; then run the same command again.",
    ),
    Group(
        "Providers, engines and the reply store",
        "While debates are held or students are asked. A debate that fails is a row with the error; above `max_failed_share` the "
        "stage ends.",
        ("agents/",),
        "Run the same command again: no reply is asked for twice. If it stays, the log of the engine (`RUN/ray.log` "
        "says where) has "
        "the cause.",
    ),
    Group(
        "Debates",
        "`magdi debate`, and the debates of `magdi run`.",
        ("debate/",),
        "Run the same command again: no reply is asked for twice.",
    ),
    Group(
        "Records of published debates",
        "`magdi graph import` and `graph.source` leave a record out that they cannot read, and say how many and why.",
        ("graph/formats/",),
        "The record is left out and counted, the others are taken. Nothing has to be done, unless it is missed: then "
        "mend it in the "
        "file.",
        ("RecordError",),
    ),
    Group("Graphs", "`magdi graph import`, `export`, `show`, `stats`, and whatever reads graphs.", ("graph/",)),
    Group(
        "Distillation",
        "`magdi distill`, and the trainings of `magdi run`.",
        ("distill/",),
        "Run the same command again: a training goes on from its newest checkpoint. If it stays, `RUN/ray.log` has the "
        "worker's error.",
    ),
    Group(
        "Evaluation, comparisons and reports",
        "`magdi evaluate`, `evaluate --lm-eval` and `magdi report`.",
        ("evaluate/", "harnessing", "reporting", "report_parts/"),
        "Run the same command again: an evaluation asks nothing twice. If it stays, the error at the end of the "
        "message is the cause.",
    ),
    Group(
        "Run directories",
        "Any verb that reads or writes a RUN, on disk or in a bucket.",
        ("runs", "lease", "storage", "mirror", "pipeline"),
    ),
    Group("Jobs on clusters", "`magdi submit`.", ("submitting",)),
    Group("Plans for a cluster", "`magdi plan --cluster`.", ("simulate/",)),
    Group(
        "Serving",
        "`magdi serve`, `serve deploy` and `magdi keys`, before the first request; and what a copy of the model may come to.",
        ("serving/", "endpoint"),
        "The copy is replaced by itself, and clients that repeat their request are served. If it stays, the replica's "
        "log has the cause.",
    ),
    Group("Exports", "`magdi export`.", ("exporting",)),
    Group(
        "What a machine refuses",
        "Any verb: a full disk, a file without the right to it, a port that is taken.",
        ("errors",),
        "The message ends with it: free space, check rights, or choose another port. What is finished is kept.",
    ),
    Group("Logs and metrics", "Any verb.", ("observe/", "doctor/", "progress")),
)

HEAD = """# Errors

Every message that `magdi` and a served student give to people, generated from the code (`python -m tests.docs.errors --write`;
a test fails where this page and the code differ). Look for the first words of yours. Words in *italics* are
filled in.

An error is printed as its class and its message, without a traceback:

```text
ConfigError No configuration file at configs/tinny.yaml. Check the path. Ready-made ones are in configs/.
```

| exit code | |
|---|---|
| 0 | done |
| 1 | `magdi doctor` or `magdi tasks check` found something that fails; a job of `magdi submit` that failed has its own code |
| 2 | one of the errors below, or a command that does not exist; what is finished is kept |
| 130 | interrupted by Ctrl-C or stopped; what is finished is kept, and the same command goes on |

A command, an option or an argument that does not exist is answered by the usage, with the nearest name that does; `--help` of
every verb has an example. A traceback is a fault of ours: please report it. What is wrong with a machine, a cluster, keys
or endpoints is found by [`magdi doctor`](doctor.md), which says for each finding what to do.
"""


def split(text: str) -> tuple[str, str]:
    """A message's cause, and its cure ("" where it has none of its own)."""
    begin = next((found.end() for found in IMPERATIVE.finditer(text)), None)
    if begin is None or begin == 0:
        return text, (SAID if begin == 0 or REQUIREMENT.search(text) else "")
    cause, cure = text[:begin].rstrip(" ,;:\n"), text[begin:].strip()
    return re.sub(r"[,;:]? or$", "", cause), cure[0].upper() + cure[1:]


def group_of(message: Message) -> Group:
    """The group a message is listed in.

    Raises:
        LookupError: none has its module; add it to `GROUPS`.
    """
    for group in GROUPS:
        if message.module.startswith(group.places) and (not group.kinds or message.kind in group.kinds):
            return group
    raise LookupError(f"{message.module} has messages for people and stands in no group of tests/docs/errors.py")


def own_cure(message: Message) -> str:
    """What a message itself says is to be done; "" where it says nothing."""
    return INNER if WRAPS.search(message.text) else split(message.text)[1]


def without_cure(messages: list[Message]) -> list[Message]:
    ""
    ""
    ""
    ""
    ""
    """Messages that leave a person alone: of the strict classes all without a cure of their own."""
    return [message for message in messages if not own_cure(message) and (message.kind in STRICT or not group_of(message).cure)]


def page(package: Path = PACKAGE) -> str:
    """The whole of docs/errors.md."""
    messages = find_messages(package)
    parts = [HEAD]
    for group in GROUPS:
        if listed := [message for message in messages if group_of(message) is group]:
            parts.append("\n".join([f"## {group.title}\n", group.when, *_cure_of(group), "", *_table(listed)]) + "\n")
        if group.title.startswith("Providers"):
            parts.append("\n".join(["### Why a call to a provider failed\n", *_failures(package)]) + "\n")
    return "\n".join(parts)


def _cure_of(group: Group) -> Iterator[str]:
    if group.cure:
        yield f"\n**Where a message says nothing of what to do:** {group.cure}"


def _table(messages: list[Message]) -> Iterator[str]:
    yield "| error | cause | cure |"
    yield "|---|---|---|"
    rows = {}
    for message in messages:
        cause = message.text if WRAPS.search(message.text) else split(message.text)[0]
        shown = f"HTTP {message.status}" if message.status else SHOWN.get(message.kind, message.kind)
        rows[f"| {shown} | {_cell(cause)} | {_cell(own_cure(message)) or 'see above'} |"] = None
    yield from rows


SHOWN = {
    "ValueError": "",
    "PydanticCustomError": "",
    "broken": "HTTP 400",
    "RecordError": "",
    "PromptError": "HTTP 400",
    "ContextLengthError": "HTTP 400",
    "BusyError": "HTTP 503",
}
"""What stands in place of a class that nobody is shown by name."""


def _failures(package: Path) -> Iterator[str]:
    """The classes that stand in the `error` column of a debate: cause and cure are their docstrings."""
    yield "Its class stands in the `error` column of the debate's row. Those that may succeed later are tried again.\n"
    yield "| error | cause | tried again | cure |"
    yield "|---|---|---|---|"
    modules = [module for module in read_modules(package) if module.path == "agents/failures.py"]
    known = family(modules, "EngineError")
    for node in (node for module in modules for node in module.tree.body if isinstance(node, ast.ClassDef)):
        if node.name in known and node.name != "CallFailed":
            cause, cure = split(" ".join((ast.get_docstring(node) or "").split()))
            again = any(isinstance(line, ast.Assign) for line in node.body)
            yield f"| {node.name} | {_cell(cause)} | {'yes' if again else 'no'} | {_cell(cure)} |"


def _cell(text: str) -> str:
    """Text of a table's cell: placeholders in italics, signs of markdown as themselves."""
    plain = " ".join(text.split()).replace("|", "\\|").replace("*", "\\*")
    marked = re.sub(r"<([a-z_. ]+)>", lambda found: f"*{found[1].strip('_').replace('_', ' ')}*", plain)
    return marked.replace("<", "&lt;")


if __name__ == "__main__":
    written = page()
    if "--write" in sys.argv[1:]:
        PAGE.write_text(written, encoding="utf-8")
    else:
        print(written)
    for message in without_cure(find_messages(PACKAGE)):
        print(f"no cure: {message.module}:{message.line} {message.kind}: {message.text}", file=sys.stderr)
