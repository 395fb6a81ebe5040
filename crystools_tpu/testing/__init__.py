"""Rigs that anybody's tests can use. Import from the modules; this package imports nothing."""
