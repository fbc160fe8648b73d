"""The one place where a Spark session is made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

from pyspark.sql import SparkSession
from pyspark.sql.utils import is_remote

from jobs._settings import (
    check_java,
    check_versions,
    default_settings,
    driver_java_options,
    find_java,
    is_local,
    launch_environment,
    local_jars,
)

TIME_ZONE = "spark.sql.session.timeZone"
NOTHING: Mapping[str, str] = MappingProxyType({})


def open_session(app_name: str, extra: Mapping[str, str] = NOTHING, *, delta: bool = True) -> SparkSession:
    """The session that is already there, or a new one, in UTC and with Delta.

    Started by spark-submit, or on a platform that has its own session, settings are what they were given.
    Started by plain `python`, the settings of `jobs/_conf` and the jars of `.jars/` apply.

    Args:
        app_name: as the Spark UI shows it.
        extra: settings over the defaults; a session that is already there keeps its own.
        delta: False for tables in Parquet, where Delta need not be there.

    Raises:
        SetupError: no fitting Java, or versions of Spark and Delta that do not match.
    """
    session = SparkSession.getActiveSession()
    if session is None:
        builder = SparkSession.builder.appName(app_name)
        for key, value in {**_own_settings(delta, extra), **extra}.items():
            builder = builder.config(key, value)
        session = builder.getOrCreate()
    session.conf.set(TIME_ZONE, "UTC")
    if delta and not is_remote():
        check_versions(session.version, class_path_delta(session))
    return session


def class_path_delta(session: SparkSession) -> str | None:
    """Version of Delta that the driver's JVM has loaded; None if it has none. Needs a classic session."""
    try:
        return str(session.sparkContext._jvm.io.delta.package.VERSION())
    except TypeError:
        return None


def _own_settings(delta: bool, extra: Mapping[str, str]) -> dict[str, str]:
    """What a plain `python` process adds; nothing where spark-submit or a Connect server has decided already."""
    if "PYSPARK_GATEWAY_PORT" in os.environ or "SPARK_REMOTE" in os.environ:
        return {}
    check_java(find_java())
    os.environ.update(launch_environment(os.environ))
    jars = local_jars() if delta else []
    master = extra.get("spark.master") or os.environ.get("MASTER") or "local[*]"
    java_options = driver_java_options(os.environ, {})
    settings = default_settings(delta=bool(jars), local=is_local(master), java_options=java_options)
    if jars:
        settings["spark.jars"] = ",".join(str(jar) for jar in jars)
    return settings
