"""Answers of a child process, and what becomes of those that do not come."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from relaxc.tuning.conversation import Conversation


@contextmanager
def child(code: str) -> Iterator[Conversation]:
    command = [sys.executable, "-c", f"import sys, time\n{code}"]
    conversation = Conversation(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
    try:
        yield conversation
    finally:
        conversation.kill()


def test_every_request_gets_its_answer() -> None:
    with child("for line in sys.stdin: print(line, end='', flush=True)") as asked:
        for number in range(3):
            assert asked.ask({"outcome": "ok", "number": number}, 60)["number"] == number


def test_answers_in_pieces() -> None:
    code = "w = sys.stdout.write; w('{\"a\": '); sys.stdout.flush(); time.sleep(0.1); w('1}\\n')"
    with child(code) as asked:
        assert asked.ask({}, 60) == {"a": 1}


def test_a_child_that_ends_or_says_nothing() -> None:
    with child("pass") as asked:
        assert asked.ask({}, 60) == {"outcome": "crashed"}
    with child("time.sleep(60)") as asked:
        assert asked.ask({}, 0.2) == {"outcome": "timeout"}
