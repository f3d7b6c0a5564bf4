"""One question as a value: injections, prompts, metric, references."""
