"""One optimisation step of `MMETForPreTraining` against transformers' `FlavaForPreTraining`, in time and memory.

Both models have the same widths, depths, batch, text length and word vocabulary, and compute the paired objectives:
masked image and text modelling on the multimodal encoder, image-text matching and the global contrastive loss. All
else is each model's default: MMET reads 256x128 crops (210 overlapping patches), ties its word embeddings and has a
k-means codebook of 1,024 codes; FLAVA reads 224x224 pictures (196 patches), ties nothing and asks its codebook network
for one of 8,192 codes. Weights and inputs are random: neither changes the work.

Every measurement is a process of its own, so that peak memory belongs to one model; the two take turns, so that a
drift of the machine's speed meets both. Ratios are taken turn by turn and their median is printed.

    python benchmarks/pretraining_step.py
    python benchmarks/pretraining_step.py --profile    # where the time of both goes
    python benchmarks/pretraining_step.py --costs      # what padding, unused losses and absent modalities cost
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configuration_mmet import MMETConfig
from modeling_mmet import LOSS_NAMES, MMETForPreTraining

VOCAB_SIZE = 30_522
NUM_CODES = 8_192
MASKED_SHARE = 0.15
MASK_TOKEN_ID = 103
FLAVA_PATCHES = 196


def encoder_sizes(arguments: argparse.Namespace) -> dict[str, int]:
    """Width and depth, the same for all encoders of both models."""
    return {
        "hidden_size": arguments.hidden_size,
        "num_hidden_layers": arguments.num_layers,
        "num_attention_heads": arguments.hidden_size // 64,
        "intermediate_size": 4 * arguments.hidden_size,
    }


def build_mmet(arguments: argparse.Namespace) -> PreTrainedModel:
    """MMET with its default geometry and codebook."""
    sizes = encoder_sizes(arguments)
    config = MMETConfig(
        image_config=sizes,
        text_config={**sizes, "vocab_size": VOCAB_SIZE},
        multimodal_config=sizes,
        projection_dim=arguments.hidden_size,
    )
    model = MMETForPreTraining(config)
    torch.nn.init.normal_(model.get_buffer("image_codebook.centroids"))
    return model


def build_flava(arguments: argparse.Namespace) -> PreTrainedModel:
    """transformers' FLAVA with its full-size codebook network."""
    from transformers import FlavaConfig, FlavaForPreTraining

    sizes = encoder_sizes(arguments)
    config = FlavaConfig(
        image_config={**sizes, "vocab_size": NUM_CODES},
        text_config={**sizes, "vocab_size": VOCAB_SIZE},
        multimodal_config=sizes,
        hidden_size=arguments.hidden_size,
        projection_dim=arguments.hidden_size,
    )
    return FlavaForPreTraining._from_config(config, attn_implementation=arguments.flava_attention)


def masked_positions(batch_size: int, length: int) -> torch.Tensor:
    """`(batch_size, length)` booleans, the same number of True in every row."""
    scores = torch.rand(batch_size, length)
    return scores.argsort(dim=1).argsort(dim=1) < round(MASKED_SHARE * length)


