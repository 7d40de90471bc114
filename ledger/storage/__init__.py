"""Where the ledger is kept: SQLite and memory behind the port of ``ledger.store``, and the migrations of both."""
