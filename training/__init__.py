"""Fits, calibrates, exports and evaluates models. Imported by activities and tools only, never on the request path."""
