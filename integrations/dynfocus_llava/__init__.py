"""Connectors in LLaVA-style code bases: LLaVA-NeXT and LLaMA-VID. Neither is imported."""

from dynfocus_llava.llama_vid import LlamaVidMixin as LlamaVidMixin
from dynfocus_llava.llava_next import LlavaNextMixin as LlavaNextMixin
from dynfocus_llava.settings import Settings as Settings
from dynfocus_llava.slot import VideoReport as VideoReport
