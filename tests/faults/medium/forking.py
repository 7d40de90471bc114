"""Starts the processes of the chaos quickly: everything is imported once, and each process is a fork.

python forking.py    reads an order a line, as JSON, and answers each in one:

    {"do": "found" | "look" | "child", "arguments": [...], "out": FIFO}    {"pid": ...}
    {"wait": pid}                                                          {"status": ...}

What a process says goes to the FIFO, and what ails it to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

import chaos_child
import founded


def work(order: dict[str, Any]) -> None:
    arguments = order["arguments"]
    match order["do"]:
        case "found":
            print("\n".join(key.hex() for key in founded.found(*arguments)))
        case "look":
            print(json.dumps(founded.look_at(*arguments)))
        case "child":
            chaos_child.run(*arguments)
    sys.stdout.flush()


def start(order: dict[str, Any]) -> int:
    out = os.open(order["out"], os.O_WRONLY)
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(out, 1)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.close(out)
            work(order)
        except BaseException:  # noqa: BLE001  (a fork must not go on as its parent does)
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    os.close(out)
    return pid


def main() -> None:
    while line := sys.stdin.readline():
        order = json.loads(line)
        if "wait" in order:
            answer = {"status": os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])}
        else:
            answer = {"pid": start(order)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
