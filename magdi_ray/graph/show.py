"""One MAG as a readable transcript in the terminal: a column per agent, a row per round; stacked where columns would be narrow.

Right and wrong differ in their sign as well as in colour. Shows what a graph holds and judges nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from magdi_ray.graph.schema import Mag, Node

COLUMN = 24
"""Characters an agent's column needs; with fewer, replies are stacked."""
EXCERPT = 240
"""Characters of a reply that are shown in a column: its beginning and, where answers stand, its end."""

MARKS = {"right": ("✓", "green"), "wrong": ("✗", "red"), "unparsed": ("?", "yellow"), "unlabelled": ("·", "cyan")}
ASCII_MARKS = {"right": "+", "wrong": "x", "unparsed": "?", "unlabelled": "."}


def render_mag(mag: Mag, *, max_chars: int | None = EXCERPT) -> RenderableType:
    """The graph as something `rich` prints at any width. `max_chars` trims each reply; None shows them whole."""
    return _MagView(mag, max_chars)


def excerpt(text: str, *, max_chars: int | None) -> str:
    """A text of at most `max_chars` characters: whole, or its beginning and its end around "[...]"."""
    text = text.strip()
    if max_chars is None or len(text) <= max_chars:
        return text
    cut = " [...] "
    room = max(max_chars - len(cut), 2)
    return text[: room // 2].rstrip() + cut + text[-(room - room // 2) :].lstrip()


@dataclass(frozen=True, slots=True)
class _MagView:
    mag: Mag
    max_chars: int | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        mag, ascii_only = self.mag, options.ascii_only
        yield Panel(_head(mag, ascii_only), title=Text(mag.question.id), title_align="left")
        columns = options.max_width // max(len(mag.agents), 1)
        yield self._table(ascii_only) if columns >= COLUMN else self._stack(ascii_only)
        yield Text("   ").join(_mark(kind, ascii_only).append(f" {kind}") for kind in MARKS)

    def _table(self, ascii_only: bool) -> Table:
        table = Table(expand=True, show_lines=True, padding=(0, 1))
        for agent in self.mag.agents:
            table.add_column(Text(agent), ratio=1, overflow="fold")
        for round_ in sorted({node.round for node in self.mag.nodes}):
            table.add_row(*(self._cell(agent, round_, ascii_only) for agent in self.mag.agents))
        return table

    def _stack(self, ascii_only: bool) -> Group:
        parts: list[RenderableType] = []
        for index, node in enumerate(self.mag.nodes):
            if index == 0 or self.mag.nodes[index - 1].round != node.round:
                parts.append(Rule(f"round {node.round}", characters="-" if ascii_only else "─"))
            parts += [Text.assemble((node.agent, "bold"), "  ", self._reply(index, ascii_only)), Text("")]
        return Group(*parts)

    def _cell(self, agent: str, round_: int, ascii_only: bool) -> Text:
        held = [i for i, node in enumerate(self.mag.nodes) if (node.agent, node.round) == (agent, round_)]
        if not held:
            return Text(f"round {round_}: no reply", style="dim")
        heads = [f"round {round_}  " if len(held) == 1 else f"round {round_}, reply {n}  " for n in range(1, len(held) + 1)]
        replies = (Text.assemble((head, "dim"), self._reply(i, ascii_only)) for head, i in zip(heads, held, strict=True))
        return Text("\n\n").join(replies)

    def _reply(self, index: int, ascii_only: bool) -> Text:
        node = self.mag.nodes[index]
        line = _mark(_kind(node), ascii_only)
        line.append(f" {node.answer if node.answer is not None else 'no answer'}", style="bold")
        if node.confidence is not None:
            line.append(f"  confidence {node.confidence:.2f}")
        if node.role != "debater":
            line.append(f"  ({node.role})")
        line.append(f"\n{self._shown(index)}\n", style="dim")
        return line.append(excerpt(node.text, max_chars=self.max_chars) or "(empty reply)")

    def _shown(self, target: int) -> str:
        edges = [edge for edge in self.mag.edges if edge.target == target]
        if not edges:
            return "shown: nothing"
        names = []
        for edge in edges:
            source = self.mag.nodes[edge.source]
            same_round = " (same round)" if source.round == self.mag.nodes[target].round else ""
            names.append(("self" if edge.type == "self" else f"{edge.type} {source.agent}") + same_round)
        return f"shown: {', '.join(names)}"


def _head(mag: Mag, ascii_only: bool) -> Text:
    gold = "unknown" if mag.question.gold is None else mag.question.gold
    team = Text("no answer" if mag.answer is None else mag.answer, style="bold")
    outcome = "unparsed" if mag.answer is None else {True: "right", False: "wrong", None: "unlabelled"}[mag.correct]
    return Text.assemble(
        mag.question.text.strip(),
        "\n\ngold ",
        (gold, "bold"),
        "   team ",
        _mark(outcome, ascii_only),
        " ",
        team,
        f" (agreement {mag.agreement:.0%})   stopped by {mag.stopped}   protocol {mag.protocol}   labels {mag.labels}",
    )


def _kind(node: Node) -> str:
    if node.status == "unparsed":
        return "unparsed"
    return {True: "right", False: "wrong", None: "unlabelled"}[node.correct]


def _mark(kind: str, ascii_only: bool) -> Text:
    symbol, colour = MARKS[kind]
    return Text(ASCII_MARKS[kind] if ascii_only else symbol, style=f"bold {colour}")
