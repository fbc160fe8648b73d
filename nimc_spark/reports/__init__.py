"""Pages, tables and pictures of results; no Spark."""
