"""Commands: one small module each, which parses, calls one function and returns an exit status."""
