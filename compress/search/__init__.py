"""Bits where they matter: the format of every tensor, chosen for a budget.

``errors``      what each format does to each tensor's output, by the solver's own sweep on a sample of rows
``fisher``      what an error in a tensor's output does to the model's distribution, from one backward pass
``divergence``  the true KL divergence of a candidate, which calibrates the product of the two, role by role
``allocate``    the exact minimum of the predicted divergence under the budget, by integer programming
``frontier``    the same for many budgets
``choose``      the steps in order, a local search on the true divergence, and random allocations to compare with
``attribute``   afterwards: what each tensor costs as it ships, by the same cost and the same factors
"""
