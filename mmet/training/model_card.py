"""The model card of a run: the model, its training data, its metrics and its limits.

card = build_model_card(result, name="mmet-small")     # a huggingface_hub ModelCard
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

_METRIC_TITLES = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10"}


def build_model_card(result: Mapping[str, Any], *, name: str) -> ModelCard:
    """The card of a trained model, from what `training_result` says."""
    metadata = ModelCardData(
        language="en",
        license="other",
        license_name="terms-of-the-training-data",
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["mmet", "person-re-identification", "text-based-person-retrieval", "image-text-retrieval"],
        model_name=name,
        eval_results=_eval_results(result["metrics"]) or None,
    )
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{_text(result, name)}")


def _eval_results(metrics: Mapping[str, float]) -> list[EvalResult]:
    """The metrics of each search as the Hub shows them, in percent."""
    results = []
    for key, value in metrics.items():
        parts = _split_metric(key)
        if parts is not None:
            data, search, metric = parts
            results.append(
                EvalResult(
                    task_type="image-feature-extraction",
                    task_name=f"person retrieval, {search}",
                    dataset_type=data,
                    dataset_name=data.replace("_", " "),
                    dataset_config=search,
                    metric_type=metric,
                    metric_name=_METRIC_TITLES[metric],
                    metric_value=round(100 * value, 2),
                )
            )
    return results


def _split_metric(key: str) -> tuple[str, str, str] | None:
    """`eval_validation_finegpr_text_to_image_mAP` as (data, search, metric); None for other entries."""
    head, _, metric = key.rpartition("_")
    for query in ("image", "text"):
        marker = f"_{query}_to_image"
        if metric in _METRIC_TITLES and head.endswith(marker):
            return head.removeprefix("eval_").removesuffix(marker), f"{query} to image", metric
    return None


def _text(result: Mapping[str, Any], name: str) -> str:
    synthetic = any(data["synthetic"] for data in result["data"])
    warning = (
        "\n**Trained on synthetic people, who do not exist: no figure here is a result on a real dataset.**\n"
        if synthetic
        else ""
    )
    return f"""# {name}

An MMET model: it embeds person crops, sentences about persons, or both, into one space in which all three can be
compared. It is made for finding a person in images from cameras that the model has never seen. The method is "Learning
Robust Visual-Semantic Embedding for Generalizable Person Re-identification" (Xiang et al., 2023).
{warning}
## Use

```python
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{name}", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
with torch.no_grad():
    by_image = model(**processor(images=[Image.open("crop.jpg")], return_tensors="pt")).embeddings
    by_text = model(**processor(text=["a woman in a red jacket"], return_tensors="pt")).embeddings
```

Embeddings of images, sentences or both have {result["embedding_size"]} numbers and unit length; compare them by inner
product. {_identity_note(result)}`AutoModelForPreTraining` returns the model with its pretraining heads
({result["num_parameters"] / 1e6:,.1f} million parameters). With the `mmet` package installed,
`trust_remote_code` is not needed.

Other libraries, each with `trust_remote_code=True`:

- `pipeline("image-feature-extraction", model="{name}", pool=True)` and `pipeline("feature-extraction", ...)`
  (sentences, images, or `{{"image": ..., "text": ...}}`) return the same embeddings.
- `pipeline("person-search", ..., gallery="crops")` returns the best matches in a folder of crops.
- `SentenceTransformer("{name}")` encodes all three kinds of input.

## Training data

{_data_table(result["data"])}

{_held_out(result)}{_skipped(result["skipped_images"])}

**Licence.** The weights derive from these datasets, so the terms in the table hold for the model as well. Many allow
research only.

## Objectives and training

{_loss_table(result)}

{_training_lines(result["training"])}

## Metrics

{_metric_table(result["metrics"])}

{_selection_line(result)}

## Intended use

Searching footage for a person by a picture, a sentence, or both, where a human looks at every answer; research on
such searches. Not intended: identifying people by name, decisions about a person without a human, and searching for
people without their consent where the law demands it.

## Limits, risks and bias

- A match is a hint, never proof. Scores are similarities, not probabilities; people in similar clothes are confused.
- Matches depend mostly on clothes and carried things: the same person on another day may not be found.
- The model works best for people, places and cameras like those in its training data. Accuracy differs between groups
  of people, and was not measured by group.
