"""The OpenAPI document: valid, complete, and its examples are what the schemas say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.openapi.models import OpenAPI
from jsonschema import Draft202012Validator

from batch_jobs.api.app import create_app
from batch_jobs.lifecycle.project import open_project
from tests.acceptance import api_kit

Document = dict[str, Any]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    project = open_project(api_kit.CONFIG, tmp_path_factory.mktemp("api-openapi"))
    project.close()
    return create_app(project, frozenset()).openapi()


def test_the_document_is_valid(document: Document) -> None:
    OpenAPI.model_validate(document)
    assert document["openapi"].startswith("3.1")
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_route_says_what_it_does_and_how_it_fails(document: Document) -> None:
    operations = [(path, how, one) for path, methods in document["paths"].items() for how, one in methods.items()]
    assert len(operations) == 11
    for path, how, one in operations:
        assert one["summary"], (how, path)
        assert one["description"], (how, path)
        expected = {"401", "422"} if path != "/healthz" else set()
        expected |= {"404"} if "{task_id}" in path else set()
        assert expected <= set(one["responses"]), (how, path)
        assert ("security" in one) == (path != "/healthz")
        for status, response in one["responses"].items():
            if int(status) >= 400:
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorDocument"}


def test_every_example_fits_its_schema(document: Document) -> None:
    seen = 0
    for name, schema in document["components"]["schemas"].items():
        validator = Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]})
        for example in schema.get("examples", []):
            validator.validate(example)
            seen += 1
        for field in schema.get("properties", {}).values():
            for example in field.get("examples", []):
                Draft202012Validator({**field, "components": document["components"]}).validate(example)
                seen += 1
    assert seen >= 10


def test_every_field_of_the_upload_is_explained(document: Document) -> None:
    form = document["components"]["schemas"]["JobForm"]
    assert set(form["properties"]) == {"file", "task", "data_case", "mode", "provider", "model", "sheet"}
    assert form["required"] == ["file", "task", "data_case"]
    assert all(field["description"] for field in form["properties"].values())


def test_an_accepted_upload_says_where_to_go_on(document: Document) -> None:
    operations = {
        one["operationId"]: path
        for path, methods in document["paths"].items()
        for one in methods.values()
        if "{task_id}" in path
    }
    links = document["paths"]["/jobs"]["post"]["responses"]["202"]["links"]
    assert {link["operationId"] for link in links.values()} == set(operations)
    assert {link["parameters"]["task_id"] for link in links.values()} == {"$response.body#/task_id"}


def test_the_upload_says_that_its_file_needs_a_name(document: Document) -> None:
    (body,) = document["paths"]["/jobs"]["post"]["requestBody"]["content"].values()
    header = body["encoding"]["file"]["headers"]["Content-Disposition"]
    assert header["required"] is True
    assert 'filename="losses.csv"' in header["example"]


def test_no_module_of_the_api_is_over_400_lines() -> None:
    for path in (Path(api_kit.REPOSITORY) / "batch_jobs" / "api").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