def text_inputs(arguments: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Captions that fill the whole length, 15 % of their tokens masked; half of the pairs mismatched."""
    size = (arguments.batch_size, arguments.text_length)
    input_ids = torch.randint(1000, VOCAB_SIZE, size)
    masked = masked_positions(*size)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "input_ids_masked": input_ids.masked_fill(masked, MASK_TOKEN_ID),
        "mlm_labels": input_ids.masked_fill(~masked, -100),
        "itm_labels": torch.arange(arguments.batch_size) % 2,
    }


def mmet_inputs(arguments: argparse.Namespace, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A paired batch of MMET."""
    image_config = model.config.image_config
    return text_inputs(arguments) | {
        "pixel_values": torch.randn(arguments.batch_size, 3, *image_config.image_size),
        "bool_masked_pos": masked_positions(arguments.batch_size, image_config.num_patches),
    }


def flava_inputs(arguments: argparse.Namespace, model: PreTrainedModel) -> dict[str, Any]:
    """A paired batch of FLAVA."""
    masked = masked_positions(arguments.batch_size, FLAVA_PATCHES)
    return text_inputs(arguments) | {
        "pixel_values": torch.randn(arguments.batch_size, 3, 224, 224),
        "codebook_pixel_values": torch.rand(arguments.batch_size, 3, 112, 112),
        "bool_masked_pos": masked.view(arguments.batch_size, 14, 14),
        "return_loss": True,
    }


SYSTEMS = {"mmet": (build_mmet, mmet_inputs), "flava": (build_flava, flava_inputs)}


def prepare_step(arguments: argparse.Namespace, system: str) -> Callable[[], None]:
    """One optimisation step: forward, backward, AdamW."""
    torch.manual_seed(0)
    build, make_inputs = SYSTEMS[system]
    model = build(arguments).to(arguments.device).train()
    inputs = {
        name: value.to(arguments.device) if isinstance(value, torch.Tensor) else value
        for name, value in make_inputs(arguments, model).items()
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(arguments.device, dtype=torch.bfloat16, enabled=arguments.bf16):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if arguments.device == "cuda":
            torch.cuda.synchronize()

    return step


def measure(arguments: argparse.Namespace, system: str) -> dict[str, float]:
    """Median seconds of a step, the process's peak memory, and that without imports, in MiB."""
    imported = peak_mebibytes("cpu")
    step = prepare_step(arguments, system)
    step()
    seconds = []
    for _ in range(arguments.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    peak = peak_mebibytes(arguments.device)
    return {
        "seconds": statistics.median(seconds),
        "peak_mib": peak,
        "model_mib": peak if arguments.device == "cuda" else peak - imported,
    }


def peak_mebibytes(device: str) -> float:
    """Highest memory so far: of this process on CPU, of the allocator on CUDA."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure_in_process(system: str) -> dict[str, float]:
    """`measure` in a fresh process with this one's arguments."""
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", system]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def compare(arguments: argparse.Namespace) -> None:
    """Run both in turn and print a table with the ratios."""
    turns: dict[str, list[dict[str, float]]] = {system: [] for system in SYSTEMS}
    for turn in range(arguments.turns):
        for system, results in turns.items():
            results.append(measure_in_process(system))
            print(f"turn {turn + 1}: {system} {results[-1]}", file=sys.stderr)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(arguments)}\n")
    print("| figure | MMET | FLAVA | FLAVA / MMET | MMET / FLAVA |\n| --- | ---: | ---: | ---: | ---: |")
    for figure, label in (
        ("seconds", "seconds a step"),
        ("peak_mib", "peak memory of the process, MiB"),
        ("model_mib", "peak memory beyond imports, MiB"),
    ):
        ours, theirs = ([result[figure] for result in turns[system]] for system in ("mmet", "flava"))
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(
            f"| {label} | {statistics.median(ours):.2f} | {statistics.median(theirs):.2f} "
            f"| {1 / ratio:.2f} | {ratio:.2f} |"
        )


OPERATORS = {
    "linear layers": ("mm", "addmm"),
    "attention": ("_scaled_dot_product", "bmm", "baddbmm", "_softmax", "softmax"),
    "convolutions and their pooling and ReLU": (
        "mkldnn_convolution",
        "convolution",
        "max_pool2d",
        "clamp_min",
        "relu",
    ),
    "norms and activations": ("native_layer_norm", "gelu", "tanh"),
    "optimizer": ("_fused_adamw",),
}
"""Parts of a step and how the names of their operators begin, behind `aten::`."""


def part_of_step(operator: str) -> str:
    """The part of a step that an operator of the profile belongs to."""
    name = operator.removeprefix("aten::")
    for part, beginnings in OPERATORS.items():
        if name in beginnings or name.startswith(tuple(f"{beginning}_" for beginning in beginnings)):
            return part
    return "copies, sums, embeddings, losses and the rest"


def profile(arguments: argparse.Namespace, system: str) -> dict[str, float]:
    """Seconds of processor time that each part takes of one step."""
    step = prepare_step(arguments, system)
    step()
    with torch.profiler.profile() as profiler:
        step()
        step()
    seconds: dict[str, float] = {}
    for event in profiler.key_averages():
        part = part_of_step(event.key)
        seconds[part] = seconds.get(part, 0.0) + event.self_cpu_time_total / 2e6
    return seconds


def compare_profiles(arguments: argparse.Namespace) -> None:
    """Print each part's share of either step."""
    seconds = {system: profile(arguments, system) for system in SYSTEMS}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(arguments)}\n")
    print("| part of a step | MMET | FLAVA |\n| --- | ---: | ---: |")
    totals = {system: sum(parts.values()) for system, parts in seconds.items()}
    for part in sorted(seconds["mmet"] | seconds["flava"], key=lambda part: -seconds["mmet"].get(part, 0.0)):
        shares = (f"{seconds[system].get(part, 0.0) / totals[system]:.0%}" for system in SYSTEMS)
        print(f"| {part} | {' | '.join(shares)} |")


def pad_captions(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The captions padded to twice their length."""
    fills = {"input_ids": 0, "attention_mask": 0, "input_ids_masked": 0, "mlm_labels": -100}
    return batch | {
        name: torch.nn.functional.pad(batch[name], (0, batch[name].shape[1]), value=fill)
        for name, fill in fills.items()
    }


def cost_variants(
    arguments: argparse.Namespace, model: MMETForPreTraining
) -> dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, float]]]:
    """What should cost nothing: a batch with it, the batch without it, and loss weights for both."""
    batch: dict[str, Any] = mmet_inputs(arguments, model)
    labels = {"person_labels": torch.arange(arguments.batch_size) // 2}
    nobody = torch.zeros(arguments.batch_size, dtype=torch.bool)
    clean = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    images = {"pixel_values": batch["pixel_values"]} | labels
    unused = {f"{name}_weight": 0.0 for name in ("mmm_image", "mmm_text", "itm")}
    return {
        "captions padded to twice their length": (pad_captions(batch), batch, {}),
        "inputs of losses of weight 0 (L_MMM, L_ITM)": (batch, clean, unused),
        "captions that no sample has": (clean | labels | {"text_present": nobody}, images, {}),
        "images that no sample has": (
            clean | labels | {"image_present": nobody},
            {name: value for name, value in (clean | labels).items() if name != "pixel_values"},
            {},
        ),
    }


def compare_costs(arguments: argparse.Namespace) -> None:
    """Print how much longer a step (forward, backward) takes with what should cost nothing."""
    torch.manual_seed(0)
    model: Any = build_mmet(arguments).train()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(arguments)}\n")
    print("| what should cost nothing | s with | s without | with / without |\n| --- | ---: | ---: | ---: |")
    for name, (with_it, without, weights) in cost_variants(arguments, model).items():
        model.config.update({f"{loss}_weight": 1.0 for loss in LOSS_NAMES} | weights)
        seconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(arguments.turns * arguments.steps + 1):
            for times, inputs in zip(seconds, (with_it, without), strict=True):
                start = time.perf_counter()
                model(**inputs).loss.backward()
                model.zero_grad()
                if turn:  # the first warms up
                    times.append(time.perf_counter() - start)
        ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
        print(f"| {name} | {statistics.median(seconds[0]):.2f} | {statistics.median(seconds[1]):.2f} | {ratio:.2f} |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden_size", type=int, default=384, help="width of all encoders, a multiple of 64")
    parser.add_argument("--num_layers", type=int, default=6, help="layers of each of the three encoders")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--text_length", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a turn, after one that is not timed")
    parser.add_argument("--turns", type=int, default=3, help="how often the two take turns")
    parser.add_argument(
        "--flava_attention", choices=("eager", "sdpa"), default=None, help="default: transformers' own"
    )
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--profile", action="store_true", help="instead: where the time of either step goes")
    parser.add_argument(
        "--costs", action="store_true", help="instead: what should cost MMET nothing, and what it costs"
    )
    parser.add_argument("--measure", choices=tuple(SYSTEMS), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.measure:
        print(json.dumps(measure(arguments, arguments.measure)))
    elif arguments.profile:
        compare_profiles(arguments)
    elif arguments.costs:
        compare_costs(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
