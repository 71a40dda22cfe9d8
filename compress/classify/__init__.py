"""Small classifiers that learn labels, above all a teacher's soft ones.

student     an encoder or a decoder of Hugging Face with its stock classification head
head        the head alone, on frozen features: convex, solved to the optimum
fine_tune   all weights
"""
