"""Other nodes are asked before a block counts as final: one that contradicts is heeded, one that is silent is not."""

from __future__ import annotations

from typing import Any

import pytest
from eth_hash.auto import keccak

from anchoring.chain.agreement import all_who_answer
from identity.errors import TransportError

HEADER, OTHER = b"header", b"another header"


class Node:
    """Has one header for every number up to its head."""

    def __init__(self, header: bytes = HEADER, *, head: int = 9, final: int = 7, dead: bool = False) -> None:
        self._header, self._head, self._final, self._dead = header, head, final, dead

    def head_number(self) -> int:
        return self._head

    def final_number(self) -> int:
        if self._dead:
            raise TransportError("connection refused")
        return self._final

    def header(self, _number: int) -> bytes:
        return self._header


def check(**nodes: Any) -> None:
    all_who_answer(nodes)(5, keccak(HEADER))


@pytest.mark.parametrize(
    "nodes", [{}, {"a": Node()}, {"a": Node(), "b": Node(head=100, final=5)}, {"a": Node(), "dead": Node(dead=True)}]
)
def test_nodes_that_agree_or_do_not_answer(nodes: dict[str, Node]) -> None:
    check(**nodes)


@pytest.mark.parametrize("final", [0, 7, 10**9])
def test_a_node_with_another_block_is_named(final: int) -> None:
    with pytest.raises(TransportError, match=f"the nodes disagree: b has block {keccak(OTHER).hex()} at 5"):
        check(a=Node(), b=Node(OTHER, final=final))


@pytest.mark.parametrize("node", [Node(final=4), Node(head=4, final=2)])
def test_a_node_for_which_the_block_is_not_final_yet(node: Node) -> None:
    with pytest.raises(TransportError, match="block 5 is not final for late yet"):
        check(a=Node(), late=node)


def test_a_node_that_gives_no_header_of_a_block_it_should_have() -> None:
    node: Any = Node()

    def refuse(_number: int) -> bytes:
        raise TransportError("pruned")

    node.header = refuse
    check(a=node)
