"""The experiment: trains, evaluates and tabulates what the LoRA-FA paper reports."""
