"""Codebook: the codes of a run's steps, what each stands for, what they keep, and the codes of one answer."""

from workbench.codebook import view as views
from workbench.codebook import view_answer as answers
from workbench.codebook.view_grid import code_grid
from workbench.shared.view_page import need_run, page

with page("Codebook", "All steps of all rollouts, each described by one of K codes; fitted on some problems and judged on the others."):
    facts = need_run("rollouts")
    book = views.need_codebook(facts)
    views.codebook_head(book)
    read = views.lenses(facts, book)
    code_grid(book, read)
    views.code_card(facts, book, read)
    views.rate_distortion(book)
    views.associations(book)
    answers.answer_strip(facts, book)
    views.codebook_files(facts, book)
