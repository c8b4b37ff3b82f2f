"""The model card of a run's weights, `model/README.md`: what a stranger has to know, from the run's record."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from pipeline import files
from pipeline.config.metrics import METRICS
from pipeline.results import records

GIB = 2**30


def write(directory: Path, record: records.Record) -> None:
    """Writes the card beside a run's weights, where it has saved any; PEFT's own names a folder as the base model."""
    folder = directory / records.SAVED_MODEL
    if folder.is_dir():
        files.write_text(folder / "README.md", card(record))


def card(record: records.Record) -> str:
    """Returns the card in Markdown, with the metadata that the hub reads.

    Args:
        record: The run's `metrics.json`.
    """
    run, info, meta = record.run_info, record.train_info, record.meta_info
    config, model, data = run.config, meta.model, meta.data
    assert model is not None and data is not None, "what was trained has read a model and data"
    rows = {
        "method": f"{config['method']['label']}{_adapters(config)}",
        "base model": f"{model.repository} ({model.read})",
        "data": f"{config['task']['label']}, {data.repository} ({data.read})",
        "score": _score(info, config["seed"]),
        "trained parameters": f"{info.trainable_parameters:,}",
        "memory": _memory(info.step_memory_bytes),
        "command": f"`{run.command}`",
        "code": f"commit {run.git_commit or 'unknown'}{', with changes' * run.git_dirty}",
        "versions": ", ".join(f"{name} {version}" for name, version in meta.packages.items() if version),
        "licences": f"base model: {_licence(model)}; data: {_licence(data)}",
    }
    title = f"{config['method']['label']}: {model.repository} on {config['task']['label']}"
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])
    stand_ins = [f"> A stand-in: {part.stand_in}." for part in (model, data) if part.stand_in]
    return "\n\n".join([f"---\n{_metadata(record).to_yaml()}\n---", f"# {title}", *stand_ins, table]) + "\n"


def _metadata(record: records.Record) -> ModelCardData:
    run, info, meta = record.run_info, record.train_info, record.meta_info
    config, best = run.config, info.best
    model, data = (material.repository for material in meta.materials[:2])
    adapters = config["method"]["kind"] in ("lora", "lora-fa", "prompt-tuning")
    score = {
        "task_type": config["task"]["kind"],
        "dataset_type": data,
        "dataset_name": config["task"]["label"],
        "metric_type": info.metric,
    }
    return ModelCardData(
        base_model=model,
        datasets=[data],
        library_name="peft" if adapters else "transformers",
        tags=[config["method"]["name"]],
        model_name=f"{config['model']['name']}-{config['method']['name']}-{config['task']['name']}",
        eval_results=[EvalResult(**score, metric_value=best.score)] if best else None,
    )


def _adapters(config: dict[str, Any]) -> str:
    return f", rank {config['rank']}, α {config['alpha']:g}" if config["rank"] is not None else ""


def _licence(source: records.Material) -> str:
    packages = source.about.get("packages", {}).values()
    known = {package["licence"] for package in packages if package.get("licence")}
    return ", ".join(sorted(known)) or f"as https://huggingface.co/{source.repository} states"


def _memory(kept: int | None) -> str:
    return "not measured" if kept is None else f"{kept / GIB:.2f} GiB of tensors that a step keeps"


def _score(info: records.TrainInfo, seed: int) -> str:
    if info.best is None or info.best.score is None:
        return info.status.replace("_", " ")
    metric = METRICS[info.metric]
    points = f"{metric.points(info.best.score):.{metric.digits}f}"
    return f"{metric.label} {points} on the validation data, seed {seed}"
