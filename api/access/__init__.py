"""Who may do what over the network: callers, what they ask for, and what they may have of it.

``action`` names what can be asked for. Everything here is decided over values: keys, tokens and times come in as
arguments.
"""
