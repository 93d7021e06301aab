"""Export edited models in forms that other tools load; each names the entry it was made from."""

from lifelong_edit.export.delta import export_delta
from lifelong_edit.export.hf import export_hf
from lifelong_edit.export.jsonl import export_jsonl
from lifelong_edit.export.peft import export_peft

__all__ = ["export_delta", "export_hf", "export_jsonl", "export_peft"]
