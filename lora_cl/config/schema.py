"""The JSON Schema of a config, for editors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_cl.benchmarks import BENCHMARKS
from lora_cl.config.describing import Described
from lora_cl.config.model import NAME
from lora_cl.config.study import ConfigFile
from lora_cl.config.train import MethodTraining
from lora_cl.data import DATASETS
from lora_cl.methods import METHODS
from lora_cl.models import BACKBONES
from lora_cl.options import OptionsBase, named_options
from lora_cl.plugins import IMPORT_PATH, Parts
from lora_cl.shipped import TUNED

NAMED: tuple[Parts[Any], ...] = (BENCHMARKS, DATASETS, BACKBONES)

NEVER_TUNED = ("method", "name", "tuned")
TOLD = ("default", "description", "title")

Schema = dict[str, Any]


def config_schema() -> Schema:
    """What a config can say, with the parts of other packages that are installed here."""
    result: Schema = ConfigFile.model_json_schema(mode="validation", schema_generator=Described)
    result["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    result["title"] = "lora-cl config"
    properties = result["properties"]
    methods = properties["methods"]
    # pydantic has expressed the pattern of a label in both of these ways.
    patterns = methods.pop("patternProperties", {})
    any_method = next(iter(patterns.values()), None) or methods["additionalProperties"]
    references: Schema = {
        name: {"$ref": any_method["discriminator"]["mapping"][name]} for name in METHODS
    }
    references |= _others(METHODS, "method", result["$defs"], MethodTraining)
    methods["propertyNames"] = {"pattern": NAME}
    methods["additionalProperties"] = {"anyOf": [*references.values(), _imported("method")]}
    methods["properties"] = {
        name: {"anyOf": [reference, {"type": "null"}]} for name, reference in references.items()
    }
    _allow_tuned(result["$defs"], [properties["train"], *references.values()])
    several = properties["seeds"]
    meaning = several.pop("description")
    number = {"type": "integer", "minimum": 1}
    properties["seeds"] = {"anyOf": [several, number], "description": meaning}
    properties["method"] = {"description": "A single method: its name, or its name and options."}
    result["required"] = [key for key in result["required"] if key != "methods"]
    others = {frozenset(parts): _others(parts, "name", result["$defs"]) for parts in NAMED}
    whole: Schema = _names_or_mappings(result, others)
    return whole


def _others(
    parts: Parts[Any], key: str, definitions: Schema, common: type[OptionsBase] = OptionsBase
) -> Schema:
    """References to the options of other packages' parts, by name; they become definitions."""
    references = {}
    for name, part in parts.others().items():
        if isinstance(part, Exception):
            continue
        title = f"{parts.group}.{name}"
        template = f"#/$defs/{title}.{{model}}"
        options = named_options(part.Options, name, key, common)
        found = options.model_json_schema(ref_template=template, schema_generator=Described)
        definitions |= {f"{title}.{k}": v for k, v in found.pop("$defs", {}).items()}
        definitions[title] = found
        references[name] = {"$ref": f"#/$defs/{title}"}
    return references


def _allow_tuned(definitions: Schema, parts: Sequence[Any]) -> None:
    """A value of ``parts``, and of what they refer to, can be `tuned` in the place of itself."""
    waiting, seen = list(parts), set()
    while waiting:
        part = waiting.pop()
        name = str(part.get("$ref", "")).removeprefix("#/$defs/")
        if name and name not in seen:
            seen.add(name)
            for key, value in definitions[name].get("properties", {}).items():
                if key not in NEVER_TUNED:
                    waiting += _refers(value)
                    if "$ref" not in value:  # Whole mappings are not chosen, but what is in them.
                        definitions[name]["properties"][key] = _or_tuned(value)


def _refers(value: Schema) -> list[Schema]:
    kinds = value.get("anyOf", []) + value.get("oneOf", []) + [value]
    return [inner for kind in kinds for inner in (kind, *kind.get("oneOf", [])) if "$ref" in inner]


def _or_tuned(value: Schema) -> Schema:
    """The schema of a value, or of one that is chosen, with what it says of it kept in front."""
    told = {key: value[key] for key in TOLD if key in value}
    kinds = [{key: part for key, part in value.items() if key not in TOLD}]
    if list(kinds[0]) == ["anyOf"]:
        kinds = kinds[0]["anyOf"]
    return {**told, "anyOf": [*kinds, {"const": TUNED}]}


def _imported(key: str) -> Schema:
    """A part by import path; its options are known to its own package."""
    return {
        "type": "object",
        "properties": {key: {"type": "string", "pattern": IMPORT_PATH}},
        "required": [key],
    }


def _names_or_mappings(node: Any, others: Mapping[frozenset[str], Schema]) -> Any:
    """Where one of several parts is asked for, its bare name will do.

    ``others`` are references to other packages' parts, by the names of ours of that kind.
    """
    if isinstance(node, list):
        return [_names_or_mappings(item, others) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _names_or_mappings(item, others) for key, item in node.items()}
    if "discriminator" in node and "oneOf" in node:
        names = list(node.pop("discriminator")["mapping"])
        more = others.get(frozenset(names))
        node["anyOf"] = [{"enum": [*names, *(more or {})]}, *node.pop("oneOf")]
        if more is not None:
            node["anyOf"] += [{"type": "string", "pattern": IMPORT_PATH}, *more.values()]
            node["anyOf"].append(_imported("name"))
    return node
