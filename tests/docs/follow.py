"""The documents followed: every block in its order, in a copy of the files under version control, and what came of each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.docs.blocks import NEEDS, ROOT, Block, blocks, commands, complete, documents, without_comment
from tests.docs.claims import CLAIMS, Seen, keep_manifests, tree_holds
from tests.docs.settings import load_block
from tests.docs.shell import Done, Shell, environment
from tests.docs.usage import fault, magdi_calls

LIMIT_S = 3600.0
"""What one command may take; the first one installs everything."""

OUTSIDE = (".venv", "runs", "build")


@dataclass(frozen=True)
class Outcome:
    """What came of a block, or of a command of one."""

    place: str
    what: str
    state: str
    """ran | loaded | looked at | only parsed | failed."""
    note: str = ""
    seconds: float = 0.0


@dataclass
class Follower:
    """Follows documents in a workspace."""

    workspace: Path
    """Empty at first: the copy, HOME, and what commands printed are made in it."""
    reuse: Path | None = None
    """A finished demo run, taken in place of `make demo`, with the environment of this Python; None installs and runs it."""
    outcomes: list[Outcome] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)

    @property
    def copy(self) -> Path:
        return self.workspace / "magdi_ray"

    def prepare(self) -> None:
        """Copy what version control knows, and take over the reused run."""
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.copy / name)
        self.variables = environment(self.workspace / "home")
        if self.reuse is not None:
            for name in ("demo-reused", "first"):
                shutil.copytree(self.reuse, self.copy / "runs" / name)
            (self.copy / ".venv").symlink_to(Path(sys.prefix))
            self.variables |= {"PYTHONPATH": str(self.copy)}

    def follow(self, only: str = "", section: str = "") -> None:
        """Follow every document, the README first; `only`: those whose path holds these words; `section`: only such sections."""
        for document in documents(self.copy):
            if only in str(document.relative_to(self.copy)):
                self._document(document, section)

    def _document(self, document: Path, section: str) -> None:
        shell = Shell(self.copy, self.variables, self.workspace / "printed" / document.stem)
        if document.name != "README.md" or section:
            shell.run(". .venv/bin/activate", 60)
        try:
            for block in (one for one in blocks(document, self.copy) if section in one.section):
                try:
                    self._block(block, shell)
                except Exception as error:  # a document that is wrong in one place is followed on
                    self._note(block.place, block.language, "failed", f"{type(error).__name__}: {error}")
        finally:
            shell.close()

    def _block(self, block: Block, shell: Shell) -> None:
        match block.language:
            case "sh":
                with self._provider(shell) if block.marks.get("with") == "provider" and not self._missing(block) else nothing():
                    for command in commands(block.text):
                        self._command(block, command, shell)
            case "yaml":
                load_block(block)
                self._note(block.place, "yaml", "loaded", block.marks.get("as", "a configuration"))
            case "python":
                with self._server(block, shell) if block.marks.get("with") == "server" else nothing():
                    file = self.workspace / "block.py"
                    file.write_text(block.text)
                    self._judge(block.place, "python", shell.run(f"python {file}", 300))
            case "text" if block.marks.get("as") == "run-directory":
                faults = list(tree_holds(block, Seen("", self.copy, self.done).run("first")))
                self._note(block.place, "tree", "failed" if faults else "looked at", "; ".join(faults))
            case language:
                self._note(block.place, language, "looked at", "tests/docs/test_documents.py")

    def _missing(self, block: Block) -> str:
        """What a block needs that is not here; "" where all is."""
        return "" if block.needs == "data" and os.environ.get("MAGDI_DATA") else block.needs

    def _command(self, block: Block, command: str, shell: Shell) -> None:
        plain = without_comment(command)
        if block.unrun(plain) and (needs := self._missing(block)):
            faults = [why for call in magdi_calls(plain) if (why := fault(call))]
            state = "failed" if faults or not complete(command) else "only parsed"
            self._note(block.place, plain, state, "; ".join(faults) or f"needs {NEEDS[needs]}")
        elif self.reuse is not None and plain.startswith("make demo"):
            self._note(block.place, plain, "only parsed", f"a finished run was taken: {self.reuse}")
            self._hold(block.place, "make demo")
        else:
            if plain.startswith("magdi run configs/tiny.yaml --out runs/first --set"):
                keep_manifests(self.copy)
            ended = shell.run(command, LIMIT_S)
            self.done.append(ended)
            self._judge(block.place, plain, ended)
            self._hold(block.place, plain)

    def _hold(self, place: str, command: str) -> None:
        """Hold what came out against what the README says."""
        seen = Seen((self.copy / "README.md").read_text(), self.copy, self.done)
        begun = [begin for begin in CLAIMS if command.startswith(begin.strip())]
        for begin in [one for one in begun if len(one.strip()) == max(len(other.strip()) for other in begun)]:
            if CLAIMS[begin].__name__ == "second_time_does_nothing" and sum(command in one.command for one in self.done) < 2:
                continue
            faults = list(CLAIMS[begin](seen))
            self._note(
                place, f"stated: {CLAIMS[begin].__name__.replace('_', ' ')}", "failed" if faults else "ran", "; ".join(faults)
            )

    def _judge(self, place: str, what: str, ended: Done) -> None:
        note = "" if ended.code == 0 else f"exit code {ended.code}: {ended.output[-600:]}"
        self._note(place, what, "failed" if ended.code else "ran", note, ended.seconds)

    def _note(self, place: str, what: str, state: str, note: str = "", seconds: float = 0.0) -> None:
        self.outcomes.append(Outcome(place, what.splitlines()[0], state, note, seconds))
        print(f"{state:>11}  {seconds:6.0f} s  {place}  {what.splitlines()[0]}  {note}", flush=True)

    @contextmanager
    def _server(self, block: Block, shell: Shell) -> Iterator[None]:
        """The student of runs/first, served with its teachers at hand, while a Python block talks to it."""
        begin = "magdi serve runs/first --set serve.escalate=true"
        with self._running(f"{self.copy}/.venv/bin/{begin}".split(), "curl ", 240):
            yield

    @contextmanager
    def _provider(self, shell: Shell) -> Iterator[None]:
        """A scripted provider in the place of all three of configs/gsm8k-api.yaml."""
        command = [f"{self.copy}/.venv/bin/python", "-m", "benchmarks.openai_server", "--port", "0"]
        with self._running(command, '"port"', 60) as line:
            port = "".join(one for one in line.partition('"port"')[2] if one.isdigit())
            shell.run(
                "; ".join(f"export {name}_BASE_URL=http://127.0.0.1:{port}/v1" for name in ("OPENAI", "ANTHROPIC", "GEMINI")), 10
            )
            yield

    @contextmanager
    def _running(self, command: list[str], ready: str, within_s: float) -> Iterator[str]:
        process = subprocess.Popen(
            command,
            cwd=self.copy,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        said, until = "", time.monotonic() + within_s
        try:
            for line in process.stdout:
                said += line
                if line.startswith(ready) or ready in line:
                    yield line
                    return
                if time.monotonic() > until:
                    break
            raise RuntimeError(f"{' '.join(command)} was not ready: {said[-600:]}")
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=90)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def nothing() -> Iterator[None]:
    """A block that needs nobody beside it."""
    yield
