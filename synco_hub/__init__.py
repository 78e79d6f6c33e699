"""synco-hub."""
