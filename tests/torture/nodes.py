"""A Ray cluster of two nodes on this machine, in a process of its own: nodes can be killed, and others join.

python -m tests.torture.nodes        starts it and prints its address; reads `replace` (kill the newest node at once, and let
                                     another join) and `end`
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.torture.processes import Marked, environment

CPUS = 2


class Nodes:
    """The cluster, as seen from the torture. Raises RuntimeError if it does not start."""

    def __init__(self, token: str, temporary: Path) -> None:
        self.marked = Marked(token)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.nodes"],
            cwd=Path(__file__).parent.parent.parent,
            env=environment(token, temporary) | {"RAY_worker_niceness": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.address = self._answer("address")

    def replace_one(self) -> bool:
        """Kill the second node with all of its processes; another joins."""
        self._say("replace")
        return self._answer("replaced") == "1"

    def close(self) -> None:
        if self.process.poll() is None:
            self._say("end")
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.marked.wait_for_end()

    def _say(self, word: str) -> None:
        print(word, file=self.process.stdin, flush=True)

    def _answer(self, word: str) -> str:
        for line in self.process.stdout:
            if line.startswith(f"{word} "):
                return line.split()[1]
        raise RuntimeError(f"the cluster of two nodes ended instead of saying {word}")


def main() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS, "include_dashboard": False})
    second = cluster.add_node(num_cpus=CPUS)
    print(f"address {cluster.address}", flush=True)
    for line in sys.stdin:
        if line.strip() == "replace":
            cluster.remove_node(second, allow_graceful=False)
            second = cluster.add_node(num_cpus=CPUS)
            print("replaced 1", flush=True)
        else:
            break
    cluster.shutdown()


if __name__ == "__main__":
    main()
