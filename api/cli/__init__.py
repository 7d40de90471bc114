"""The ``holdfast`` command: a module per command group, each imported only when one of its commands is run."""
