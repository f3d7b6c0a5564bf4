"""What the columns of `dissect` mean."""

from steerscope.analysis.results.schema import Column, Frame, Frames

ROW: Frame = {
    "prompt": Column("number of the prompt, from 0", role="label"),
    "position": Column("position in the prompt, from 0, BOS included", role="axis"),
    "token": Column("the token whose number is explained", role="label"),
    "token_id": Column("its id"),
}
UNIT = "logits, or nats for log_prob"
COLUMNS: Frames = {
    "totals": {
        **ROW,
        "change": Column("steered minus clean, measured by two plain passes", UNIT, "estimate"),
        "clean": Column("in the clean run", "as change"),
        "steered": Column("in the steered run", "as change"),
        "chosen": Column("why it is read: gains, loses (most at its position), target (of the vector), asked"),
        "at": Column("the token that stands at the position"),
        "mass": Column(
            "sum of the absolute last writers (direct, heads, MLPs, final norm): how much cancels", "as change"
        ),
        "parts_mass": Column("sum of the absolute parts", "as change"),
        "gap": Column("sum of the parts minus change: rounding", "as change"),
    },
    "parts": {
        **ROW,
        "part": Column(
            "address: direct; L0H3.ov<-1 (head 3 moves from position 1 what changed there); L0H3.k<-1, L0H3.q (it "
            "looks elsewhere, through the key of position 1, or through its query); L0M<-L0H3 (the MLP, as far as head "
            "3 changed what it reads); L0M.scale (as far as the scale of the norm before it changed); final norm (the "
            "final norm's scale: temperature, not steering). <-others: sources below `share` of the mass",
            role="label",
        ),
        "change": Column("its part of the change; parts add up to it", UNIT, "estimate"),
        "kind": Column("direct, ov, k, q, input, scale, or final norm", role="measure"),
        "writer": Column("the last writer: direct, a head, an MLP, or final norm", role="node"),
        "layer": Column("of the writer; the number of layers for the final norm, missing for direct", role="layer"),
        "sender": Column("of an input of an MLP, who changed what the MLP reads"),
        "source": Column("position from which a head moves it, or whose key changed; -1 where there is none"),
        "source_token": Column("the token that stands there"),
        "interaction": Column(
            "of heads, values with pattern, clean first: D A_ij D v_j. Half of it is in change. It adds up over a "
            "head's ov parts to the same as over its q and k parts; count it once",
            "as change",
        ),
        "clean_first": Column(
            "change less half of the interaction: ov what is moved under the clean pattern, q and k where it looks "
            "under clean values",
            "as change",
        ),
    },
    "paths": {
        **ROW,
        "path": Column("address, read from the logits back to the injection; total is the change itself", role="label"),
        "parent": Column("the path that it is a part of; children add up to their parent"),
        "depth": Column("how many steps below total"),
        "change": Column("sum of all paths that end so", UNIT, "estimate"),
        "share": Column("change over the total's mass (see totals)", role="share"),
    },
    "flow": {
        **ROW,
        "node": Column("head or MLP; direct: what is injected and meets no node", role="node"),
        "layer": Column("of the node; missing for direct", role="layer"),
        "flow": Column(
            "sum of all paths through the node, scales of norms shared out; those of different layers share paths",
            UNIT,
            "estimate",
        ),
        "share": Column("flow over change", role="share"),
    },
    "neurons": {
        **ROW,
        "node": Column("the MLP", role="node"),
        "neuron": Column("its number; -1: all that are not listed", role="label"),
        "change": Column(
            "what it writes differently at the position itself, straight to the logits: of an MLP these add up to its "
            "last-writer row of paths",
            UNIT,
            "estimate",
        ),
        "flow": Column("sum of all paths through it, at all positions, scales shared out", "as change"),
        "clean": Column("what it gives in the clean run, at the position"),
        "steered": Column("in the steered run"),
    },
    "audit": {
        "what": Column(
            "patching: flow against exact patching on the metric, node by node; mlp: an MLP by its inputs, q or k: a "
            "head by who changed its query or keys, against Shapley values",
            role="measure",
        ),
        "node": Column("the node", role="node"),
        "prompt": Column("number of the prompt; -1: mean over those that were audited"),
        "position": Column("position; -1: mean over the scored ones"),
        "token": Column("the token that is read"),
        "player": Column("who changed what the node reads; empty for patching", role="label"),
        "ours": Column("flow, or the split of the node", "logits", "estimate"),
        "reference": Column("mean of necessity and sufficiency, or the Shapley value", "logits", "reference"),
        "necessity": Column("effect lost when the node is set to clean in the steered run", "logits"),
        "sufficiency": Column("effect when it alone is set to steered in the clean run", "logits"),
        "distance": Column("of the node: sum of |ours - reference| over the sum of |reference|"),
        "flagged": Column("distance above 0.25: inputs cancel, others may credit them otherwise", role="verdict"),
        "method": Column("exact, or how many permutations were drawn"),
    },
    "composition": {
        "sender": Column("head of layer 0", role="label"),
        "receiver": Column("head of layer 1", role="node"),
        "channel": Column("q, k or v: through what it is read", role="measure"),
        "score": Column("composition of the weights, |W_receiver W_OV| over the product of both norms (Frobenius)"),
        "score_rank": Column("its rank among all pairs of the channel, 1 the largest"),
        "effect": Column(
            "paths from the sender to the receiver by this channel, all of them, at all positions: mean of the "
            "absolute change over the rows",
            UNIT,
            "estimate",
        ),
        "effect_rank": Column("its rank"),
        "signed": Column("the same, not absolute", "as effect"),
        "disagree": Column("among the first tenth by one of both, and in the lower half by the other", role="verdict"),
    },
    "texts": {
        "prompt": Column("number of the prompt, from 0", role="label"),
        "position": Column("position in the prompt, from 0, BOS included", role="axis"),
        "token": Column("the token that stands there"),
        "injected": Column("whether something is injected there"),
    },
}
