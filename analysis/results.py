"""`Result`: what every analysis returns and every page is made from: tidy frames and a manifest.

A saved result is a folder: one parquet file a frame, `manifest.json` with the checksum of each.
Files are written beside and renamed, the manifest last, so a folder with a manifest is whole.
No torch in here: a result is read and drawn where no model is.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from .errors import DamagedRun, OutputExists

FORMAT = 1
MANIFEST = "manifest.json"

# Every column of every frame, by kind of result: its meaning, and its unit ("" for none).
# `{metric}` stands for the unit of the metric that the result was measured in.
COLUMNS: dict[str, dict[str, dict[str, tuple[str, str]]]] = {
    "localize": {
        "effects": {
            "node": ("head (L5H3) or MLP (L5M)", ""),
            "layer": ("layer of the node", ""),
            "head": ("head within the layer; missing for an MLP", ""),
            "kind": ("head or mlp", ""),
            "measure": (
                "necessity: effect lost when the node is set to its clean value in the steered run; "
                "sufficiency: effect that appears when only this node is set to its steered value in the clean run",
                "",
            ),
            "effect": (
                "mean over prompts, signed; negative works against the total effect",
                "{metric}",
            ),
            "low": ("lower end of the interval over prompts", "{metric}"),
            "high": ("upper end of the interval over prompts", "{metric}"),
            "share": ("effect over the total effect; shares of different layers do not add up", ""),
            "control": (
                "mean of the same measure for random vectors of equal norm, along the same metric",
                "{metric}",
            ),
            "control_low": (
                "lower end of the band of the controls (2.5th percentile over vectors)",
                "{metric}",
            ),
            "control_high": (
                "upper end of the band of the controls (97.5th percentile over vectors)",
                "{metric}",
            ),
            "p": (
                "sign-flip tests over prompts: the effect differs from zero and goes beyond the mean control in the "
                "same direction (the larger of the two p-values, two-sided)",
                "",
            ),
            "p_adjusted": ("p after Benjamini-Hochberg over nodes", ""),
            "p_holm": ("p after Holm over nodes, for claims in words", ""),
            "own_share": ("share of the vector's own logit change that the node carries", ""),
            "own_control": (
                "the same share for random vectors, each along its own logit change; mean",
                "",
            ),
            "own_control_low": ("2.5th percentile of that share over the random vectors", ""),
            "own_control_high": ("97.5th percentile of that share over the random vectors", ""),
            "p_own": (
                "sign-flip test over prompts of own share minus the controls' mean own share",
                "",
            ),
            "p_own_adjusted": ("p_own after Benjamini-Hochberg over nodes", ""),
            "significant": ("p_adjusted below the manifest's alpha", ""),
            "reach": (
                "specific: carries this vector more than it carries random ones; "
                "general: carries whatever is put there; none: not significant",
                "",
            ),
            "wrong_way": ("share of prompts whose effect has the opposite sign of the mean", ""),
            "stability": (
                "share of bootstrap resamples of the prompts in which the node is significant",
                "",
            ),
        },
        "per_prompt": {
            "prompt": ("index of the prompt", ""),
            "node": ("head or MLP", ""),
            "measure": ("necessity or sufficiency", ""),
            "effect": ("effect of the node on this prompt", "{metric}"),
            "control": ("mean over the random vectors", "{metric}"),
        },
        "totals": {
            "quantity": (
                "total: steered minus clean; kl: disturbance of the steered run; "
                "carriers_necessity / carriers_sufficiency: all significant carriers patched at once; "
                "all_necessity / all_sufficiency: every node patched at once",
                "",
            ),
            "value": ("mean over prompts", "{unit}"),
            "low": ("lower end of the interval over prompts", "{unit}"),
            "high": ("upper end of the interval over prompts", "{unit}"),
            "unit": ("unit of value, low and high", ""),
            "share": ("value over the total effect (missing for total and kl)", ""),
            "share_low": ("lower end of the interval of the share", ""),
            "share_high": ("upper end of the interval of the share", ""),
            "control": ("mean of the same quantity over the random vectors", "{unit}"),
            "control_low": ("2.5th percentile over the random vectors", "{unit}"),
            "control_high": ("97.5th percentile over the random vectors", "{unit}"),
            "p": ("sign-flip test over prompts of value minus mean control", ""),
            "wrong_way": ("share of prompts with the opposite sign of the mean", ""),
        },
        "vectors": {
            "vector": ("steering for the real one, control 0, control 1, ... for random ones", ""),
            "norm": ("root of the summed squares of coefficient times vector", "stream units"),
            "coefficient": ("multiplies the vector", ""),
            "effect": ("mean effect over prompts along the metric", "{metric}"),
            "low": ("lower end of the interval over prompts", "{metric}"),
            "high": ("upper end of the interval over prompts", "{metric}"),
            "own_effect": ("mean size of the vector's own logit change", "logits"),
            "kl": (
                "disturbance: KL(steered || clean), mean over scored positions and prompts",
                "nats",
            ),
            "kl_low": ("lower end of the interval over prompts", "nats"),
            "kl_high": ("upper end of the interval over prompts", "nats"),
        },
        "prompts": {
            "prompt": ("index of the prompt", ""),
            "text": ("the prompt, as given (token ids where there is no tokenizer)", ""),
            "tokens": ("number of tokens, BOS included", ""),
            "injected": ("positions that the injection edits", ""),
            "scored": ("positions that the metric reads", ""),
            "clean": ("metric of the clean run", "{metric}"),
            "steered": ("metric of the steered run", "{metric}"),
            "effect": ("steered minus clean", "{metric}"),
            "kl": ("KL(steered || clean), mean over the scored positions", "nats"),
        },
        "positions": {
            "prompt": ("index of the prompt", ""),
            "position": ("scored position", ""),
            "token": ("token at that position", ""),
            "clean": ("metric of the clean run at this position", "{metric}"),
            "steered": ("metric of the steered run at this position", "{metric}"),
            "effect": ("steered minus clean", "{metric}"),
            "kl": ("KL(steered || clean) at this position", "nats"),
        },
        "tokens": {
            "token": ("next token, as text", ""),
            "id": ("token id", ""),
            "clean": ("probability in the clean run after the whole prompt, mean over prompts", ""),
            "steered": ("probability in the steered run, mean over prompts", ""),
            "change": ("mean of log steered minus log clean", "nats"),
            "kl": ("contribution to KL(steered || clean), mean over prompts", "nats"),
            "side": ("gain or loss", ""),
        },
        "completions": {
            "prompt": ("index of the prompt", ""),
            "text": ("the prompt", ""),
            "clean": ("completion without the injection", ""),
            "steered": ("completion with the injection, same seed", ""),
        },
    },
}


@dataclass(frozen=True)
class Result:
    """Tidy frames and a manifest.

    Attributes:
        kind: which analysis; picks the page of the report and the entry of `COLUMNS`.
        frames: tables by name, columns as in `COLUMNS[kind]`.
        manifest: everything needed to understand and repeat the run (JSON types only): model and the
            hash of its weights, vector, prompts' hash, all arguments, seed, versions, device, time,
            and `checks`, a list of {name, value, limit, passed}.
    """

    kind: str
    frames: Mapping[str, pd.DataFrame]
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Writes the result to `folder`.

        Raises:
            OutputExists: the folder holds a result already and `overwrite` is false.
        """
        folder = Path(folder)
        check_folder(folder, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        files = {}
        for name, frame in self.frames.items():
            path = folder / f"{name}.parquet"
            _write(path, lambda temporary, frame=frame: frame.to_parquet(temporary, index=False))
            files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        document = {"format": FORMAT, "kind": self.kind, "files": files, **self.manifest}
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        _write(
            folder / MANIFEST, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8")
        )
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Result":
        """Reads a saved result back whole.

        Raises:
            DamagedRun: the folder is missing, has no manifest, or a file's checksum is wrong.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise DamagedRun(
                f"no {MANIFEST} in {str(folder)!r}: expected a folder that steerscope saved; "
                "give the folder of a finished run"
            )
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            kind, files = manifest.pop("kind"), manifest.pop("files")
            version = manifest.pop("format")
        except (ValueError, KeyError) as error:
            raise DamagedRun(
                f"{str(path)!r} is not a manifest of steerscope ({error}); run the analysis again"
            ) from error
        if version > FORMAT:
            raise DamagedRun(
                f"{str(path)!r} has format {version}, this steerscope reads up to {FORMAT}; update steerscope"
            )
        return cls(
            kind,
            {name: _read(folder / f"{name}.parquet", digest) for name, digest in files.items()},
            manifest,
        )


def check_folder(folder: str | Path, overwrite: bool) -> None:
    """Refuses a folder that cannot be written to, before any work is done.

    With `overwrite` a result may be replaced; a file that is no part of one never is.

    Raises:
        OutputExists: there is a result and `overwrite` is false, or somebody else's file, or `folder` is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputExists(
            f"{str(folder)!r} is a file, expected a folder to write to; choose another name"
        )
    if (folder / MANIFEST).exists() and not overwrite:
        raise OutputExists(
            f"{str(folder)!r} holds a result already; choose another folder, or pass --overwrite (overwrite=True)"
        )
    ours = {f"{name}.parquet" for frames in COLUMNS.values() for name in frames}
    foreign = sorted(name for name in ours - _saved(folder) if (folder / name).exists())
    if foreign:
        raise OutputExists(
            f"{str(folder)!r} holds {', '.join(foreign)}, which no saved result lists and this one would replace; "
            "choose another folder, or move the file away"
        )


def _saved(folder: Path) -> set[str]:
    """Names of the tables that the result in `folder` lists as its own."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {f"{name}.parquet" for name in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _clear(folder: Path) -> None:
    """Removes an old result and nothing else; its manifest first, so that a crash leaves none over mixed files."""
    old = _saved(folder)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in old:
        (folder / name).unlink(missing_ok=True)


def _write(path: Path, write: Any) -> None:
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    shutil.move(temporary, path)


def _read(path: Path, digest: str) -> pd.DataFrame:
    if not path.is_file():
        raise DamagedRun(f"{str(path)!r} is missing, the manifest lists it; run the analysis again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise DamagedRun(
            f"{str(path)!r} has changed since it was saved (checksum differs); run the analysis again"
        )
    return pd.read_parquet(path)
