"""Logit and tuned lenses: what each layer would predict; training, loading, trajectories."""
