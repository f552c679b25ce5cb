"""Bytes that nobody chose, on everything that reads bytes of others: ``python -m tests.fuzz``."""
