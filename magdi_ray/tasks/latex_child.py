r"""The child process that says whether two LaTeX expressions are equivalent: one pair in, one verdict out, until its input ends.

    {"number": 7, "left": "(x-1)(x+1)", "right": "x^2-1", "seconds": 5.0}    ->    {"number": 7, "same": true}

Computer algebra may run for ever or take all memory. Here it may: the kernel ends a child that computes for longer than its
seconds, or waits for far longer, with its parent gone or not, and memory is bounded. The child knows LaTeX, nothing of tasks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

MEMORY = 4 * 2**30
"""Bytes of address space a child may take; beyond, a comparison fails and the pair is not equivalent."""

WAIT = 10
"""Times its seconds of computing that a pair may take on the clock: more than the parent waits, which may be gone."""

WARM_UP = (("x+1", "1+x"), (r"x\le 3", r"(-\infty,3]"), (r"\{1,2\}", r"\{2,1\}"))
"""Equivalent pairs of several kinds that load what the libraries load late: seconds that are not to count as anybody's."""

DIGITS = 30
"""Significant digits to which two expressions without a variable have to agree."""


def main() -> None:
    """Answer on the first standard output, which nothing else may write to, after a line that says the child is ready."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _limit_memory()
    _say(replies, {"ready": all(equivalent(left, right) for left, right in WARM_UP)})
    for line in sys.stdin:
        pair = json.loads(line)
        _limit_time(pair["seconds"])
        verdict = equivalent(pair["left"], pair["right"])
        _limit_time(0)
        _say(replies, {"number": pair["number"], "same": verdict})


def equivalent(left: str, right: str) -> bool:
    """Whether two LaTeX expressions are equivalent, in either direction; what cannot be read is equivalent to nothing."""
    try:
        first, second = _parsed(left), _parsed(right)
        if first is None or second is None:
            return False
        return not _differ(first, second) and _verified(first, second)
    except (Exception, RecursionError, MemoryError):  # parser and algebra raise whatever they please on odd input
        return False


def _parsed(latex: str) -> Any:
    from math_verify import LatexExtractionConfig, parse
    from sympy import Float, Rational

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    found = parse(rf"\boxed{{{latex}}}", config, fallback_mode="no_fallback", parsing_timeout=None)  # type: ignore[arg-type]
    if not found:
        return None
    # A decimal is the number it says and no rounding of another: 0.333333 is not one third.
    return found[0].xreplace({number: Rational(str(number)) for number in found[0].atoms(Float)})


def _verified(first: Any, second: Any) -> bool:
    from math_verify import verify

    return verify(first, second, timeout_seconds=None) or verify(second, first, timeout_seconds=None)


def _differ(first: Any, second: Any) -> bool:
    """Whether two expressions certainly have different values, at one point where they have variables.

    Much faster than simplifying, and right where a difference is small only beside 1: one over 2^98 is not one over 2^97.
    """
    from sympy import Expr, Rational

    if not (isinstance(first, Expr) and isinstance(second, Expr)):
        return False
    names = sorted(first.free_symbols | second.free_symbols, key=str)
    point = {name: Rational(7 * place + 4, 5 * place + 9) for place, name in enumerate(names)}
    left, right = first.subs(point).evalf(DIGITS), second.subs(point).evalf(DIGITS)
    if not all(side.is_number and side.is_finite for side in (left, right)):
        return False
    return bool(abs(left - right) > 10 ** (5 - DIGITS) * max(abs(left), abs(right)))


def _limit_memory() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _limit_time(seconds: float) -> None:
    """End the child after so many seconds of computing, or many more on the clock; 0 lifts the limit."""
    for alarm, timer, limit in (
        (signal.SIGPROF, signal.ITIMER_PROF, seconds),
        (signal.SIGALRM, signal.ITIMER_REAL, WAIT * seconds),
    ):
        # The kernel's own action, not a handler: it ends even a child that never comes back from one long multiplication.
        signal.signal(alarm, signal.SIG_DFL)
        signal.setitimer(timer, limit)


def _say(replies: Any, message: dict[str, bool | int]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
