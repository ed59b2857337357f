"""The server: runs that are kept, jobs that are not lost, and everything that shows them over HTTP."""
