"""Where tokens come from: authorities over HTTP, and an embedded one for development."""
