"""The clusters that tests run on: whose processes a node's are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.cluster.local import Node


def test_a_process_that_got_the_number_of_a_node_that_ended_is_not_the_nodes() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    process.pid = os.getpid()
    assert Node(0, "a mark of nobody", Path("log"), process).processes() == []
