r"""Choices in free text: which letter, or which of yes and no, a reply gives as its answer.

Pure and total: nothing here raises on any text, does I/O or knows a benchmark. Nothing is guessed: a text that names several
choices and states none of them gives no answer. First rule that yields an answer, or that says there is none:

1. the last `\boxed{...}` that holds one;
2. the last explicit statement: "the answer is (C)", "Answer: no", "#### B", "I choose D", "option B is the more plausible
   answer". One that is undecided ("A or B", "yes if X, otherwise no") or only denies ("is not A") ends the search with None; one
   that is taken back ("A, no wait, B") gives what is put in its place;
3. a letter alone on the last line, at the head of the reply ("(C) It is large.") or, with its option, on the last line; a
   sentence that opens with "Yes" or "No,". Two different ones are none, and so is one that is taken back at once;
4. letters only: the one option that a reply of few words names, by letter ("I like option C") or by its whole text ("a bank").

    "The answer must be safe, so not (B). So the answer is (A) bank."  ->  "A"      "We know nothing of it"  ->  None

Negated choices never count ("not A but C" is C); "A bank" is an article and a noun, unless option A is "bank"; "no evidence" is
no "no". A question carries its options in its own text, a line each:

    "Where do adults use glue sticks?\n(A) classroom\n(B) desk drawer\n(C) at school\n(D) office\n(E) kitchen drawer"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from magdi_ray.tasks.answers import CONDITIONAL, CORRECTED, RETRACTED, box_at, clause_at, spoken, without_wrong

MAX_TRIED = 50
"""Boxes and statements looked into, from the end."""

FEW_WORDS = 12
"""A reply of more words that names an option only in passing, or a closing sentence of more words, is reasoning."""

AROUND = 5
"""Words beside an option's text in a statement that means it ("the answer is most likely a bank"); more mention it in passing."""

FEW_ASKED = 3
"""A statement of more words before a question mark is none in doubt: "the answer is (A)?" asks."""

PASSING = 40
"""Characters behind a letter that opens a reply in which a denial takes it back ("(A) is not plausible")."""

