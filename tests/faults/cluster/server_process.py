"""One server process of a home: threads that append through its shared writer, and one that makes checkpoints.

    python server_process.py HOME PASSPHRASE FEED SEED

Says each answer on stdout in one line, only after it has it: ``entry FEED INDEX LEAF LENGTH TREE SIGNATURE`` of an
entry that was acknowledged, with the head that it was acknowledged under; ``note SIZE ROOT`` of a checkpoint;
``told TEXT`` of what the user has to know; ``refused TEXT`` of a checkpoint that was refused, although there was
something to state; ``failed TEXT`` of what may have been written or not. Ends when its input does.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path

from api.bootstrap import open_session
from api.home import Home
from api.settings import load_settings
from identity.errors import AuditError, RefusedError
from identity.keystore import KeyRing, open_keystore
from ledger.entry import encode_record
from ledger.merkle import leaf_node
from ledger.store import FeedKey
from ledger.writer import StoreWriter

THREADS = 4
PAUSE_S = 0.05
FIELD_BYTES = 6_000
"""Enough that what the sockets to a frozen replica hold is soon exceeded."""


def say(*words: object) -> None:
    """One write, so that lines of threads do not mix, and no line is half said."""
    os.write(1, (" ".join(map(str, words)).replace("\n", " ") + "\n").encode())


def append_until(stop: threading.Event, writer: StoreWriter, feed: FeedKey, seed: str) -> None:
    chance = random.Random(seed)
    number = 0
    while not stop.is_set():
        number += 1
        fields = {"writer": seed, "n": number, "filling": chance.randbytes(FIELD_BYTES)}
        block = encode_record("load", fields, 1_800_000_000_000)
        try:
            result = writer.append(feed, [block])
        except AuditError as exc:  # its outcome is unknown, or nothing was written: nobody was told that all is well
            say("failed", type(exc).__name__, exc)
            stop.wait(PAUSE_S)
            continue
        head = result.head
        leaf = leaf_node(result.start, block).hash
        say(
            "entry", result.key.hex(), result.start, leaf.hex(), head.length, head.tree_hash.hex(), head.signature.hex()
        )


def checkpoint_until(stop: threading.Event, session: object, ring: KeyRing) -> None:
    while not stop.wait(PAUSE_S):
        try:
            made = session.vault.checkpoint(ring)  # type: ignore[attr-defined]
        except RefusedError as exc:
            if "nothing to commit" not in str(exc):
                say("refused", exc)
        except AuditError as exc:
            say("failed", type(exc).__name__, exc)
        else:
            say("note", made.size, made.root.hex())


def main(root: str, passphrase: str, name: str, seed: str) -> None:
    home = Home(Path(root))
    stop = threading.Event()
    with open_session(home, load_settings(home, os.environ), tell=lambda text: say("told", text)) as session:
        ring = open_keystore(home.keystore, passphrase)
        feed = session.vault.find_feed(name).state.key
        with session.vault.start_writer(ring) as writer:
            work = [
                threading.Thread(target=append_until, args=(stop, writer, feed, f"{seed}.{number}"))
                for number in range(THREADS)
            ]
            work.append(threading.Thread(target=checkpoint_until, args=(stop, session, ring)))
            for thread in work:
                thread.start()
            sys.stdin.read()
            stop.set()
            for thread in work:
                thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
