"""Asking other nodes before something becomes irrevocable here.

One node says which block an anchor stands in and that it is final. Before the store believes that for good, every
other configured node that answers has to have the same block, and to call it final as well. A node that cannot be
asked contradicts nobody. Quorums, and nodes that count for more than others, would be other functions of this type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from eth_hash.auto import keccak

from anchoring.chain.client import ChainReader
from identity.errors import TransportError

__all__ = ["HeaderCheck", "all_who_answer"]

HeaderCheck: TypeAlias = Callable[[int, bytes], None]
"""Given a block's number and hash. Raises ``TransportError`` when the block must not be taken as final."""


def all_who_answer(nodes: Mapping[str, ChainReader]) -> HeaderCheck:
    """The check that every one of these nodes, by name, has the block and calls it final, or does not answer."""

    def check(number: int, block_hash: bytes) -> None:
        for name, node in nodes.items():
            try:
                final, head = node.final_number(), node.head_number()
                found = keccak(node.header(number)) if number <= head else None
            except TransportError:
                continue
            if found is not None and found != block_hash:
                raise TransportError(
                    f"the nodes disagree: {name} has block {found.hex()} at {number}, another has {block_hash.hex()}",
                    hint="nothing is decided until they agree; find out which node follows another chain",
                )
            if final < number:
                raise TransportError(f"block {number} is not final for {name} yet")

    return check
