"""The command line: one verb a module, imported when its verb is chosen. See `main`."""
