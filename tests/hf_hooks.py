"""Plain Hugging Face generation with plain hooks, in a process of its own: building a bridge patches attention there.

Reads JSON from standard input: the model's folder (and `gguf_file`), and cases, each of prompts, vectors by layer and
what is done with them.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch
import transformers as hf


def change(asked: dict[str, Any], x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    r = v / v.norm()
    added = asked["operation"] == "add"
    changed: torch.Tensor = x + asked["coefficient"] * v if added else x - (x @ r)[..., None] * r
    return changed


@torch.no_grad()
def greedy(model: Any, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """By prompt, the tokens, and the five largest logits of each step."""
    length = start = 0

    def hooked(v: torch.Tensor) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            x = (args[0] if args else kwargs["hidden_states"]).clone()
            for i in range(x.shape[1]):
                place = start + i
                wanted = {"prompt": 1 <= place < length, "generation": place >= length, "both": place >= 1}
                if wanted[asked["during"]]:
                    x[:, i] = change(asked, x[:, i], v)
            return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

        return hook

    blocks = model.model.layers if hasattr(model, "model") else model.transformer.h
    handles = [
        blocks[int(layer)].register_forward_pre_hook(hooked(torch.tensor(values)), with_kwargs=True)
        for layer, values in asked["vectors"].items()
    ]
    found = []
    for prompt in asked["prompts"]:
        length, start, past, ids = len(prompt), 0, None, list(prompt)
        top: list[list[float]] = []
        for _ in range(asked["tokens"]):
            out = model(input_ids=torch.tensor([ids[start:]]), past_key_values=past, use_cache=True)
            past, start = out.past_key_values, len(ids)
            top.append(out.logits[0, -1].topk(5).values.tolist())
            ids.append(int(out.logits[0, -1].argmax()))
        found.append({"tokens": ids[length:], "top": top})
    for handle in handles:
        handle.remove()
    return found


def plainly(cases: Sequence[dict[str, Any]], **model: str) -> list[list[dict[str, Any]]]:
    """By case and prompt, what a process of its own finds.

    Args:
        model: `model`, a folder; `gguf_file` in it.
    """
    asked = json.dumps({**model, "cases": cases})
    done = subprocess.run([sys.executable, __file__], input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return found


def main() -> None:
    asked = json.load(sys.stdin)
    options = {"gguf_file": asked["gguf_file"]} if asked.get("gguf_file") else {}
    model: Any = hf.AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32, **options)
    json.dump([greedy(model.eval(), case) for case in asked["cases"]], sys.stdout)


if __name__ == "__main__":
    main()
