"""Calibration: the instruments on small models whose latent modes are known."""

from workbench.calibration import view as views
from workbench.shared.view_page import page

with page("Calibration", "What every instrument has to show on models whose truth is planted, and what it shows."):
    report = views.choose_result()
    views.instruments(report)
    views.accuracies(report)
    views.figures(report)
    views.result_downloads(report)
