# %% [markdown]
# # Who carries " wedding"?
# Run with `python examples/wedding.py`, or cell by cell in an editor that knows `# %%`.

# %%
import steerscope as st

model = st.load("tinystories-2l")
vector = st.steering_vector(model, plus=" wedding", minus=" ", layer=0)
injection = st.Injection(vector, coefficient=3, positions="front")

# %% What it does to a story
prompt = "One day, Lily went for a walk in the town with her mom. They saw"
clean = model.text(st.generate(model, prompt, seed=1))
steered = model.text(st.generate(model, prompt, injection, seed=1))
print("clean:  ", clean)
print("steered:", steered)

# %% Which nodes carry it
prompts = [
    f"{name} {what}"
    for name in ("Lily", "Tom", "Anna", "Ben")
    for what in (
        "went to the park and saw a",
        "looked out of the window and saw",
        "sat in the kitchen and ate a",
        "and his friend walked to the",
    )
]
result = st.localize(model, injection, prompts, references=20)
effects = result.frames["effects"]
print(effects[effects["significant"]].sort_values("effect", key=abs, ascending=False).head(10))

# %% The report
result.save("out/wedding", overwrite=True)
print(st.report("out/wedding"))
