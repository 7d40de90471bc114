"""The demonstration: a bank's day on real transactions, five attacks that are caught, a database, and a node.

Nothing in it is staged: it uses the same calls as any program, and every figure is measured in the run that prints it.
"""

from api.demo.bank import Bank
from api.demo.steps import Step
from api.demo.story import tell

__all__ = ["Bank", "Step", "tell"]
