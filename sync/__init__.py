"""The database over the feeds: its causality, its transactions, its replication between devices.

    with open_databases("bank.home", passphrase) as databases:   # api.databases
        bank = databases.open("bank")
        bank.put("accounts", "4711", {"owner": "Novak"}, if_absent=True)
        account = bank.get("accounts", "4711")
        bank.patch("accounts", "4711", {"owner": "Nowak"}, if_match=account.etag)

Here are the names that a program needs beside the open database: what it asks to be changed, and what it can be told.
The database itself is ``sync.database.Database``, which is not imported here because it brings an SQL library with it.
docs/reference/python.md goes through all of it.
"""

from sync.changes import Changes, MissingDocument, PurgedDocument, StaleVersion, Strength
from sync.query import Query
from sync.serial import Decision, Verdict
from sync.transaction import DocumentId
from sync.view import Conflict, ConflictKind

__all__ = [
    "Changes",
    "Conflict",
    "ConflictKind",
    "Decision",
    "DocumentId",
    "MissingDocument",
    "PurgedDocument",
    "Query",
    "StaleVersion",
    "Strength",
    "Verdict",
]
