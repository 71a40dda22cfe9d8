"""Synthetic labels: a teacher's calibrated probabilities of a few labels for texts that have none.

task        labels, their verbalizers, the template; prompts as token ids
score       log-probabilities of verbalizers after a prompt
calibrate   what the teacher would say whatever the text, taken off
duplicates  texts that say the same
choose      confident ones, and no more of a class than wanted
"""
