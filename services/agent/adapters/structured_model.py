"""A chat model whose answers are read into a type, as LangChain's `with_structured_output` promises."""

from operator import itemgetter
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel


def structured(
    model: BaseChatModel, schema: dict[str, Any] | type | None, *, is_any_json: bool, include_raw: bool
) -> Runnable[LanguageModelInput, Any]:
    """Asks `model` with `format`: the schema, or any JSON where the prompt is to say which."""
    wanted = "json" if is_any_json or schema is None else _json_schema(schema)
    parser: BaseOutputParser[Any] = JsonOutputParser()
    if isinstance(schema, type) and is_basemodel_subclass(schema):  # Of pydantic 1 or 2.
        parser = PydanticOutputParser(pydantic_object=schema)
    told = {"kwargs": {"method": "json_mode" if wanted == "json" else "json_schema"}, "schema": schema}
    asked = model.bind(format=wanted, ls_structured_output_format=told)
    if not include_raw:
        return asked | parser
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=asked) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _json_schema(schema: dict[str, Any] | type) -> dict[str, Any]:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema.model_json_schema()
    return schema if isinstance(schema, dict) and "type" in schema else convert_to_json_schema(schema)
