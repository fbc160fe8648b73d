"""Tables, model registry, run records and quarantine."""
