"""The database over the feeds: its causality, its transactions, its replication between devices.

Nothing of it is in this version. The grammar of its values is in ``ledger.values``, because entries carry them already.
"""
