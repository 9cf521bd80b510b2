"""What a library can be written as, beside a bundle."""
