"""Rating blocks as Arrow bytes, one pass over them, and `LocalOracle`: everything a pass needs but Spark."""
