"""``holdfast db``: databases of documents. Beginning one, reading, and what documents may hold.

Commands that write, and those about members, history and files, are in modules of their own, which this one imports so
that they are in its group.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import db_members, db_write
from api.cli.db_common import (
    DatabaseName,
    Device,
    DocumentName,
    Note,
    Opened,
    document,
    group,
    note_of,
    place_of,
    reading,
    writing,
)
from api.cli.db_show import plain, show_document
from api.cli.exit_codes import UsageError
from api.cli.files import read_input
from api.cli.group import invocation
from api.cli.session import PassphraseFile, check_names, opened, unlock
from api.cli.times import time_text
from identity.errors import RefusedError

if TYPE_CHECKING:
    from sync.database import Database
    from sync.storage.reader import DocumentState, Reader
    from sync.transaction import DocumentId
    from sync.view import View

__all__ = ["group"]

# Their commands are in the group because they were imported.
_PARTS = (db_members, db_write)

_MAX_SCHEMA_BYTES = 65_536


@group.add("create", examples=["holdfast db create bank", "holdfast db create bank --device laptop"])
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the database; it stays its name for ever.")],
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Found a database. This home's identity is its first admin."""
    from api.databases import Databases

    check_names(database=name)
    with opened(ctx) as session:
        ring = unlock(ctx, session, passphrase_file)
        with Databases(session, ring) as databases:
            made = databases.create(name, device=device)
    invocation(ctx).out.record("database", {"name": name, "id": made.uid.hex()})


# --- reading --------------------------------------------------------------------------------------------------------


@group.add(
    "get",
    examples=["holdfast db get bank accounts/4711", "holdfast db get bank accounts/4711 --json"],
)
def get(ctx: typer.Context, database: DatabaseName, name: DocumentName) -> None:
    """Show a document: every field, and every value that stands beside another, because nobody has decided yet."""
    from sync.storage.writing import encode_context
    from sync.unsealing import unseal_view

    named = document(name)
    with reading(ctx, database) as opening, opening.database.read() as reader:
        state = reader.document(named)
        if state is None or not state.view.exists:
            raise _missing(database, named, state)
        shown = unseal_view(state.view, opening.database.uid, named, opening.databases.keys.find)
        context = encode_context(reader.branches.clock(), reader.branches)
    show_document(invocation(ctx).out, named, state.etag, shown, {"context": context})


def _missing(database: str, named: DocumentId, state: DocumentState | None) -> RefusedError:
    if state is not None and state.view.deleted:
        return RefusedError(f"{named} is deleted", hint=f"holdfast db undelete {database} {named}")
    return RefusedError(f"there is no document {named}", hint=f"see 'holdfast db list {database} {named.collection}'")
