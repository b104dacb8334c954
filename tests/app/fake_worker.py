"""A worker whose predictions take no time and mean nothing: what it does depends on the seed.

1: fails; 2: a bug; 3: dies; 4: never ends; 5: is killed; 6: goes on when the file ``go`` appears beside the jobs;
7: finds nothing; anything else: one crystal.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

from dao.app.worker import SECONDS_BETWEEN, Task, Tell, work
from dao.errors import InputError

CIF = "data_NaCl\n"
RULES = f"default-src 'none'; script-src 'sha256-{43 * 'A'}='; style-src 'unsafe-inline'"
POLICY = f'<meta http-equiv="Content-Security-Policy" content="{RULES}">'


def fail() -> None:
    raise InputError("the weights are gone")


def break_down() -> None:
    raise KeyError("bug")


def sleep() -> None:
    time.sleep(600)


ENDS: dict[int, Callable[[], None]] = {
    1: fail, 2: break_down, 3: lambda: os._exit(7), 4: sleep, 5: lambda: os.kill(os.getpid(), signal.SIGKILL)
}  # fmt: skip


def predict(task: Task, tell: Tell) -> str:
    tell("sampling", 0.0, task.samples)
    folder = task.folder / task.formula
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "samples.jsonl").open("a") as stream:
        stream.write("a sample\n")
    print("a library talks")
    if task.seed in {4, 6}:
        time.sleep(1.5 * SECONDS_BETWEEN)
    tell("sampling", task.samples / 2, task.samples)
    if task.seed in ENDS:
        ENDS[task.seed]()
    while task.seed == 6 and not (task.folder.parent / "go").exists():
        time.sleep(0.02)
    tell("ranking", task.samples, task.samples)
    tell("report", 0.0, 0)
    record = {"rank": 1, "space_group": "Pm-3m", "cif": "001_Pm-3m.cif", "confidence": 0.5, "structure": {"sites": []}}
    records = [] if task.seed == 7 else [record]
    (folder / "candidates.json").write_text(json.dumps(records))
    for one in records:
        (folder / str(one["cif"])).write_text(CIF)
    (folder / "report.html").write_text(f"<html><head>{POLICY}</head>\n<body>\n<h1>the report</h1></body></html>\n")
    return "" if records else "none of 5 samples is a crystal"


if __name__ == "__main__":
    work(predict, lambda: None)
