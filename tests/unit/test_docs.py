"""The documents say what is so: generated pages are fresh, and what the written ones name exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs._config import Config, parse_config
from jobs._settings import ROOT
from jobs._submit import job_names
from jobs._yaml import read_tree
from nimc_spark import errors
from nimc_spark.data.declarations import parse_declarations
from nimc_spark.ml import NIMC, NIMCModel
from scripts.make_docs import PAGES

WRITTEN = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/operations.md")]
ALL = [*WRITTEN, *sorted((ROOT / "docs").rglob("*.md"))]
README = WRITTEN[0].read_text(encoding="utf-8")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("path", "page"), PAGES.items(), ids=list(PAGES))
def test_generated_pages_are_fresh(path: str, page: Callable[[], str]) -> None:
    committed = (ROOT / path).read_text(encoding="utf-8")
    assert committed == page(), f"{path} is old: run `.venv/bin/python -m scripts.make_docs`"


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^ {4}|`)make ([a-z]+)", text, re.MULTILINE)) <= targets
    started = re.findall(r"\./spark-submit\.sh (?:-[^`\n]*? -- )?([a-z]+)", text)
    assert set(started) <= set(job_names())


def test_readme_shows_every_job() -> None:
    assert sorted(re.findall(r"^\| `([a-z]+)` \|", README, re.MULTILINE)) == job_names()


@pytest.mark.parametrize("page", ALL, ids=named)
def test_paths_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = {target.partition("#")[0] for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text)}
    assert [target for target in sorted(linked) if not (page.parent / target).exists()] == []
    mentioned = re.findall(r"`((?:nimc_spark|jobs|conf|scripts|tests|docs)/[\w./-]*)`", text)
    assert [path for path in mentioned if not (ROOT / path).exists()] == []


def test_readme_config_is_complete(tmp_path: Path) -> None:
    example, tune = blocks("yaml")
    file = tmp_path / "my.yaml"
    file.write_text(example + tune, encoding="utf-8")
    config: Config = parse_config(read_tree(str(file)), "README.md")
    assert (config.columns.user, config.columns.item, config.columns.title) == ("reader", "book", "name")
    assert [d.kind for d in config.features.users] == ["numeric", "one_hot", "id"]


def test_configs_for_each_purpose_go_with_the_readme(tmp_path: Path) -> None:
    example, _ = blocks("yaml")
    (tmp_path / "base.yaml").write_text(example, encoding="utf-8")
    base = read_tree(str(tmp_path / "base.yaml"))
    found = blocks("yaml", (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8"))
    assert len(found) == 2
    for number, text in enumerate(found):
        (tmp_path / f"{number}.yaml").write_text(text, encoding="utf-8")
        own = read_tree(str(tmp_path / f"{number}.yaml"))
        rest = {key: value for key, value in base.items() if key != "features"}
        config = parse_config({**rest, **own}, "docs/accuracy.md")
        assert set(config.members) == (set() if number == 0 else {"known", "new_readers", "new_books"})


def test_readme_code_uses_what_there_is() -> None:
    added = re.findall(r"^\+(.*)$", blocks("diff")[0], re.MULTILINE)
    calls = [node for text in (*blocks("python"), "\n".join(added)) for node in ast.walk(ast.parse(text))]
    made = [c for c in calls if isinstance(c, ast.Call) and isinstance(c.func, ast.Name) and c.func.id == "NIMC"]
    assert len(made) == 2
    for call in made:
        params = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
        NIMC(**params).validate()
        for side in ("userFeatures", "itemFeatures"):
            assert len(parse_declarations(params.get(side, []))) == len(params.get(side, []))
    ours = {"nimc", "model", "NIMCModel"}
    attributes = [c.func for c in calls if isinstance(c, ast.Call) and isinstance(c.func, ast.Attribute)]
    methods = {attribute.attr for attribute in attributes if _root(attribute) in ours}
    assert {"setItems", "fit", "transform", "recommendForUserSubset", "load"} <= methods
    assert {name for name in methods if not hasattr(NIMC, name) and not hasattr(NIMCModel, name)} == set()


def _root(node: ast.AST) -> str | None:
    """The name with which a chain of calls and attributes begins."""
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else None


def test_readme_exit_codes() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.NimcError)]
    told = {int(code) for code in re.findall(r"^\| (\d) \|", README, re.MULTILINE)}
    assert told == {0, *(kind.exit_code for kind in kinds)}
