"""Passes over rating blocks on Spark DataFrames."""