- The model understands only English, and only words like those in the captions of its training data.
- Identify people only where the law and their consent allow it.

Made with {", ".join(f"{package} {version}" for package, version in result["versions"].items())}.
"""


def _identity_note(result: Mapping[str, Any]) -> str:
    """A warning about the embeddings if no identity loss was trained."""
    if result["identity_head_trained"]:
        return ""
    return (
        "No identity loss was trained: embeddings are the class token of masked pretraining, which was not trained to "
        "tell persons apart. "
    )


def _data_table(data: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| dataset | used as | images | persons | captions | terms |", "| --- | --- | ---: | ---: | ---: | --- |"]
    for source in data:
        title = f"{source['title']} (synthetic world in its layout)" if source["synthetic"] else source["title"]
        terms = "drawn by this project" if source["synthetic"] else source["licence"]
        counts = " | ".join(f"{source[field]:,}" for field in ("images", "persons", "captions"))
        lines.append(f"| {title} | {', '.join(source['uses'])} | {counts} | {terms} |")
    return "\n".join(lines)


def _held_out(result: Mapping[str, Any]) -> str:
    held = {source["name"]: source["held_out_persons"] for source in result["data"] if source["held_out_persons"]}
    if not held:
        return "No person was held out for validation."
    shown = ", ".join(f"{count} of {name}" for name, count in held.items())
    return f"Held out for validation (counted above, but in no training batch): {shown} persons."


def _skipped(skipped: Mapping[str, Any]) -> str:
    if not skipped["num_images"]:
        return ""
    return f" {skipped['num_images']} pictures could not be read and were replaced (`skipped_images.json`)."


def _loss_table(result: Mapping[str, Any]) -> str:
    lines = ["| loss | weight | last logged |", "| --- | ---: | ---: |"]
    for name, weight in result["loss_weights"].items():
        value = result["last_logged"].get(f"{name}_loss")
        lines.append(f"| {name} | {weight:g} | {'not trained' if value is None else f'{value:.3f}'} |")
    others = {name: value for name, value in result["last_logged"].items() if not name.endswith("_loss")}
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in others.items())
    return "\n".join(lines) + (f"\n\nOn the training batches: {shown}." if shown else "")


def _training_lines(training: Mapping[str, Any]) -> str:
    mix = ", ".join(f"{kind} {share:g}" for kind, share in training["batch_mix"].items())
    changing = ", ".join(f"{name} {_factors(points)}" for name, points in training["loss_schedule"].items())
    schedule = f"factors of loss weights over the run: {changing}; " if changing else ""
    return (
        f"{training['steps']:,} steps of {training['global_batch_size']} examples; batches mixed as {mix}; {schedule}"
        f"{training['image_masking']} masking of {training['mask_ratio']:.0%} of the patches; {training['optimizer']} "
        f"at {training['learning_rate']:g} ({training['lr_scheduler_type']}), weight decay "
        f"{training['weight_decay']:g}; {'bfloat16' if training['bf16'] else 'float32'}; seed {training['seed']}."
    )


def _factors(points: Sequence[Sequence[float]]) -> str:
    """The factors of a loss weight in the order of the schedule's points."""
    return " to ".join(f"{factor:g}" for _, factor in points)


def _metric_table(metrics: Mapping[str, float]) -> str:
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for key, value in metrics.items():
        parts = _split_metric(key)
        if parts is not None:
            rows.setdefault(parts[:2], {})[parts[2]] = value
    if not rows:
        return "Not evaluated during training."
    lines = [f"| data | search | {' | '.join(_METRIC_TITLES.values())} |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for (data, search), values in rows.items():
        cells = " | ".join(f"{100 * values[metric]:.1f}" for metric in _METRIC_TITLES)
        lines.append(f"| {data} | {search} | {cells} |")
    return "\n".join(lines)


def _selection_line(result: Mapping[str, Any]) -> str:
    selection = result["checkpoint_selection"]
    described = "".join(f"\n- `{name}`: {text}" for name, text in result["evaluated_on"].items())
    return f"Step {selection['step']:,}: {selection['explanation']}.{chr(10) if described else ''}{described}"
