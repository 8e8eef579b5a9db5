"""The exercises, one module a chapter; `check("ddpm.q_sample", answer)` finds
`q_sample` in `ddpm.py`.
"""
