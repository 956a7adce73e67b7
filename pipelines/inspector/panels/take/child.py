"""`winnow select` in a child process: reads one request from its input and prints a line of JSON for each step."""

from __future__ import annotations

import json
import sys
from typing import Any

from curate.selection.filters import Filter
from pipelines.config import load_recorded
from pipelines.curated.curated import CuratedRequest, Work, make_curated
from pipelines.dataset.dataset import Dataset


def _main() -> None:
    request = json.load(sys.stdin)

    def tell(**news: Any) -> None:
        print(json.dumps(news), flush=True)

    try:
        dataset = Dataset(request["dataset"])
        config = load_recorded(dataset.config, f"{request['dataset']}/dataset.json")
        made = make_curated(
            dataset,
            CuratedRequest.of(config, [Filter(**f) for f in request["filters"]]),
            request["out"],
            Work(
                limits=config.decode.cut_limits,
                progress=lambda done, total, failed: tell(done=done, total=total, failed=failed),
            ),
        )
    except Exception as error:  # the page shows the reason, whatever it is
        tell(state="failed", error=" ".join(str(error).split()) or type(error).__name__)
        return
    tell(
        state="done",
        clips=made.clips,
        hours=made.hours,
        bytes=made.bytes,
        failed=len(made.failed),
        already=made.already,
    )


if __name__ == "__main__":
    _main()
