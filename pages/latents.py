"""Latents: one question's chain of latents, what each holds, and what the answer becomes when some are replaced."""

from workbench.latents import view as views
from workbench.shared.view_page import page

with page("Latents", "A reasoner whose steps are vectors: what each latent holds, and whether the answer is computed from it."):
    reasoner = views.choose_reasoner()
    if reasoner is not None:
        reading = views.read_question(reasoner)
        if reading is not None:
            views.answer_line(reading)
            slot = views.chain(reading)
            views.one_latent(reading, slot)
            views.moved_latent(reading, slot)
            views.replacements(reading, slot)
            views.drawn_runs(reading)
            views.probes(reasoner, reading, slot)
            views.reading_download(reading)
    views.strategies(reasoner)
