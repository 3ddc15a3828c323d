"""The reference model's verbs of the command `dynfocus`; nothing heavy is imported before one runs."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any

PRESET_NAMES = ("paper-7b", "small", "tiny")


def _later(module: str) -> Callable[[argparse.Namespace], int]:
    """`run` of a module, imported when it is called."""
    return lambda arguments: importlib.import_module(f"dynfocus_reference.{module}").run(arguments)


def add_model_info(subparsers: Any) -> None:
    """`dynfocus model-info`."""
    parser = subparsers.add_parser("model-info", help="parts, parameters and memory of the reference model")
    parser.add_argument("model", help=f"{', '.join(PRESET_NAMES)}, or a model folder")
    parser.add_argument("--gpus", type=int, default=8, help="how many GPUs share the model states (default 8)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_later("model_info"))


def add_convert_weights(subparsers: Any) -> None:
    """`dynfocus convert-weights`."""
    parser = subparsers.add_parser("convert-weights", help="published weights of every part into one model folder")
    parser.add_argument("output", help="an empty or new folder")
    parser.add_argument("--preset", default="paper-7b", choices=PRESET_NAMES)
    parser.add_argument("--vision", required=True, help="eva_vit_g.pth, a .safetensors file, or timm:NAME.TAG")
    parser.add_argument("--qformer", required=True, help="LAVIS .pth, or an InstructBLIP folder or repository")
    parser.add_argument("--qformer-tokenizer", default="google-bert/bert-base-uncased", help="folder or repository")
    parser.add_argument("--language-model", required=True, help="folder or repository of a causal language model")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--seed", type=int, default=0, help="draws the connector's weights")
    parser.set_defaults(run=_later("convert"))


def add_check_data(subparsers: Any) -> None:
    """`dynfocus check-data`."""
    parser = subparsers.add_parser("check-data", help="read a whole training set before a run does")
    parser.add_argument("file", help=".json or .jsonl in LLaVA format")
    parser.add_argument("--root", default=".", help="folder below which images and videos lie")
    parser.add_argument("--model", help="a model folder: its tokenizer measures samples, over-long ones are bad")
    parser.add_argument("--max-length", type=int, default=2048, help="with --model, in text tokens (default 2048)")
    parser.add_argument("--template", default="vicuna_v1", choices=("vicuna_v1", "plain"), help="with --model")
    parser.add_argument("--workers", type=int, default=4, help="threads that decode (default 4)")
    parser.add_argument("--write", help="write the good samples here (.jsonl), each video with its duration")
    parser.set_defaults(run=_later("data.check"))


def extract_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The arguments of `dynfocus extract-features`, for launchers too."""
    parser.add_argument("set", help="a run (.yaml file or name such as stage2), or a data file (.json or .jsonl)")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to the run, as in `dynfocus train`")
    parser.add_argument("--output", help="folder of features; data.features of the run where not given")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--shard", default="0/1", help="which share of the files, such as 0/8")
    parser.add_argument("--device", help="such as cuda:1 (default: the process's own GPU, where there is one)")
    parser.add_argument("--workers", type=int, default=8, help="processes that decode (default 8)")
    only = parser.add_argument_group("with a data file")
    only.add_argument("--model", help="a model folder")
    only.add_argument("--root", default=".", help="folder below which images and videos lie")
    only.add_argument("--fps", type=float, default=1.0, help="frames per second (default 1)")
    only.add_argument("--max-frames", type=int, default=200, help="sample longer videos evenly (default 200)")
    return parser


def add_extract_features(subparsers: Any) -> None:
    """`dynfocus extract-features`."""
    parser = subparsers.add_parser("extract-features", help="the frozen tower's tokens of a whole set, for training")
    extract_arguments(parser).set_defaults(run=_later("extract"))


def add_convert_data(subparsers: Any) -> None:
    """`dynfocus convert-data`."""
    sets = ("llava-cc3m", "webvid-captions", "llava-665k", "scienceqa", "videochatgpt-100k", "webvid-qa", "next-qa",
            "clevrer")  # fmt: skip
    parser = subparsers.add_parser("convert-data", help="a training set of the paper into LLaVA format")
    parser.add_argument("set", choices=sets)
    parser.add_argument("input", help="the annotation file as its authors publish it")
    parser.add_argument("output", help="a .jsonl file")
    parser.set_defaults(run=_later("data.converters"))


def train_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The arguments of `dynfocus train`, for launchers too."""
    parser.add_argument("config", help="a .yaml file, or a named run such as stage1")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes to the file, such as output=DIR")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained, and stop")
    parser.add_argument("--gpus", type=int, default=8, help="for --dry-run (default 8)")
    return parser


def add_train(subparsers: Any) -> None:
    """`dynfocus train`."""
    parser = subparsers.add_parser("train", help="train one stage of the reference model")
    train_arguments(parser).set_defaults(run=_later("train"))


def add_probe(subparsers: Any) -> None:
    """`dynfocus probe`."""
    parser = subparsers.add_parser("probe", help="what a trained stage loses when it is shown other videos")
    parser.add_argument("config", help="a .yaml file, or a named run such as stage1")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="such as init_from_stage1=DIR carry=all")
    parser.add_argument("--samples", type=int, default=64, help="how many (default 64)")
    parser.add_argument("--device", help="default cuda where there is one")
    parser.set_defaults(run=_later("training.probe"))


def add_export_connector(subparsers: Any) -> None:
    """`dynfocus export-connector`."""
    parser = subparsers.add_parser("export-connector", help="the trained connector alone, as a folder")
    parser.add_argument("checkpoint", help="a model folder, the output of a run, or one of its checkpoints")
    parser.add_argument("output", help="an empty or new folder, for DynFocusConnector.from_pretrained")
    parser.set_defaults(run=_later("training.export"))


def add_chat(subparsers: Any) -> None:
    """`dynfocus chat`."""
    parser = subparsers.add_parser("chat", help="talk about a video with a trained reference model")
    parser.add_argument(
        "--model", required=True, help="a model folder, or planted: the small one that comes with the project"
    )
    parser.add_argument("--video", required=True, help="a video or image file")
    parser.add_argument("--question", help="one question; without it, questions are read line by line")
    parser.add_argument("--fps", type=float, default=1.0, help="frames per second (default 1)")
    parser.add_argument("--max-frames", type=int, default=200, help="sample longer videos evenly (default 200)")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--report", help="write the page of `dynfocus compress` here")
    parser.set_defaults(run=_later("chat"))


def add_cost(subparsers: Any) -> None:
    """`dynfocus cost`."""
    parser = subparsers.add_parser("cost", help="time, tokens and memory with and without DPE and CCE")
    parser.add_argument("--model", choices=PRESET_NAMES, help="default paper-7b on a GPU, tiny on a CPU")
    parser.add_argument("--device", help="default cuda where there is one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default bfloat16 on a GPU")
    parser.add_argument("--frames", type=int, nargs="+", default=[32, 100, 200, 1000], help="lengths of the videos")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many counts (default 3)")
    parser.add_argument("--max-tokens", type=int, help="leave out rows of more visual tokens")
    parser.add_argument("--out", default="docs/results/cost.md", help="the page (default docs/results/cost.md)")
    parser.set_defaults(run=_later("cost.table"))
