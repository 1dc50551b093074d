"""What must hold over all questions at once, checked while they stream by: nothing here holds a question or its text.

A text or an id is remembered as 8 bytes of its hash. Among ten million of them two different ones meet with probability 3e-6.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator

from magdi_ray.errors import TaskError
from magdi_ray.tasks.base import Question

EMPTY = 0
WORD_OR_SIGN = re.compile(r"\w+|[+*/=<>^%×÷−]|-(?=\s*[\d(])")
FORMULA = re.compile(
    r"(?<!\\)\$\$(.{1,2000}?)\$\$|(?<![\\$])\$(?=[^\s$])((?:[^$\\]|\\.){0,2000}?(?<!\s))\$(?![0-9])"
    r"|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]",
    re.DOTALL,
)
"""LaTeX between its marks. Prices are none: "$5 and $3" opens a formula that a space, or a digit behind it, does not close."""


class Digests:
    """A map from 8-byte digests to numbers, 24 to 48 bytes an entry: open addressing in two arrays."""

    def __init__(self) -> None:
        self._keys = array("Q", [EMPTY]) * 1024
        self._values = array("Q", [0]) * 1024
        self._held = 0

    def add(self, digest: int, value: int) -> int | None:
        """Remember a digest; where it is held already, nothing changes and its value is returned."""
        digest = digest or 1
        slot = self._slot(digest)
        if self._keys[slot] == digest:
            return self._values[slot]
        self._keys[slot], self._values[slot] = digest, value
        self._held += 1
        if 3 * self._held > 2 * len(self._keys):
            self._grow()
        return None

    def __contains__(self, digest: int) -> bool:
        return self._keys[self._slot(digest or 1)] != EMPTY

    def __len__(self) -> int:
        return self._held

    def _slot(self, digest: int) -> int:
        keys, mask = self._keys, len(self._keys) - 1
        slot = digest & mask
        while keys[slot] not in (EMPTY, digest):
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        held = zip(self._keys, self._values, strict=True)
        self._keys, self._values = array("Q", [EMPTY]) * (2 * len(self._keys)), array("Q", [0]) * (2 * len(self._values))
        for digest, value in held:
            if digest != EMPTY:
                slot = self._slot(digest)
                self._keys[slot], self._values[slot] = digest, value


def digest_of(text: str) -> int:
    """8 bytes of a text's hash."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def text_digest(question: Question) -> int:
    """8 bytes of the hash of a question's words, numbers and arithmetic signs, blind to case, spacing and punctuation.

    Of a formula in LaTeX all but the spacing counts: a bracket, a sign or a letter's case makes another problem of it.
    """
    text = question.text
    if "$" not in text and "\\" not in text:
        return digest_of(" ".join(WORD_OR_SIGN.findall(text.lower())))
    parts, at = [], 0
    for formula in FORMULA.finditer(text):
        parts += WORD_OR_SIGN.findall(text[at : formula.start()].lower())
        parts.append("".join(next(held for held in formula.groups() if held is not None).split()))
        at = formula.end()
    return digest_of(" ".join([*parts, *WORD_OR_SIGN.findall(text[at:].lower())]))


def fingerprint(question: Question) -> str:
    """Hash of a question's words, blind to case, spacing and punctuation."""
    return hashlib.sha256(" ".join(re.findall(r"\w+", question.text.lower())).encode()).hexdigest()


def checked(questions: Iterable[Question]) -> Iterator[Question]:
    """The questions as they come, held-out ones before training ones; refused at the end where they do not fit together.

    Raises:
        TaskError: repeated ids, no questions at all, or training questions that are also held out.
    """
    ids, held_out, twice, leaks = Digests(), dict[int, str](), dict[str, None](), dict[str, str]()
    trains = False
    for question in questions:
        if ids.add(digest_of(question.id), 0) is not None:
            twice[question.id] = None
        text = text_digest(question)
        if question.split != "train":
            assert not trains, "held-out questions come first: what is held out must be known when training questions pass"
            held_out.setdefault(text, question.id)
        else:
            trains = True
            if text in held_out:
                leaks.setdefault(held_out[text], question.id)
        yield question
    if not len(ids):
        raise TaskError("There is no question: the task's files or counts give none. At least one is required.")
    if twice:
        raise TaskError(f"Question ids must be unique; {len(twice)} occur more than once, the first is {next(iter(twice))!r}.")
    if leaks:
        tested, trained = next(iter(leaks.items()))
        raise TaskError(
            f"{len(leaks)} held-out questions are also training questions, "
            f"the first pair is {trained!r} and {tested!r}. "
            "Remove them from one side: an evaluation on questions that were trained on says nothing."
        )


def check_questions(questions: Iterable[Question]) -> None:
    """Refuse repeated ids, no questions at all, and training questions that are also held out; any order will do."""
    for _ in checked(sorted(questions, key=lambda question: question.split == "train")):
        pass
