"""GPTAQ-R: second-order rounding onto the exact grids of the shipped formats.

For a linear layer y = W x, with x as the layer will see it behind the tensors that are already quantized and x° as the
original model had it, the codes and scales of Ŵ minimise

    E_t w_t ‖Ŵ x_t - W x°_t‖²                                  w_t = 1 / mean(x_t²): every token counts alike

``target``   the real-valued minimiser W* of that (the asymmetric term), after which the problem is (Ŵ - W*) H (Ŵ - W*)ᵀ
``sweep``    blocks of columns from left to right; the columns to come make up for what a block loses (GPTQ)
``block``    one block: its scale is searched with that very solver inside, not with a proxy of it
``descent``  block by block again, each re-solved exactly given all others; never raises the error
``refit``    all scales of a row at once in closed form
``lattice``  the scales that a format can store: fp16, or integers times a super scale

Sources: Frantar et al., GPTQ (arXiv 2210.17323); Li et al., GPTAQ (arXiv 2504.02692). Where we depart: the asymmetric
term enters once through W* and not column by column; the scale of a block is chosen by the error after rounding and
compensation; tokens are weighted; and everything is optimised on the values that ship, scales rounded.
"""
