# %% [markdown]
# # Is a large coefficient safe?
# Two vectors of the same model: one may be as long as it likes, the other breaks it. Run with `python
# examples/breakdown.py`.

# %%
import steerscope as st

model = st.load("tinystories-2l")
prompts = [
    f"{name} {what}"
    for name in ("Lily", "Tom", "Anna", "Ben")
    for what in (
        "went to the park and saw a big",
        "looked out of the window and saw",
        "sat in the kitchen and ate a",
        "and his friend walked to the",
    )
]

# %% " happy" at the last layer, " wedding" at the first
for word, layer in ((" happy", 1), (" wedding", 0)):
    vector = st.steering_vector(model, plus=word, minus=" ", layer=layer)
    result = st.breakdown(model, st.Injection(vector, coefficient=3), prompts)
    result.save(f"out/breakdown{word.strip()}", overwrite=True)
    page = st.report(f"out/breakdown{word.strip()}")
    safe = result.frames["regimes"].set_index(["regime", "sign"]).loc[("safe", 1), "coefficient"]
    limits = result.frames["limits"].set_index(["outcome", "sign", "seen"])["value"]
    print(
        f"{word} at layer {layer}:",
        f"safe up to {safe:.2g}," if safe == safe else "safe at any coefficient,",
        f"{limits['damage', 1, True]:+.2f} nats of damage at infinity; {page}",
    )
