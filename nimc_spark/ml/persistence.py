"""Saving and loading: folders of JSON, npz and Parquet, no pickle, the same bits back.

    manifest.json               format version, class, members, router (the member of each cell), summary (one a member
                                where there are several), checksums of every file and of itself
    metadata/part-00000         the Params, as Spark ML lays them out, so that Pipelines can hold these classes
    members/<name>/model.json   shape, defaults, rating range, and what each side's features were fitted to
    members/<name>/parameters.npz          U and V of the declared feature columns, and of histories
    members/<name>/{users,items}.parquet   trained ids in their own type: offset, parameters, vectors of `rating_svd`,
                                           bias where residuals of histories are taken from it
    members/<name>/metadata.json           the member's Params, where there are several; the only one is called main

A folder appears whole or not at all: it is written under another name beside its place and then moved.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pyspark import __version__ as spark_version
from pyspark.ml.param import Params
from pyspark.ml.util import MLReader, MLWriter

from nimc_spark import __version__
from nimc_spark.engine.cells import MAIN, Router
from nimc_spark.engine.factors import HistoryModel, SideModel
from nimc_spark.engine.features import FittedFeatures
from nimc_spark.errors import DataError, SetupError, UsageError
from nimc_spark.kernels.model import Model, SideName
from nimc_spark.ml.summary import TrainingSummary

if TYPE_CHECKING:
    from nimc_spark.ml.model import NIMCModel
    from nimc_spark.ml.training import Trained

FORMAT = 1
MANIFEST = "manifest.json"
METADATA = "metadata/part-00000"
_PARAMS = "metadata.json"
# The manifest's checksum of itself without this entry.
_OWN_CHECKSUM = "checksum"

P = TypeVar("P", bound=Params)


class ParamsWriter(MLWriter):
    """Writes an object's Params to a folder; `overwrite()` replaces one that is there."""

    def __init__(self, instance: Params) -> None:
        super().__init__()
        self.instance = instance

    def saveImpl(self, path: str) -> None:
        write_folder(path, self.files(), self.shouldOverwrite)

    def save(self, path: str) -> None:
        """Raises UsageError if `path` is taken and not to be overwritten, SetupError if it cannot be written."""
        self.saveImpl(path)

    def files(self) -> dict[str, bytes]:
        """What the folder holds, by relative path."""
        return {METADATA: _json(_metadata(self.instance))}


class ModelWriter(ParamsWriter):
    """Writes a model with everything it needs to score."""

    instance: NIMCModel

    def files(self) -> dict[str, bytes]:
        members, router = self.instance.members, self.instance.router
        files = super().files()
        for name, member in members.items():
            files |= {f"{_folder(name)}/{file}": content for file, content in _member_files(member.trained).items()}
            files |= {f"{_folder(name)}/{_PARAMS}": _json(_metadata(member))} if router else {}
        summaries = {name: member.summary.to_json() for name, member in members.items()}
        manifest = {
            "format": FORMAT,
            "class": type(self.instance).__name__,
            "version": __version__,
            "members": {name: _folder(name) for name in members},
            "router": router or {"default": MAIN},
            "summary": summaries if router else summaries[MAIN],
            "checksums": {name: _checksum(content) for name, content in sorted(files.items())},
        }
        return {**files, MANIFEST: _json({**manifest, _OWN_CHECKSUM: _checksum(_json(manifest))})}


class ParamsReader(MLReader[Any], Generic[P]):
    """Reads what `ParamsWriter` wrote."""

    def __init__(self, cls: type[P]) -> None:
        super().__init__()
        self.cls = cls

    def load(self, path: str) -> P:
        """Raises DataError if the folder does not hold an object of this class."""
        return self.build(_Folder(path))

    def build(self, folder: _Folder, file: str = METADATA) -> P:
        metadata = folder.json(file)
        name = str(metadata.get("class", "")).rsplit(".", 1)[-1]
        if name != self.cls.__name__:
            raise DataError(f"{folder.path} holds a {name or 'folder without a class'}, not a {self.cls.__name__}")
        instance = self.cls()
        try:
            uid, values, defaults = (metadata[key] for key in ("uid", "paramMap", "defaultParamMap"))
        except KeyError as error:
            raise DataError(f"{folder.path}/{file} is damaged: it has no {error}") from None
        if unknown := sorted(name for name in {**values, **defaults} if not instance.hasParam(name)):
            raise DataError(f"{folder.path} was saved with {', '.join(unknown)}, which this version does not know")
        instance._resetUid(uid)
        instance._set(**values)
        instance._setDefault(**defaults)
        return instance


class ModelReader(ParamsReader[Any], Generic[P]):
    """Reads what `ModelWriter` wrote, and verifies every checksum."""

    def build(self, folder: _Folder, file: str = METADATA) -> Any:
        manifest = folder.json(MANIFEST)
        if manifest.get("format") != FORMAT:
            raise DataError(f"{folder.path} has model format {manifest.get('format')!r}; this version reads {FORMAT}")
        if manifest.pop(_OWN_CHECKSUM, None) != _checksum(_json(manifest)):
            raise DataError(f"{folder.path}/{MANIFEST} is damaged: its checksum is not its own")
        checksums = manifest.get("checksums")
        if not isinstance(checksums, dict) or not checksums:
            raise DataError(f"{folder.path}/{MANIFEST} is damaged: it has no checksums")
        folder.verify(checksums)
        model = super().build(folder, file)
        if manifest["router"].get("default") == MAIN:
            return model._of_one(_member(folder, MAIN, manifest["summary"]))
        return model._of_several(self._members(folder, manifest), _router(folder, manifest))

    def _members(self, folder: _Folder, manifest: Mapping[str, Any]) -> dict[str, Any]:
        built = {}
        for name in manifest["members"]:
            member = super().build(folder, f"{_folder(name)}/{_PARAMS}")
            built[name] = member._of_one(_member(folder, name, manifest["summary"][name]))
        return built


