"""A file an architecture: the published layouts of a network, by name, as maps to our modules (see interop/keys.py)."""
