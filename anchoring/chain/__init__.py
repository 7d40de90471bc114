"""Reaching an EVM chain: the embedded development chain, JSON-RPC nodes, and the outbox that sends anchors.

Importing this package, or any module in it, loads neither py-evm nor eth-account; what needs them loads them when used.
"""

from __future__ import annotations
