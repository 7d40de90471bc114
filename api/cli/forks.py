"""What a command does when it meets a fork: the proof goes to a file that can be handed on, and the user is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from api.cli.files import open_output
from identity.errors import ForkDetected

if TYPE_CHECKING:
    from api.bootstrap import Session
    from api.cli.output import Output

__all__ = ["keep_fork_proof", "keeping_fork_proofs"]


@contextmanager
def keeping_fork_proofs(out: Output, session: Session) -> Iterator[None]:
    """Around whatever takes in what others signed. The error goes on, with a hint that names the file."""
    try:
        yield
    except ForkDetected as exc:
        if exc.proof:
            path = keep_fork_proof(out, session, exc.proof)
            exc.hint = f"the proof is in {path}: 'holdfast proof check-fork' verifies it, anywhere"
        raise


def keep_fork_proof(out: Output, session: Session, proof: bytes) -> Path:
    """Put a proof into the home, under a name that is its own, and say where."""
    folder = session.home.forks
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{sha256(proof).hexdigest()[:16]}.fork"
    with open_output(out, path, force=True) as stream:
        stream.write(proof)
    return path
