"""Defaults that the verbs and the command line share. Nothing is imported: the command line starts fast."""

METHOD = "memit"
EFFICACY = "rewrite/argmax"  # the metric that retention is read from: the new target is the first choice
HALVINGS = 5  # how often `relax` may halve the ridge that a fact was written with
PROBED = 20  # how many of the facts that a change moves most are asked before and after
DRAWS = 16  # sentences that a model drafts for a request, of which some hold a wording
