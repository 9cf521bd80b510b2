"""The calibration ladder: every instrument is judged first on models whose truth is known; that is calibration, never evidence."""
