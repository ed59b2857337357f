"""Adapters: what changes a model for a run and leaves no trace in it."""
