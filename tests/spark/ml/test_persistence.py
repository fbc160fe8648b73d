"""Save and load: the same bits, whole folders or none, and every damage noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import SQLTransformer

from nimc_spark import NIMC, NIMCModel
from nimc_spark.errors import DataError, SetupError, UsageError
from nimc_spark.kernels.model import SideName
from tests.spark.ml.conftest import Toy
from tests.spark.ml.test_estimator import numbers_of, rows_of


@pytest.fixture(scope="module")
def saved(feature_model: NIMCModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    feature_model.save(str(path))
    return path


def test_a_loaded_model_scores_the_same_bits_from_anywhere(
    toy: Toy, feature_model: NIMCModel, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = shutil.copytree(saved, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    for path in (str(moved), "elsewhere", f"file://{moved}"):
        loaded = NIMCModel.load(path)
        assert numbers_of(loaded) == numbers_of(feature_model)
    assert loaded.summary == feature_model.summary
    assert loaded.uid == feature_model.uid
    assert loaded.extractParamMap() == feature_model.extractParamMap()
    assert not loaded.trained.sides[SideName.USERS].declared.flags.writeable
    loaded.setUsers(toy.users).setItems(toy.items)
    assert rows_of(loaded.transform(toy.test)) == rows_of(feature_model.transform(toy.test))


def test_the_folder_holds_json_npz_and_parquet(saved: Path) -> None:
    files = sorted(str(f.relative_to(saved)) for f in saved.rglob("*") if f.is_file())
    assert files == [
        "manifest.json",
        "members/main/items.parquet",
        "members/main/model.json",
        "members/main/parameters.npz",
        "members/main/users.parquet",
        "metadata/part-00000",
    ]
    assert sorted(json.loads((saved / "manifest.json").read_text())["checksums"]) == files[1:]
    # Nothing is left of the folder it was written under.
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_every_flipped_byte_is_noticed(saved: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(saved, tmp_path / "copy")
    for file in [f for f in copy.rglob("*") if f.is_file()]:
        sound = file.read_bytes()
        # The last byte of the JSON files is a line end.
        for place in (0, len(sound) // 3, len(sound) // 2, len(sound) - 2):
            file.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
            with pytest.raises(DataError, match=r"is damaged|is not JSON|has model format"):
                NIMCModel.load(str(copy))
        file.unlink()
        with pytest.raises(DataError, match="is no saved model: it has no "):
            NIMCModel.load(str(copy))
        file.write_bytes(sound)
    NIMCModel.load(str(copy))


def test_paths_that_hold_no_model(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no saved model: it has no manifest\.json"):
        NIMCModel.load(str(tmp_path / "nothing"))
    with pytest.raises(DataError, match="holds a NIMCModel, not a NIMC"):
        NIMC.load(str(saved))
    NIMC(rank=3).save(str(tmp_path / "estimator"))
    with pytest.raises(DataError, match=r"it has no manifest\.json"):
        NIMCModel.load(str(tmp_path / "estimator"))


def test_a_taken_path_is_refused_and_overwritten_on_request(saved: Path, ids_model: NIMCModel, tmp_path: Path) -> None:
    path = shutil.copytree(saved, tmp_path / "model")
    (path / "left over").write_text("x")
    with pytest.raises(UsageError, match=r"exists already: choose another path, or write\(\).overwrite\(\)"):
        ids_model.save(str(path))
    assert NIMCModel.load(str(path)).getActivation() == "tanh"
    ids_model.write().overwrite().save(str(path))
    assert numbers_of(NIMCModel.load(str(path))) == numbers_of(ids_model)
    assert not (path / "left over").exists()


def test_a_path_that_cannot_be_written(ids_model: NIMCModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SetupError, match="cannot be written"):
        ids_model.save(str(tmp_path / "file" / "model"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_estimator_keeps_its_params_and_refuses_dataframes(toy: Toy, tmp_path: Path) -> None:
    features = [{"kind": "one_hot", "column": "genre"}, {"kind": "id"}]
    estimator = NIMC(rank=3, itemsTable="lake/items", itemFeatures=features, groupRegParam={"items": {"id": 2}})
    estimator.save(str(tmp_path / "estimator"))
    loaded = NIMC.load(str(tmp_path / "estimator"))
    assert loaded.uid == estimator.uid
    assert loaded.extractParamMap() == estimator.extractParamMap()
    assert loaded.getItemFeatures() == features
    with pytest.raises(UsageError, match=r"holds a DataFrame .* name that with usersTable or itemsTable"):
        NIMC().setUsers(toy.users).save(str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_damaged_or_foreign_params_are_named(tmp_path: Path) -> None:
    NIMC(rank=3).save(str(tmp_path / "estimator"))
    (file,) = (tmp_path / "estimator" / "metadata").glob("part-*")
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({**whole, "paramMap": {"rank": 3, "depth": 2}}))
    with pytest.raises(DataError, match="estimator was saved with depth, which this version does not know"):
        NIMC.load(str(tmp_path / "estimator"))
    file.write_text(json.dumps({"class": whole["class"]}))
    with pytest.raises(DataError, match="is damaged: it has no 'uid'"):
        NIMC.load(str(tmp_path / "estimator"))


def test_stages_of_pipelines_are_saved_and_loaded(toy: Toy, tmp_path: Path) -> None:
    doubled = SQLTransformer(statement="SELECT user, item, 2 * rating AS rating FROM __THIS__")
    pipeline = Pipeline(stages=[doubled, NIMC(rank=2, maxIter=3)])
    pipeline.save(str(tmp_path / "pipeline"))
    assert Pipeline.load(str(tmp_path / "pipeline")).getStages()[1].getRank() == 2
    fitted = pipeline.fit(toy.train)
    fitted.save(str(tmp_path / "fitted"))
    loaded = PipelineModel.load(str(tmp_path / "fitted"))
    assert isinstance(loaded.stages[1], NIMCModel)
    assert rows_of(loaded.transform(toy.test)) == rows_of(fitted.transform(toy.test))
