"""Since when, provable to whom: timestamp tokens, anchors, evidence, and the offline verifier.

No name stands here: every module is imported by itself, because what reading tokens or driving a chain takes to import
is more than all the rest. ``anchoring.verifier`` and what it imports is pure and runs where no web3, no database and no
network is; ``chain``, ``tsa``, ``storage``, ``witness``, ``worker`` and ``outside_audit`` are the rim.
"""
