"""Lets tests in folders below import `tiny_bundle`: pytest puts a conftest's folder on the path."""
