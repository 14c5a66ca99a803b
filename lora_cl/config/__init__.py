"""The only place that knows YAML: a config file becomes the runs it asks for."""

from lora_cl.config.model import Config, config_schema
from lora_cl.config.reading import load_config, parse_config
from lora_cl.config.runs import Experiment, RunConfig

__all__ = ["Config", "Experiment", "RunConfig", "config_schema", "load_config", "parse_config"]
