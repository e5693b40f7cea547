"""Whether the kernels are right on the card at hand. Nobody gets an answer before that is known.

entrance       the only way to a search: checked before, caught where it fails
verdicts       what is believed of each device, and the one warning where it is not
verdict_file   the verdicts that outlive a process
tile_sweep     every tile of a chip, checked and timed: for kernels/tune.py
checks/        what a variant has to pass
"""
