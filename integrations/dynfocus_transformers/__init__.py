"""Connectors in the video language models of Hugging Face transformers."""

from dynfocus_transformers import hosts as hosts
from dynfocus_transformers.adapters import HostAdapter as HostAdapter
from dynfocus_transformers.adapters import Visual as Visual
from dynfocus_transformers.adapters import adapter_for as adapter_for
from dynfocus_transformers.adapters import register_host as register_host
from dynfocus_transformers.attach import attach as attach
from dynfocus_transformers.attach import detach as detach
from dynfocus_transformers.composite import DynFocusForConditionalGeneration as DynFocusForConditionalGeneration
from dynfocus_transformers.composite import DynFocusModelConfig as DynFocusModelConfig
from dynfocus_transformers.compress import compress_batch as compress_batch
from dynfocus_transformers.pruner import TemporalPruner as TemporalPruner
from dynfocus_transformers.report import VideoReport as VideoReport
from dynfocus_transformers.settings import Settings as Settings
from dynfocus_transformers.training import set_trainable as set_trainable