def _metadata(instance: Params) -> dict[str, Any]:
    params = {param.name: value for param, value in instance._paramMap.items()}
    defaults = {param.name: value for param, value in instance._defaultParamMap.items()}
    return {
        "class": f"{type(instance).__module__}.{type(instance).__name__}",
        "timestamp": int(time.time() * 1000),
        "sparkVersion": spark_version,
        "uid": instance.uid,
        "paramMap": params,
        "defaultParamMap": defaults,
        "language": "Python",
    }


def _folder(member: str) -> str:
    return f"members/{member}"


def _router(folder: _Folder, manifest: Mapping[str, Any]) -> Router:
    try:
        return Router.checked(manifest["router"], manifest["members"])
    except UsageError as error:
        raise DataError(f"{folder.path}/{MANIFEST} cannot be used: {error}") from None


def _member_files(trained: Trained) -> dict[str, bytes]:
    described = {
        "model": asdict(trained.model),
        "rating_range": trained.rating_range,
        "sides": {side.value: _side_json(trained, side) for side in SideName},
    }
    histories = {side: trained.sides[side].history for side in SideName}
    arrays = {side.value: trained.sides[side].declared for side in SideName}
    arrays |= {f"{side.value}_history": h.rows for side, h in histories.items() if h is not None}
    numbers = io.BytesIO()
    np.savez(numbers, **arrays)  # type: ignore[arg-type]
    tables = {f"{side.value}.parquet": _parquet(trained.sides[side].ids) for side in SideName}
    return {"model.json": _json(described), "parameters.npz": numbers.getvalue(), **tables}


def _side_json(trained: Trained, side: SideName) -> dict[str, Any]:
    own = trained.sides[side]
    described = {"constant": own.constant, "default": own.default, "features": trained.features[side].to_json()}
    if own.history is None:
        return described
    return described | {"history": {"weights": own.history.weights, "mean": own.history.mean}}


def _member(folder: _Folder, name: str, summary: Mapping[str, Any]) -> Trained:
    from nimc_spark.ml.training import Trained

    place = _folder(name)
    described = folder.json(f"{place}/model.json")
    model = Model(**described["model"])
    with np.load(io.BytesIO(folder.read(f"{place}/parameters.npz")), allow_pickle=False) as saved:
        numbers = {name: saved[name] for name in saved.files}
    for array in numbers.values():
        array.flags.writeable = False
    sides, features = {}, {}
    for side in SideName:
        own = described["sides"][side.value]
        history = None
        if "history" in own:
            history = HistoryModel(
                tuple(own["history"]["weights"]), own["history"]["mean"], numbers[f"{side.value}_history"]
            )
        ids = pq.read_table(pa.BufferReader(folder.read(f"{place}/{side.value}.parquet")))
        sides[side] = SideModel(side, model, numbers[side.value], ids, own["constant"], tuple(own["default"]), history)
        features[side] = FittedFeatures.from_json(own["features"])
    low, high = described["rating_range"]
    return Trained(model, sides, features, (low, high), TrainingSummary.from_json(summary))


def _json(value: Mapping[str, Any]) -> bytes:
    # One line: Spark ML reads the metadata's first line only.
    return (json.dumps(value, sort_keys=True) + "\n").encode()


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


class _Folder:
    """A saved folder on any file system that Arrow knows."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._files, self._root = file_system(path)

    def read(self, name: str) -> bytes:
        try:
            with self._files.open_input_stream(f"{self._root}/{name}") as stream:
                content: bytes = stream.read()
                return content
        except FileNotFoundError:
            raise DataError(f"{self.path} is no saved model: it has no {name}") from None
        except OSError as error:
            raise DataError(f"{self.path}/{name} cannot be read: {error}") from None

    def json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self.read(name))
        except ValueError as error:
            raise DataError(f"{self.path}/{name} is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise DataError(f"{self.path}/{name} is not a JSON object")
        return value

    def verify(self, checksums: Mapping[str, str]) -> None:
        for name, expected in checksums.items():
            if _checksum(self.read(name)) != expected:
                raise DataError(f"{self.path}/{name} is damaged: its checksum is not that of the manifest")


def file_system(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path within it."""
    if "://" not in path and not path.startswith("file:"):
        return pafs.LocalFileSystem(), path.rstrip("/")
    try:
        files, inner = pafs.FileSystem.from_uri(path.replace("s3a://", "s3://", 1))
    except (ValueError, pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path!r} is on a file system that Arrow does not know: {error}") from None
    return files, inner.rstrip("/")


def write_folder(path: str, files: Mapping[str, bytes], overwrite: bool) -> None:
    """Write all files under another name, then move the folder to `path`: it is there whole, or not at all.

    Raises UsageError if `path` is taken and `overwrite` is False, SetupError if it cannot be written.
    """
    system, root = file_system(path)
    staged = f"{root}.{uuid.uuid4().hex}.tmp"
    try:
        taken = system.get_file_info(root).type is not pafs.FileType.NotFound
        if taken and not overwrite:
            raise UsageError(f"{path} exists already: choose another path, or write().overwrite().save(path)")
        for name, content in files.items():
            system.create_dir(f"{staged}/{name}".rsplit("/", 1)[0], recursive=True)
            with system.open_output_stream(f"{staged}/{name}") as stream:
                stream.write(content)
        if taken:
            system.delete_dir(root)
        system.move(staged, root)
    except OSError as error:
        with suppress(OSError):
            system.delete_dir(staged)
        raise SetupError(f"{path} cannot be written: {error}") from None
