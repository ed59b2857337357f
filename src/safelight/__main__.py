"""`python -m safelight` is the command line."""

from safelight.cli.main import entry

if __name__ == "__main__":
    entry()
