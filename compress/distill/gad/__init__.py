"""Generative adversarial distillation (GAD): a student learns from answers alone, against a discriminator.

    max_G min_D  E [ -log σ(D(x, y_teacher) - D(x, G(x))) ]

x is a prompt, y_teacher the answer of a teacher of which nothing else is known, G the student, D a copy of the student
with one number for a head. D learns to tell the answers apart, and is the reward of G, which is trained on what it
writes itself. Source: Black-Box On-Policy Distillation of Large Language Models (arXiv 2511.10643).

    config         what it can be told
    pairs          prompts and answers from files
    answers        answers in one block of ids; the student writes some
    losses         the loss of D, the advantages, the loss of G
    discriminator  D
    policy         a step of G
    warm_up        cross-entropy with the teacher's answers, before
    judge          a second D, trained apart, that nobody is trained by
    diversity      of answers
    guards         what ends a training before its time
    adversary      the training
"""
