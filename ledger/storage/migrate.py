"""Bring a database to the newest version of the tables, or refuse one that is newer than this program.

The versions are the files of ``migrations/versions``, in the order of their names; Alembic records the newest one that
was applied in the table ``alembic_version``. All steps run in the transaction of the caller.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text

from identity.errors import DamagedFile, NewerFormat

__all__ = ["REVISIONS", "current_revision", "upgrade"]

_SCRIPTS: Final = Path(__file__).parent / "migrations"

REVISIONS: Final = tuple(sorted(path.stem for path in (_SCRIPTS / "versions").glob("[0-9]*.py")))
"""Every version this program knows, oldest first."""


def current_revision(connection: Connection) -> str | None:
    """The version of the database's tables, None when it has none yet.

    Raises ``NewerFormat`` for a version that this program does not know, ``DamagedFile`` when none or several are
    recorded.
    """
    if not inspect(connection).has_table("alembic_version"):
        return None
    recorded = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    if len(recorded) != 1:
        raise DamagedFile(f"the database records {len(recorded)} versions of its tables where one belongs")
    if recorded[0] not in REVISIONS:
        raise NewerFormat(f"the database is of version {recorded[0]}, the newest known here is {REVISIONS[-1]}")
    return str(recorded[0])


def upgrade(connection: Connection) -> None:
    """Apply every step that is missing, in the transaction that is open on ``connection``."""
    from alembic import command  # takes longer to import than most commands run, and is needed once per version
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")
