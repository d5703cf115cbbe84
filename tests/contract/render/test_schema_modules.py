"""A schema module that an LLM wrote: refused before it is run, closed, and loaded where it can do no harm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from batch_jobs.errors import ConfigError, SchemaMissing
from batch_jobs.render.prompts import load_prompt
from batch_jobs.render.schema_check import PROBE, _package_folders, checked_module
from batch_jobs.render.schema_closed import closed
from batch_jobs.render.schema_files import schema_text
from batch_jobs.render.schema_source import check_source

HEAD = "from pydantic import BaseModel, ConfigDict, Field\n"
GOOD = '''\
from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Annotated, Literal, Optional

from pydantic import BaseModel, Field


class Level(StrEnum):
    """How bad."""

    LOW = "low"
    HIGH = "high"


Text = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    name: Text


class Answer(BaseModel):
    """The answer."""

    level: Level = Field(description="How bad (in one word).")  # stays
    kind: Literal["a", "b"] = "a"
    day: Optional[date] = None
    parts: "list[Part]" = Field(default_factory=list)
'''
TRICKS = {
    "import": "import os\n",
    "import of a part": "import pydantic.main\n",
    "import through typing": "from typing import sys\n",
    "everything": "from typing import *\n",
    "relative": "from . import x\n",
    "module of a module": "import typing\nX = typing.sys.modules\n",
    "call": "MARK\n",
    "default": "class A(BaseModel):\n    x: int = MARK\n",
    "argument": "class A(BaseModel):\n    x: int = Field(default_factory=lambda: MARK)\n",
    "annotation": "class A(BaseModel):\n    x: MARK\n",
    "annotation as text": "class A(BaseModel):\n    x: 'MARK'\n",
    "text in an annotation": "class A(BaseModel):\n    x: list['MARK']\n",
    "text by a name": "X = 'MARK'\nclass A(BaseModel):\n    x: X\n",
    "text by another field": "class A(BaseModel):\n    str: int = 'MARK'\n    x: str\n",
    "text by a member": "from enum import Enum\nclass E(str, Enum):\n    B = 'MARK'\nclass A(BaseModel):\n    x: E.B\n",
    "text for conlist": "from pydantic import conlist\nclass A(BaseModel):\n    x: conlist('MARK')\n",
    "type by its name": "from pydantic import ImportString\nclass A(BaseModel):\n    x: ImportString = 'os'\n",
    "validator": "class A(BaseModel):\n    x: int\n    def f(self):\n        MARK\n",
    "decorator": "@MARK\nclass A(BaseModel):\n    x: int\n",
    "metaclass": "class A(BaseModel, metaclass=MARK):\n    x: int\n",
    "base": "class A(BaseModel, MARK):\n    x: int\n",
    "comprehension": "class A(BaseModel):\n    x: int = [MARK for _ in (1,)]\n",
    "formatted text": "class A(BaseModel):\n    x: str = f'{MARK}'\n",
    "dunder": "class A(BaseModel):\n    x: int = ().__class__.__base__.__subclasses__()\n",
    "dunder of a class": "class A(BaseModel):\n    x: int\nY = A.__init__.__globals__\n",
    "builtins": "class A(BaseModel):\n    x: int = __builtins__['eval']\n",
    "getattr": "class A(BaseModel):\n    x: int = getattr(BaseModel, 'x')\n",
    "name that hides another": "class Field(BaseModel):\n    x: int\n",
    "statement": "if True:\n    MARK\n",
    "deletion": "del BaseModel\n",
    "no class": "x = 1\n",
    "no Python": "class A(BaseModel:\n",
    "null byte": "x = 1\0\n",
    "too deep": f"x = {'(' * 500}1{')' * 500}\n",
    "too long": f"x = '{'a' * 100_001}'\n",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_module_that_does_more_than_declare_is_refused_without_being_run(tmp_path: Path, trick: str) -> None:
    mark = tmp_path / "mark"
    source = HEAD + TRICKS[trick].replace(
        "MARK", f'open(\\"{mark}\\", \\"w\\")' if "'MARK" in trick else f'open("{mark}", "w")'
    )
    with pytest.raises(ValueError, match=r"line \d+: |more than|nested too deeply|read as Python"):
        checked_module(source)
    assert not mark.exists()


def test_a_good_module_passes_in_a_code_fence_and_is_closed() -> None:
    module = checked_module(f"Here it is:\n\n```python\n{GOOD}```\nGood luck!")
    assert (module.model, module.fields) == ("Answer", ("level", "kind", "day", "parts"))
    assert module.source.count('model_config = ConfigDict(extra="forbid")') == 2
    assert "# stays" in module.source
    assert module.schema["additionalProperties"] is module.schema["$defs"]["Part"]["additionalProperties"] is False
    assert checked_module(module.source) == module  # a second time nothing changes


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (HEAD + "class A(BaseModel): x: int\n", "model_config = ConfigDict(extra='forbid')"),
        (HEAD + "class A(BaseModel):\n    'Doc.'\n    x: int\n", 'model_config = ConfigDict(extra="forbid")'),
        (
            HEAD + "class A(BaseModel):\n    model_config = ConfigDict(title='T')\n    x: int\n",
            "model_config = ConfigDict(extra='forbid', title='T')",
        ),
        (
            HEAD + "class A(BaseModel):\n    model_config = {'extra': 'allow'}\n    x: int\n",
            "model_config = {'extra': 'forbid'}",
        ),
        ("import pydantic\nclass A(pydantic.BaseModel):\n    x: int\n", 'model_config = ConfigDict(extra="forbid")'),
        (
            "from pydantic import BaseModel as B, ConfigDict as C\nclass A(B):\n    x: int\n",
            'model_config = C(extra="forbid")',
        ),
    ],
)
def test_a_model_is_closed_by_its_syntax_tree(source: str, line: str) -> None:
    check_source(source)
    made = closed(source)
    assert line in [text.strip() for text in made.splitlines()]
    assert checked_module(source).schema["additionalProperties"] is False
    assert closed(made) == made


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("class A(BaseModel):\n    x: int = Field(gt='a')\n", r'Error building "model".*\(line 2\)'),
        ("class A(BaseModel):\n    x: int = Field(nonsense=1)\n", "nonsense"),
        ("from enum import Enum\nclass A(Enum):\n    X = 1\n", "no class derived from pydantic.BaseModel"),
        ("class A(BaseModel):\n    pass\n", "A has no fields"),
    ],
)
def test_what_does_not_load_is_said(source: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checked_module(HEAD + source)


@pytest.mark.parametrize(
    "deed",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import os; os.system('true')",
        "import subprocess; subprocess.run(['true'])",
        "open('MARK', 'w')",
        "x = 'a' * (1 << 31)",
    ],
)
def test_the_process_that_loads_it_can_do_no_harm(tmp_path: Path, deed: str) -> None:
    mark = tmp_path / "mark"
    source = f"{deed.replace('MARK', str(mark))}\n{HEAD}class A(BaseModel):\n    x: int\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", str(PROBE), *_package_folders()],
        input=source.encode(),
        capture_output=True,
        env={},
        check=False,
    )
    assert "error" in json.loads(done.stdout), done.stdout
    assert not mark.exists()


def test_a_prompt_names_a_module_whose_last_model_is_the_answer(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("schema: t_schema.py\nsystem: |\n  {llm_schema}\n", "utf-8")
    with pytest.raises(SchemaMissing, match=r"t_schema\.py: there is no such schema"):
        load_prompt(tmp_path, "t.yaml")
    (tmp_path / "t_schema.py").write_text(GOOD, "utf-8")
    prompt = load_prompt(tmp_path, "t.yaml")
    assert (prompt.output.name, prompt.output.fields) == ("Answer", ("level", "kind", "day", "parts"))
    assert [path.name for path in prompt.files] == ["t.yaml", "t_schema.py"]
    assert prompt.output.read('{"level": "low", "day": "2026-01-02"}') == {
        **{"level": "low", "kind": "a", "day": "2026-01-02", "parts": []}
    }
    (tmp_path / "t_schema.py").write_text(f"{GOOD}\nOUTPUT_MODEL = Part\n", "utf-8")
    changed = load_prompt(tmp_path, "t.yaml")
    assert (changed.output.name, changed.sha256 == prompt.sha256) == ("Part", False)


def test_a_module_without_a_model_is_no_schema(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("schema: t_schema.py\nsystem: a\n", "utf-8")
    (tmp_path / "t_schema.py").write_text("x = 1\n", "utf-8")
    with pytest.raises(ConfigError, match=r"expected a class derived from pydantic\.BaseModel"):
        load_prompt(tmp_path, "t.yaml")


def test_the_text_of_a_schema_closes_it_and_keeps_the_order_of_its_fields() -> None:
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"properties": {"x": {}}}}}
    assert json.loads(schema_text(schema)) == {
        "additionalProperties": False,
        "properties": {
            "b": {"type": "string"},
            "a": {"additionalProperties": False, "properties": {"x": {}}, "required": []},
        },
        "required": [],
        "type": "object",
    }
    assert list(json.loads(schema_text(schema))["properties"]) == ["b", "a"]
