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

# %% What can be told, before anything is run
# Story beginnings of many kinds: prompts that share a template would count as one group, however many names it is
# filled with. By default other words and random directions of equal norm ride along.
experiment = st.Experiment(model, injection, st.prompts("off_topic"))
print(*st.cost(experiment).sentences, sep="\n")

# %% Which nodes carry it, and which of them carry this word rather than any
result = st.localize(experiment)
print(*result.summary(), sep="\n")
effects = result.frames["effects"].sort_values("share", ascending=False)
told = effects[effects["verdict"].isin(["specific", "concept"])]
print(told[["node", "measure", "share", "concepts_share", "noise_share", "verdict"]].to_string(index=False))

# %% What random vectors use as well
print(effects.loc[effects["verdict"] == "shared", ["node", "measure", "share", "noise_share"]].to_string(index=False))

# %% The report
result.save("out/wedding", overwrite=True)
print(st.report("out/wedding"))
