"""Jobs for spark-submit: parse the config, open the session, call the library, give an exit code."""