_OPTION = re.compile(r"\(([A-Z])\)[ \t]*")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MARKUP = "*_`\"'“”‘’{}[]$\\ \t\r\n:"
_BE = r"(?:is|was|remains?|would be|should be|must be|will be|has to be)"
_ADVERBS = r"(?:(?:therefore|thus|then|hence|indeed|still|clearly|definitely|probably|likely|simply|,)\s*)*"
_STATEMENT = re.compile(
    r"\#{4}"
    r"|\b(?<!next )(?:answer|(?:correct|best|right|plausible|likely|appropriate|suitable|final)\s+(?:option|choice|one))\b"
    r"(?:\s*\([^()\n]{0,60}\))?[*_\"'” ]*"
    rf"(?:(?:(?:to|of|for|from|among|between|in)\b[^.:=?!\n]{{0,160}}?)?\s*(?:\b{_BE}\b|[=:]|[-–—]\s)"
    r"|(?=(?:cannot|can't|can not|could not)\b))\s*"
    r"|\bI(?:\s+(?:would|will|must|have to)|['’](?:d|ll))?\s+(?:choose|pick|select|go with|opt for)\b",
    re.IGNORECASE,
)
_UNDECIDED = re.compile(
    r"(?:unknown|undetermined|indeterminate|unclear|uncertain|impossible|neither|none\b|both\b"
    r"|cannot|can't|can not|could not|not (?:known|clear|possible|certain|given|provided|listed))",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.!?](?=\s|$)|[.!?](?=[*_\"')}$\\]+(?:\s|$))|\n")
_NEGATION = (
    r"(?:\bnot|n['’]t|\bnever|\binstead of|\brather than|\b(?:anything|everything|all|any(?: of them| option)?) but"
    r"|\bexcept(?: for)?|\bother than|\bapart from|\bexcluding)\s+(?:\w+\s+){0,2}?"
)

# A lower-case letter counts only in parentheses or alone; a bare capital only where it cannot begin a phrase ("A cellar is ...").
_LETTER = (
    r"(?:\(\s*(?P<p>[A-Za-z])\s*\)"
    r"|\b(?:[Oo]ption|OPTION|[Cc]hoice|[Ll]etter)s?\s*[*_\"'(]*(?P<o>[A-Z])\b"
    r"|(?<![\w'’.-])(?P<b>[A-Z])(?=[*_\"'”\]}$)]*(?:[.,;:)!?/|]|\s*\Z|\s*\n|\s+(?:because|since|as|is|was|or|and|but|nor|[-–—(=])))"
    r")"
)
_TAKEN_BACK = re.compile(r"(?:\b(?:not|nor|neither|whether|if|than|unless|or)\b|n['’]t)[^.!?\n,]{0,30}\Z", re.IGNORECASE)
_BECAUSE = re.compile(r"\s+(?:because|since|as|while|whereas)\s")
_ONE = r"(?:(?:option\s+)?(?:\([A-Z]\)|(?-i:[A-Z])\b)|yes\b|no\b)"
_NEGATED = re.compile(rf"{_NEGATION}{_ONE}(?:\W+(?:(?:or|and|nor)\b\W*)?{_ONE})*", re.IGNORECASE)
_ASIDE = re.compile(r"[,;]|\s+(?:because|since|as|while|whereas|but)\s|\s[-–—]\s")
_LETTERS = re.compile(_LETTER)
_LEADING = re.compile(
    r"\s*[*_\"'“>]*(?:[Oo]ption\s+|[Cc]hoice\s+)?"
    r"(?:\(\s*(?P<p>[A-Z])\s*\)|(?P<b>[A-Z])(?:[).\]:](?=[\s*_]|\Z)|(?=[*_\"']*\s*(?:\Z|\n))))"
)
_ALONE = re.compile(r"[\s*_\"'(\[]*(?:[Oo]ption\s+)?\(?(?P<b>[A-Za-z])[*_\"')\].:]*\s*\Z")
_MARKED = re.compile(r"\(\s*(?P<p>[A-Z])\s*\)|\b(?:[Oo]ption|[Cc]hoice)\s+[*_\"'(]*(?P<o>[A-Z])\b")
_QUALITY = r"(?:plausible|likely|reasonable|accurate|appropriate|suitable|logical|probable|correct|right)"
_CONCLUDED = re.compile(
    r"(?:\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+\(?(?P<o>[A-Z])\b\)?|\((?P<p>[A-Z])\)"
    r"|(?:\A|[\n.!?:,]\s?|\b(?:[Ss]o|[Tt]hus|[Hh]ence|[Tt]herefore|that)\s)\**(?P<b>[A-Z])\**(?=\s(?:is|was|would be)\b))"
    r"(?:(?!\b(?:[Oo]ptions?|[Cc]hoices?)\b|\bnot\b|n't)[^.!?\n()]){0,120}?"
    rf"\b{_BE}\s+{_ADVERBS}(?:the\s+|a\s+|an\s+)?(?:(?:(?:more|most)\s+{_QUALITY}|only\s+{_QUALITY}|best|correct|right)\b)"
)
_DENIAL = re.compile(
    r"\b(?:not|never|neither|nor|cannot|less|least|unlikely|incorrect|wrong|implausible|irrelevant)\b|n['’]t\b", re.IGNORECASE
)
_YES_NO = re.compile(
    r"(?<![\w'’-])(?:(?P<yes>yes)\b"
    r"|(?P<no>no)(?=[*_\"'”\]}$)]*(?:[.,;:)!?/|–—]|\s*\Z|\s*\n|\s+(?:because|since|as|and|but|or|it|he|she|they|there|this|that|the|an?"
    r"|you|we|I|if|for|due|not|at least|[-–—(]))))",
    re.IGNORECASE,
)
_EITHER = re.compile(r"\b(?:yes\W+(?:(?:or|and|nor)\b\W*(?:an?\s+)?)?no|no\W+(?:or|and|nor)\b\W*(?:an?\s+)?yes)\b", re.IGNORECASE)
_OPENING = re.compile(
    r"(?:\A|\n|[.!?][*_)\"'”]{0,4}\s)[ \t*_\"'“>]{0,20}(?:A:\s?\**|(?:so|thus|therefore|hence|overall)\s?,?\s?)?", re.IGNORECASE
)
_CLOSING = re.compile(
    r"[*_ ]*(?:"
    r"\#{4}[^\n]{0,80}"
    r"|(?:(?:and|so|therefore|thus|hence|finally|in conclusion|overall|the|my|our|final|correct|best|right|most|more|plausible)"
    rf"[ ,:*_]+)*(?:answer|option|choice)\b[*_ ]*(?:{_BE}\b|[:=])(?:[^\n.!?]|[.!?](?!\s)){{0,160}}[.!?]?[*_]*"
    r"|[$\\\[(]*\\boxed\{[^\n]{0,80}"
    r")\s*\Z",
    re.IGNORECASE,
)
_SENTENCE_START = re.compile(r"(?:\A|\n|[.!?][*_)\"'$}]*\s)\s*")
_REASON = re.compile(r"\b(?:because|since|as|so that|due|if|but|while|which)\b|[,;]\s*\w+\s+\w+", re.IGNORECASE)
_WINDOW = 300


def lettered(stem: str, options: Sequence[str]) -> str:
    """The self-contained text of a question: its stem, then a line "(A) bank" an option."""
    lines = [f"({chr(ord('A') + i)}) {' '.join(option.split())}" for i, option in enumerate(options)]
    return "\n".join([stem.strip(), *lines])


@lru_cache(maxsize=4096)
def options_of(text: str) -> tuple[str, ...]:
    """The options that a question's text ends with, "(A)" first, each on a line or all on one; () where it holds none."""
    run = _option_marks(text)
    ends = [mark.start() for mark in run[1:]] + [len(text)] * bool(run)
    return tuple(text[mark.end() : end].strip() for mark, end in zip(run, ends, strict=True))


def stem_of(text: str) -> str:
    """What stands before the options of a question's text."""
    if not (run := _option_marks(text)):
        return text.strip()
    stem = text[: run[0].start()]
    return re.sub(r"(?:\s*\b(?:answer\s+)?(?:choices|options)\s*:)?\s*\Z", "", stem, flags=re.IGNORECASE).strip()


def _option_marks(text: str) -> list[re.Match[str]]:
    """The marks "(A)", "(B)", ... of the options. Those that open a line come first: the option "sulfur (S)" holds another."""
    marks = list(_OPTION.finditer(text))
    for held in ([mark for mark in marks if mark.start() == 0 or text[mark.start() - 1] == "\n"], marks):
        run = held[max((i for i, mark in enumerate(held) if mark[1] == "A"), default=len(held)) :]
        if len(run) > 1 and [mark[1] for mark in run] == [chr(ord("A") + i) for i in range(len(run))]:
            return run
    return []


def read_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option a reply answers with; None when it gives none, or one that no option has."""
    allowed = {chr(ord("A") + i): option for i, option in enumerate(options)}

    def named(clause: str) -> list[str]:
        return _letters_in(clause, allowed)

    text = without_wrong(spoken(text))
    decided, answer = _stated(text, named)
    if decided:
        return answer
    lines = [line for line in text.splitlines() if line.strip()]
    if match := _ALONE.match(lines[-1]) if lines else None:
        return letter if (letter := match["b"].upper()) in allowed and (len(lines) == 1 or match["b"] == letter) else None
    if lines and (letter := _answer_line(lines[-1], allowed)):
        return letter
    if led := {_group(match) for line in lines if (match := _LEADING.match(line))}:
        return _leading(text, led, allowed)
    return _in_brief(text, allowed)


def read_yes_no(text: str) -> str | None:
    """ "yes" or "no", as a reply answers; None when it gives neither, or both."""
    text = without_wrong(spoken(text))
    decided, answer = _stated(text, _yes_no_in)
    if decided:
        return answer
    if word := normal_yes_no(text.strip(_MARKUP + "().!")):
        return word
    opened = {found for match in _OPENING.finditer(text) if (found := _opening_word(text, match.end()))}
    return opened.pop() if len(opened) == 1 and "" not in opened else None


def normal_letter(text: str | None) -> str | None:
    """A letter however it is written, "(c)" or "C.", as "C"; None for anything else."""
    match = re.fullmatch(r"\s*\(?\s*([A-Za-z])\s*\)?\.?\s*", text or "")
    return match[1].upper() if match else None


def normal_yes_no(text: str | None) -> str | None:
    """ "yes" or "no" in any case; None for anything else."""
    word = (text or "").strip().rstrip(".").lower()
    return word if word in ("yes", "no") else None


def same_letter(left: str | None, right: str | None) -> bool:
    """Whether both are the same letter; what is no letter is the same as nothing."""
    letter = normal_letter(left)
    return letter is not None and letter == normal_letter(right)


def answer_of(question: str, reply: str) -> str | None:
    """The letter a reply to a question that holds its options answers with, a verbatim echo of the question aside."""
    return read_letter(reply.replace(question.strip(), "\n") if question.strip() else reply, options_of(question))


def closed_reasoning(reply: str) -> str:
    """A reply about letters without what closes it (`without_closing`)."""
    return without_closing(reply, lambda sentence: read_letter(sentence, [""] * 26) is not None)


def without_closing(reply: str, states: Callable[[str], bool]) -> str:
    r"""A reply without what closes it: "So the answer is (C).", "Answer: no", "#### B" or a bare `\boxed{C}`.

    A closing sentence is taken away only where `states` says that it states an answer; one that also gives a reason, or says more
    than a few words, is reasoning and stays.
    """
    text = reply.strip()
    while match := next((m for m in _closings(text) if _only_states(m[0]) and states(m[0])), None):
        text = text[: match.start()].rstrip()
    return text


def _closings(text: str) -> list[re.Match[str]]:
    starts = _SENTENCE_START.finditer(text, max(0, len(text) - _WINDOW))
    return [match for start in starts if (match := _CLOSING.match(text, start.end()))]


def _only_states(sentence: str) -> bool:
    return len(sentence.split()) <= FEW_WORDS and not _REASON.search(sentence)


def _stated(text: str, named: Callable[[str], list[str]]) -> tuple[bool, str | None]:
    """Whether the text's last box or statement decides the answer, and how; `named` are the choices a clause names."""
    for match in reversed(list(_BOXED.finditer(text))[-MAX_TRIED:]):
        if boxed := set(named(_box(text, match.end()))):
            return True, boxed.pop() if len(boxed) == 1 else None
    matches = sorted([*_STATEMENT.finditer(text), *_CONCLUDED.finditer(text)], key=lambda match: match.end())
    for match in reversed(matches[-MAX_TRIED:]):
        if match.re is _CONCLUDED:
            if not _denied(text, match.start()) and (letter := named(f"({_group(match)})")):
                return True, letter[0]
            continue
        clause = _clause(text, match.end())
        if _UNDECIDED.match(clause):
            return True, None
        behind = text[text.find(clause, match.end()) + len(clause) :]
        if _asked(clause, behind):
            continue
        plain = _NEGATED.sub(" ", clause)
        if held := list(dict.fromkeys(named(plain))):
            return True, _settled(plain, behind, held, named)
        if plain != clause and named(clause):
            return True, None
    return False, None


def _answer_line(line: str, allowed: Mapping[str, str]) -> str | None:
    """What a line "A: (C)" or "A: library" answers; None for "A: bank" where that is option A: then it may be one of a list."""
    said = line.strip(_MARKUP).removeprefix("A:").strip(_MARKUP + ".") if line.strip(_MARKUP).startswith("A:") else ""
    if (letter := normal_letter(said)) in allowed:
        return letter
    named = [other for other, option in allowed.items() if option and option.strip(".").lower() == said.lower()]
    return named[0] if len(named) == 1 and named != ["A"] else None


def _leading(text: str, led: set[str], allowed: Mapping[str, str]) -> str | None:
    """The letter a text opens with, or whose option is its last line; None where other lines open with others (a list)."""
    match = _LEADING.match(text)
    if match is None and (last := _LEADING.match(line := text.rstrip().rpartition("\n")[2])):
        written = line[last.end() :].strip(_MARKUP + ".()").lower()
        match = last if written == allowed.get(_group(last), "").strip(".").lower() else None
        text = line
    letter = _group(match) if match else ""
    if match is None or len(led) > 1 or letter not in allowed:
        return None
    sentence = _clause(text, match.end())
    others = {_group(other) for other in _MARKED.finditer(sentence)} - {letter}
    return None if others or _DENIAL.search(sentence[:PASSING]) else letter


def _in_brief(text: str, allowed: Mapping[str, str]) -> str | None:
    """The one option that a text of few words names, by a letter written as one or by its text, without denying or asking."""
    if len(text.split()) > FEW_WORDS or _DENIAL.search(text) or re.search(r"\?|\b(?:if|whether)\b", text, re.IGNORECASE):
        return None
    marked = {_group(match) for match in _MARKED.finditer(text)} & set(allowed)
    held = sorted(marked) or _named_option(text, allowed)
    return held[0] if len(held) == 1 else None


def _asked(clause: str, behind: str) -> bool:
    return behind.lstrip(_MARKUP + ")").startswith("?") and "," not in clause and len(clause.split()) <= FEW_ASKED


def _settled(clause: str, behind: str, held: list[str], named: Callable[[str], list[str]]) -> str | None:
    """What a statement that names choices comes to, where it may take one back, name a condition or go on about others."""
    if back := list(CORRECTED.finditer(clause)):
        after = set(named(clause[back[-1].end() :]))
        if after or (named(clause[: back[0].start()]) and "wait" in back[-1][0].lower()):
            return after.pop() if len(after) == 1 else None
    if "otherwise" in clause or (len(held) > 1 and (CONDITIONAL.search(clause) or not _leads(clause, held, named))):
        return None
    return _kept(held[0], behind, named)


def _kept(choice: str, behind: str, named: Callable[[str], list[str]]) -> str | None:
    """A stated choice, or what the next sentence puts in its place: "(A). No, (B)."; None where that only takes it back."""
    if not (back := RETRACTED.match(behind)):
        return choice
    others = set(named(_NEGATED.sub(" ", _clause(behind, back.end()))))
    if len(others) == 1:
        return others.pop()
    return None if others or re.search("wait|scratch", back[0], re.IGNORECASE) else choice


def _leads(clause: str, held: list[str], named: Callable[[str], list[str]]) -> bool:
    """Whether a clause that names several choices opens with one and goes on about the others ("B, since A is too big")."""
    first = _ASIDE.split(clause, maxsplit=1)
    return (
        len(first) == 2
        and set(named(first[0])) == {held[0]}
        and not re.match(r"\s*(?:or|and|\W*\w\W*(?:,|or\b|and\b))", first[1])
    )


def _denied(text: str, start: int) -> bool:
    """Whether what stands just before a position takes back what follows ("neither option A nor", "not", "whether", "if")."""
    return bool(_TAKEN_BACK.search(text[max(0, start - 60) : start]))


def _letters_in(clause: str, allowed: Mapping[str, str]) -> list[str]:
    clause = _BECAUSE.split(clause, maxsplit=1)[0]
    found = [_group(match).upper() for match in _LETTERS.finditer(clause)]
    # "A bank" is option A where its text is "bank"; otherwise the "A" is an article and was not matched above.
    opening = re.match(r"[*_\"'“]*(?P<b>[A-Z])[*_\"']*\s+(?P<rest>.*)", clause, re.DOTALL)
    if opening and opening["b"] in allowed and _begins(opening["rest"], allowed[opening["b"]]):
        found.insert(0, opening["b"])
    if not found and (alone := normal_letter(clause.strip(_MARKUP))):
        found = [alone]
    if found:
        return [letter for letter in found if letter in allowed]
    head = _ASIDE.split(clause, maxsplit=1)[0]
    return [x for x in _named_option(head, allowed) if len(head.split()) - len(allowed[x].split()) <= AROUND]


def _begins(text: str, option: str) -> bool:
    return bool(option) and " ".join(text.split()).lower().startswith(option.lower())


def _named_option(text: str, allowed: Mapping[str, str]) -> list[str]:
    """The letters of the options whose whole text occurs, longer texts first so that "store" is not read in "book store"."""
    found = []
    for letter, option in sorted(allowed.items(), key=lambda item: -len(item[1])):
        words = re.escape(" ".join(option.split()).rstrip(".")).replace(r"\ ", r"\s+")
        pattern = re.compile(rf"(?P<not>{_NEGATION})?(?<!\w){words}(?!\w)", re.IGNORECASE)
        if words and (matches := list(pattern.finditer(text))):
            found += [letter] if any(not match["not"] for match in matches) else []
            # Two options may have the same text; then it names neither, so it is left in for the second.
            if list(allowed.values()).count(option) == 1:
                text = pattern.sub(" | ", text)
    return sorted(found)


def _yes_no_in(clause: str) -> list[str]:
    if _EITHER.search(clause):
        return ["yes", "no"]
    return [match.lastgroup for match in _YES_NO.finditer(clause) if match.lastgroup]


def _opening_word(text: str, start: int) -> str | None:
    """The word that a sentence opens with, or is corrected to; "" where it takes it back, None where there is none."""
    match = _YES_NO.match(text, start)
    either = _EITHER.match(text, start)
    undecided = either is not None and not re.search(r"[.!\n]", either[0])  # "Yes or no?", but not "Yes. No."
    if match is None or undecided:
        return None
    sentence = _clause(text, start)
    words = [found.lastgroup or "" for found in _YES_NO.finditer(sentence)]
    if len(set(words)) == 1:
        return _kept(words[0], text[text.find(sentence, start) + len(sentence) :], _yes_no_in) or ""
    return words[-1] if CORRECTED.search(sentence) and not CONDITIONAL.search(sentence) else ""


def _group(match: re.Match[str]) -> str:
    return next((value for value in match.groupdict().values() if value), "")


def _box(text: str, start: int) -> str:
    return re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", box_at(text, start))


def _clause(text: str, start: int) -> str:
    return clause_at(text, start, _MARKUP, _CLAUSE_END)
