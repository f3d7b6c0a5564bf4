"""Which nodes of a story model respond when they get a part of " wedding"? A sweep from Python, and two variations.

python examples/sweep.py [folder]
"""

import sys

import torch

import steerscope as st
from steerscope.analysis.executors.executors import Processes

out = sys.argv[1] if len(sys.argv) > 1 else "out/sweeps"

if __name__ == "__main__":  # worker processes import this file
    model = st.load("tinystories-2l")
    wedding = st.steering_vector(model, plus=" wedding", minus=" ", layer=0)
    prompts = st.windows(model, "shipped", count=60, tokens=25)  # or your own text, or a data set's name

    # Every node gets its own activation difference; horizontal and vertical sets are compared at equal norm.
    result = st.sweep(
        model,
        wedding,
        prompts,
        f"{out}/own",
        trials=4000,
        k=(1, 2),
        design=("horizontal", "vertical"),
        coefficients=(1, 2, 4),
        executor=Processes(2),
    )
    print(result.frames["frontier"].sort_values("effect", ascending=False)[["node", "effect", "efficiency", "verdict"]])

    # The same vector, pushed through each head; scored by how probable wedding words become.
    words = st.log_prob([" wedding", " bride"], against=[" dragon", " ship"])
    st.sweep(model, wedding, prompts, f"{out}/through", trials=2000, mode="through", metric=words)

    # Vectors of your own for some nodes.
    generator = torch.Generator().manual_seed(0)
    own = {"L0H3": torch.randn(32, generator=generator), "L1M": torch.randn(320, generator=generator)}
    result = st.sweep(model, own, prompts, f"{out}/given", trials=400, mode="given", k=(1, 2))
    print(result.frames["nodes"][["node", "outcome", "contribution", "low", "high", "reference", "verdict"]])

    print(st.report(result.save(f"{out}/given/summary", overwrite=True)))
