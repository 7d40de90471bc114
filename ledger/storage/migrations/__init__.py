"""Alembic's script directory. Each file in ``versions`` is one step, in literal DDL; it imports nothing of ours.

A released step is never edited: a change of the tables is a new file, named ``<number>_<what>`` as its revision is.
"""
