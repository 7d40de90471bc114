"""The HTTP interface, a router a subject. Routes decide nothing: they read a request, ask, and write an answer."""
