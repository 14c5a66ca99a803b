"""The only place that knows YAML: a config file becomes the runs it asks for."""

from lora_cl.config.model import Config
from lora_cl.config.reading import load_config, parse_config
from lora_cl.config.runs import Experiment, RunConfig
from lora_cl.config.schema import config_schema

__all__ = ["Config", "Experiment", "RunConfig", "config_schema", "load_config", "parse_config"]
